"""The source ``proteins``: chains of PDB and mmCIF files, or of ProteinMPNN's training data."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from reed.build.seen import Seen
from reed.build.shard import BadSample
from reed.build.source import Listing
from reed.chem.letters import STANDARD, WAYS
from reed.chem.protein import ATOMS
from reed.chem.structure import ENDINGS, Chain, read_structure
from reed.errors import ReedError
from reed.sources import SOURCES
from reed.sources.protein import found
from reed.sources.protein.mpnn import Mpnn
from reed.wording import counted, named

READING = 2  # version of the reader, part of every stamp: no other version extends a cache
BETWEEN = 100  # added to the numbers of residues for each chain before, as in ProteinMPNN


@SOURCES.register("proteins")
@dataclass(frozen=True)
class Proteins:
    """Protein chains with sequence and backbone, limited in length and resolution.

    Its entries:

    - ``coords``: N, CA, C, O in angstroms, float32 [L, 4, 3]; NaN where not observed.
    - ``sequence``: L letters of ProteinMPNN's alphabet; X for a residue without a letter.
    - ``number``: int32 [L], the position in the sequence (reed.chem.structure), plus 100 for each
      chain before.
    - ``chain``: int32 [L], the index of the chain within the sample.
    - ``cluster``: int, equal for chains of one cluster or, without clusters, of one sequence.
    - ``resolution``: in angstroms; NaN if unknown.

    The numbers of chains that the settings leave out are printed to stderr. Chains without a single
    residue that has N, CA, C, O and a letter are left out, too: nothing can be learned from them.

    Attributes:
        data: A folder tree of .pdb, .ent, .cif or .mmcif files (.pdb1 and so on for assemblies),
            also with .gz; or the folder of ProteinMPNN's training data, which has a list.csv
            (reed.sources.protein.mpnn).
        split: ``train``, ``valid`` or ``test`` of ProteinMPNN's data.
        assembly: Whether all chains of a file are one sample; by default each chain is one.
        max_resolution: Greatest resolution in angstroms. Structures without one, such as those
            from NMR, are kept.
        min_length: Smallest number of residues.
        max_length: Greatest number of residues.
        max_x: Greatest share of X in the sequence.
    """

    data: Path | None = None
    split: str = ""
    assembly: bool = False
    max_resolution: float = 3.5
    min_length: int = 30
    max_length: int = 512
    max_x: float = 0.05

    entries = ("coords", "sequence", "number", "chain", "cluster", "resolution")
    views = 1

    def __post_init__(self) -> None:
        if not 1 <= self.min_length <= self.max_length:
            problem = f"min_length is {self.min_length} and max_length {self.max_length}"
            raise ReedError(f"proteins: {problem}; they must be at least 1 and in this order")

        if not self.max_resolution > 0 or not 0 <= self.max_x <= 1:
            problem = f"max_resolution is {self.max_resolution} and max_x {self.max_x}"
            raise ReedError(f"proteins: {problem}; they must be above 0, and from 0 to 1")

        # Settings that have no effect on the data are refused rather than ignored.
        if self._is_mpnn and self.assembly:
            raise ReedError(f"{self.data} has one file per chain; leave out source.assembly")
        if self.split and self.data and not self._is_mpnn:
            problem = f"proteins: split is {self.split!r}, but {self.data} has no list.csv"
            raise ReedError(f"{problem} that splits it; leave out source.split")

    @property
    def _is_mpnn(self) -> bool:
        return self.data is not None and (self.data / "list.csv").is_file()

    def listing(self) -> Listing:
        """Return every key with its stamp, see `list_with`; every file is parsed."""
        return self.list_with(Seen())

    def list_with(self, seen: Seen) -> Listing:
        """Return every key with a stamp that contains the size of its file.

        Unreadable files are listed, so that they fail with a reason; files without a protein, such
        as those of ions alone, are passed over. For files of structures, the
        letters of all samples are counted by their origin (reed.chem.letters.WAYS).

        Raises:
            ReedError: There is no folder of structures.
        """
        if self.data is None or not self.data.is_dir():
            at = "" if self.data is None else f", there is none at {self.data}"
            raise ReedError(f"proteins: name a folder of structures with --data{at}")

        passed: dict[str, list[str]] = {}
        letters: Counter[str] = Counter()
        if self._is_mpnn:
            listed = self._mpnn.listing(self._problem)
        else:
            seen.begin(self.data, found.reader())
            listed = self._scan(seen, passed, letters)
        stamps: dict[str, str] = {}
        problems: Counter[str] = Counter()
        for key, stamp, problem in listed:
            problems[problem] += 1
            if not problem:
                stamps[key] = stamp

        left_out = ", ".join(
            f"{count:,} {name}" for name, count in sorted(problems.items()) if name
        )
        if left_out:
            tqdm.write(
                f"proteins: {counted(len(stamps), 'sample')}; left out: {left_out}", file=sys.stderr
            )

        # A data set of the 20 standard names alone needs no line.
        origins = {way: letters[way] for way in WAYS if letters[way]}
        if set(origins) - {STANDARD}:
            ways = ", ".join(f"{count:,} {way}" for way, count in origins.items())
            tqdm.write(f"proteins: letters: {ways}", file=sys.stderr)
        counts = {f"letters: {way}": count for way, count in origins.items()}
        if pairs := found.namesakes(stamps):
            shown = named([", ".join(names) for names in pairs])
            problem = f"{counted(len(pairs), 'name')} with several endings ({shown})"
            tqdm.write(
                f"proteins: {problem}: all files are samples; keep one of each structure",
                file=sys.stderr,
            )
            counts["names with several endings"] = len(pairs)
        return Listing(stamps, passed, counts=counts)

    def read(self, key: str, view: int = 0) -> Mapping[str, Any]:
        """Return the entries of one chain, or of all chains of a file.

        Raises:
            BadSample: The file or the chain cannot be read.
        """
        if self._is_mpnn:
            chain, cluster, resolution = self._mpnn.read(key)
            return _sample([chain], cluster, resolution)

        # A key ends in the chain, or in the file: of an assembly, or of one that is unreadable.
        assert self.data is not None, "listing() comes before read()"
        if self.assembly or ENDINGS.search(key):
            return whole(self.data / key)

        path, _, name = key.rpartition("/")
        structure = read_structure(self.data / path)
        if name in structure.unsound:
            raise BadSample(f"{path}: {structure.unsound[name]}")
        if name not in structure.chains:
            raise BadSample(f"{path} has no chain {name!r}, only {', '.join(structure.chains)}")
        chain = structure.chains[name]
        return _sample([chain], _by_sequence([chain]), structure.resolution)

    @property
    def _mpnn(self) -> Mpnn:
        assert self.data is not None
        return Mpnn(self.data, self.split or "train")

    def _scan(
        self, seen: Seen, passed: dict[str, list[str]], letters: Counter[str]
    ) -> Iterator[tuple[str, str, str]]:
        """Yield key, stamp and problem of every sample in a folder of structures.

        Args:
            seen: What was found in the files before.
            passed: Dictionary to which files that are not samples are added, by the reason.
            letters: Counter to which the letters of the samples are added, by their origin.
        """
        assert self.data is not None
        paths = sorted(path for path in self.data.rglob("*") if path.is_file())
        for path in tqdm(paths, "list structures", unit="file", disable=None):
            name, stamp = (
                path.relative_to(self.data).as_posix(),
                f"{path.stat().st_size}-{READING}",
            )
            if reason := found.reason_to_pass(path):
                passed.setdefault(reason, []).append(name)
                continue

            # What cannot be read is listed all the same, so that it fails with its reason.
            file = found.Found(*seen.find(path, name, partial(found.look, path)))
            if not file.is_structure:
                passed.setdefault("without a protein chain", []).append(name)
                continue
            if not file.is_readable or self.assembly and file.unsound:
                yield name, stamp, ""
                continue
            for chain_name in file.unsound:
                yield f"{name}/{chain_name}", stamp, ""

            chains = [found.Counts(*each) for each in file.chains]
            for sample in [chains] if self.assembly else [[chain] for chain in chains]:
                key = name if self.assembly else f"{name}/{sample[0].name}"
                problem = self._left_out(
                    sum(chain.length for chain in sample),
                    sum(chain.unknown for chain in sample),
                    float("nan") if file.resolution is None else file.resolution,
                )
                if not problem and not any(chain.can_be_learned for chain in sample):
                    problem = "without a residue that has N, CA, C, O and a letter"
                if not problem:
                    letters.update(sum((Counter(chain.ways) for chain in sample), Counter()))
                yield key, stamp, problem

    def _problem(self, sequence: str, resolution: float) -> str:
        """Return which setting leaves a sample out; empty if none does."""
        return self._left_out(len(sequence), sequence.count("X"), resolution)

    def _left_out(self, length: int, unknown: int, resolution: float) -> str:
        """Return the same for a length and a number of X."""
        if resolution > self.max_resolution:  # False for NaN
            return "over max_resolution"
        if length < self.min_length:
            return "under min_length"
        if length > self.max_length:
            return "over max_length"
        return "over max_x" if unknown > self.max_x * length else ""


def whole(path: Path) -> dict[str, Any]:
    """Return the entries of all chains of one file as one sample.

    Raises:
        BadSample: The file or one of its chains cannot be read.
    """
    structure = read_structure(path)
    if structure.unsound:
        raise BadSample(f"{path.name}: {next(iter(structure.unsound.values()))}")
    chains = list(structure.chains.values())
    return _sample(chains, _by_sequence(chains), structure.resolution)


def _by_sequence(chains: list[Chain]) -> int:
    """Return a cluster number that depends on the sequences alone."""
    text = "/".join(chain.sequence for chain in chains)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])


def _sample(chains: list[Chain], cluster: int, resolution: float) -> dict[str, Any]:
    """Return the entries of a sample.

    Raises:
        BadSample: No residue of it can be designed.
    """
    if not any(found.designable(chain).any() for chain in chains):
        coords = np.concatenate([chain.coords for chain in chains])
        counts = np.isnan(coords).any(2).sum(0)
        atoms = [f"{name} of {count}" for name, count in zip(ATOMS, counts, strict=True) if count]
        missing = f"; {', '.join(atoms)} is missing" if atoms else "; all are X"
        problem = f"0 of {counted(len(coords), 'residue')} have N, CA, C, O and a letter"
        raise BadSample(f"nothing to learn or design: {problem}{missing}")

    # A gap of BETWEEN tells a net by the numbers alone that a new chain begins.
    numbers, start = [], 0
    for index, chain in enumerate(chains):
        numbers.append(chain.number + start + BETWEEN * index)
        start += int(chain.number[-1]) + 1

    lengths = [len(chain.sequence) for chain in chains]
    return {
        "coords": np.concatenate([chain.coords for chain in chains]),
        "sequence": "".join(chain.sequence for chain in chains),
        "number": np.concatenate(numbers).astype(np.int32),
        "chain": np.repeat(np.arange(len(chains)), lengths).astype(np.int32),
        "cluster": cluster,
        "resolution": resolution,
    }
