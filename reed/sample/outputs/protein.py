"""Files of designs: the sequences for a structure, as FASTA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from reed.sample.outputs.arrays import representations
from reed.sample.sample_set import OUTPUTS, Output, SampleSet, Writer, beside
from reed.sample.sampler import Sampler
from reed.sources.protein.proteins import whole

HASHED = 8  # characters of a structure file's hash in the names of its samples


@OUTPUTS.register("protein")
@dataclass
class ProteinOutput(Output):
    """Designs as OUT.fasta, where "/" separates the chains of a sequence.

    Each structure has its own set of samples. The name of the set contains the name of the file
    and the beginning of its hash, so that files of one name in two folders have different sets.
    The header of a sequence says how it was drawn and which share of the native residues it
    recovers.

    Attributes:
        structure: Paths of .pdb or .cif files.
    """

    structure: tuple[Path, ...] = option(
        (),
        "Structure (.pdb or .cif) to design --num sequences for; may be repeated.",
        metavar="FILE",
    )

    _native: Any = field(default=None, init=False, repr=False)
    _drawn: str = field(default="", init=False, repr=False)
    _sampler: Any = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        """Name of the structure file and the beginning of its hash."""
        (path,) = self.structure
        return f"{_stem(path)}-{_sha256(path)[:HASHED]}"

    def sets(self) -> list[ProteinOutput]:
        """Return one output per structure; files of equal name and content share one."""
        if not self.structure:
            raise ReedError(
                "a run on proteins designs for a structure: name one with --structure FILE"
            )
        outputs = [replace(self, structure=(path,)) for path in self.structure]
        return list({output.name: output for output in outputs}.values())

    def open(self, sampler: Sampler, device: str) -> None:
        """Read the structure."""
        (path,) = self.structure
        self._native = structure_in(path)
        self.recipe = {"structures": [{"name": self._native.name, "sha256": _sha256(path)}]}
        self._drawn, self._sampler = f"step={sampler.step}", sampler

    def sampling(self, options: DesignOptions) -> DesignOptions:
        """Return the options of the domain with the structure to design for."""
        self._drawn += f" {options.name}"
        return replace(options, structures=(self._native,))

    def files(self, out: Path) -> Mapping[Path, Writer]:
        """Return the writers of the sequences and, with guides, of their representations."""
        return {beside(out, ".fasta"): self._write, **representations(out, self._sampler)}

    def _write(self, path: Path, samples: SampleSet) -> None:
        texts = [str(text) for part in samples.parts() for text in part["sequence"]]
        headers = [self._header(number, text) for number, text in enumerate(texts)]
        content = fasta(headers, [by_chain(text, self._native) for text in texts])
        files.write_atomic(path, content.encode())

    def _header(self, number: int, text: str) -> str:
        """Return the header of a design, with its recovery if the structure has known residues."""
        native, counts = self._native, self._native.counts
        name = f"{native.name} design={number} {self._drawn}"
        if not counts.any():
            return name
        same = np.array([ALPHABET.index(letter) for letter in text]) == native.residue
        return f"{name} recovery={same[counts].mean():.4f}"


def structure_in(path: Path) -> Structure:
    """Read the structure in a .pdb, .cif or .mmcif file (also .gz): all chains of its first model.

    Raises:
        ReedError: The file does not exist or holds no protein.
    """
    _exists(path)
    try:
        arrays = whole(path)
    except BadSample as error:
        raise ReedError(f"cannot design for {path}: {error}") from error
    residue = np.array([ALPHABET.index(letter) for letter in arrays["sequence"]])
    return Structure(_stem(path), arrays["coords"], residue, arrays["number"], arrays["chain"])


def by_chain(text: str, structure: Structure) -> str:
    """Return the letters of all chains, with "/" between two chains."""
    ends = np.flatnonzero(np.diff(structure.chain)) + 1
    pairs = zip([0, *ends], [*ends, len(text)], strict=True)
    return "/".join(text[first:last] for first, last in pairs)


def fasta(names: Sequence[str], sequences: Sequence[str]) -> str:
    """Return a FASTA of sequences below their headers, sixty letters per line."""
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
