"""Designs: sequences for the structure in a file, as FASTA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.bytes import file_sha256
from reed.cache import files
from reed.chem.protein import ALPHABET
from reed.chem.structure import ENDINGS
from reed.config import option
from reed.domains.protein import DesignOptions, Structure
from reed.errors import ReedError
from reed.sample.sample_set import OUTPUTS, Output, SampleSet, beside
from reed.sample.sampler import Sampler
from reed.sources.protein.proteins import whole

HASHED = 8  # characters of a file's hash that tell it from others of its name


@OUTPUTS.register("protein")
@dataclass
class ProteinOutput(Output):
    """Designs as OUT.fasta: the chains of a sequence are separated by "/".

    structure: .pdb or .cif files; each has a set of its own, whose name has the file's and the
    beginning of its hash, so that files of one name in two folders do not meet. The name of a
    sequence tells how it was drawn and what it recovers of the letters that the file has.
    """

    structure: tuple[Path, ...] = option(
        (),
        "Structure (.pdb or .cif) to design --num sequences for; may be repeated.",
        metavar="FILE",
    )

    _native: Any = field(default=None, init=False, repr=False)
    _drawn: str = field(default="", init=False, repr=False)

    @property
    def name(self) -> str:
        """The structure."""
        (path,) = self.structure
        return f"{_stem(path)}-{_sha256(path)[:HASHED]}"

    def sets(self) -> list[ProteinOutput]:
        """One for each structure; the same content twice is one set."""
        if not self.structure:
            raise ReedError(
                "a run on proteins designs for a structure: name one with --structure FILE"
            )
        each = [replace(self, structure=(path,)) for path in self.structure]
        return list({one.name: one for one in each}.values())

    def open(self, sampler: Sampler, device: str) -> None:
        """Read the structure."""
        (path,) = self.structure
        self._native = structure_in(path)
        self.recipe = {"structures": [{"name": self._native.name, "sha256": _sha256(path)}]}
        self._drawn = f"step={sampler.step}"

    def sampling(self, options: DesignOptions) -> DesignOptions:
        """With the structure to design for."""
        self._drawn += f" {options.name}"
        return replace(options, structures=(self._native,))

    def files(self, out: Path) -> Mapping[Path, Callable[[Path, SampleSet], None]]:
        """The sequences."""
        return {beside(out, ".fasta"): self._write}

    def _write(self, path: Path, samples: SampleSet) -> None:
        texts = [str(text) for part in samples.parts() for text in part["sequence"]]
        names = [self._headed(number, text) for number, text in enumerate(texts)]
        content = fasta(names, [by_chain(text, self._native) for text in texts])
        files.write_atomic(path, content.encode())

    def _headed(self, number: int, text: str) -> str:
        """The name of a design, and what it recovers where there is something to recover."""
        native, counts = self._native, self._native.counts
        name = f"{native.name} design={number} {self._drawn}"
        if not counts.any():
            return name
        same = np.array([ALPHABET.index(letter) for letter in text]) == native.residue
        return f"{name} recovery={same[counts].mean():.4f}"


def structure_in(path: Path) -> Structure:
    """The structure of a .pdb, .cif or .mmcif file (also .gz): all chains of its first model.

    Raises ReedError when there is no such file, or no protein in it.
    """
    _exists(path)
    try:
        found = whole(path)
    except BadSample as error:
        raise ReedError(f"cannot design for {path}: {error}") from error
    residue = np.array([ALPHABET.index(letter) for letter in found["sequence"]])
    return Structure(_stem(path), found["coords"], residue, found["number"], found["chain"])


def by_chain(text: str, structure: Structure) -> str:
    """The letters of all chains, with "/" between two."""
    ends = np.flatnonzero(np.diff(structure.chain)) + 1
    pairs = zip([0, *ends], [*ends, len(text)], strict=True)
    return "/".join(text[first:last] for first, last in pairs)


def fasta(names: Sequence[str], sequences: Sequence[str]) -> str:
    """Sequences under their names, sixty letters to a line."""
    lines = []
    for name, sequence in zip(names, sequences, strict=True):
        lines += [f">{name}", *(sequence[i : i + 60] for i in range(0, len(sequence), 60))]
    return "\n".join(lines) + "\n"


def _stem(path: Path) -> str:
    return ENDINGS.sub("", path.name)


def _sha256(path: Path) -> str:
    _exists(path)
    return file_sha256(path)


def _exists(path: Path) -> None:
    if not path.is_file():
        raise ReedError(f"no structure at {path}")
