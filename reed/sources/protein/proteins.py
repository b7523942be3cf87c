"""Protein chains with known structure: a folder of PDB and mmCIF files, or ProteinMPNN's data."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from reed.build.shard import BadSample
from reed.build.source import Listing
from reed.chem.letters import STANDARD, WAYS
from reed.chem.protein import ATOMS
from reed.chem.structure import ENDINGS, Chain, read_structure
from reed.errors import ReedError
from reed.sources import SOURCES
from reed.sources.protein.mpnn import Mpnn

READING = 2  # how structures are read; a cache that was planned by another is not added to
BETWEEN = 100  # added to the numbers of each further chain, as ProteinMPNN does


@SOURCES.register("proteins")
@dataclass(frozen=True)
class Proteins:
    """Chains of at most one size and resolution, with their sequence and backbone.

    coords: N, CA, C, O in angstroms, float32 [L, 4, 3], NaN where not observed; sequence: L
    letters of ProteinMPNN's alphabet, X for what is none of the 20; number: int32 [L], the
    position in the sequence (reed.chem.structure), plus 100 for each chain before; chain: int32
    [L], which chain; cluster: int, equal for chains of one cluster, or of one sequence where there
    are no clusters; resolution: in angstroms, NaN if unknown.

    data: a folder tree of .pdb, .ent, .cif or .mmcif files (.pdb1 and so on: assemblies), also
    .gz, or the folder of the training data of ProteinMPNN (list.csv, reed.sources.protein.mpnn);
    split: of the latter: train, valid or test; assembly: all chains of a file are one sample, else
    each is one; max_resolution: structures without any, as from NMR, stay; max_x: the largest
    share of X. What these leave out is counted on stderr, and so is a chain without a residue that
    has N, CA, C, O and a letter: there is nothing to learn from it.
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
        if self._is_mpnn and self.assembly:
            raise ReedError(f"{self.data} has one file per chain; leave out source.assembly")
        if self.split and self.data and not self._is_mpnn:
            problem = f"proteins: split is {self.split!r}, but {self.data} has no list.csv"
            raise ReedError(f"{problem} that splits it; leave out source.split")

    @property
    def _is_mpnn(self) -> bool:
        return self.data is not None and (self.data / "list.csv").is_file()

    def listing(self) -> Listing:
        """Every key with the size of its file; unreadable files are kept, to fail with a reason.

        It counts the letters of the samples by how they came, where these are files of structures.
        """
        if self.data is None or not self.data.is_dir():
            at = "" if self.data is None else f", there is none at {self.data}"
            raise ReedError(f"proteins: name a folder of structures with --data{at}")
        passed: dict[str, list[str]] = {}
        letters: Counter[str] = Counter()
        found = self._mpnn.listing(self._problem) if self._is_mpnn else self._scan(passed, letters)
        stamps: dict[str, str] = {}
        out: Counter[str] = Counter()
        for key, stamp, problem in found:
            out[problem] += 1
            if not problem:
                stamps[key] = stamp
        if reasons := ", ".join(f"{count} {name}" for name, count in sorted(out.items()) if name):
            tqdm.write(f"proteins: {len(stamps)} samples; left out: {reasons}", file=sys.stderr)
        told = {way: letters[way] for way in WAYS if letters[way]}
        if set(told) - {STANDARD}:
            ways = ", ".join(f"{count} {way}" for way, count in told.items())
            tqdm.write(f"proteins: letters: {ways}", file=sys.stderr)
        counts = {f"letters: {way}": count for way, count in told.items()}
        return Listing(stamps, passed, counts=counts)

    def read(self, key: str, view: int = 0) -> Mapping[str, Any]:
        """The entries of one chain, or of all chains of a file; BadSample with the reason."""
        if self._is_mpnn:
            chain, cluster, resolution = self._mpnn.read(key)
            return _sample([chain], cluster, resolution)
        assert self.data is not None, "listing() comes before read()"
        if self.assembly or ENDINGS.search(key):
            return whole(self.data / key)
        place, _, name = key.rpartition("/")
        found = read_structure(self.data / place)
        if name in found.unsound:
            raise BadSample(f"{place}: {found.unsound[name]}")
        if name not in found.chains:
            raise BadSample(f"{place} has no chain {name!r}, only {', '.join(found.chains)}")
        chain = found.chains[name]
        return _sample([chain], _by_sequence([chain]), found.resolution)

    @property
    def _mpnn(self) -> Mpnn:
        assert self.data is not None
        return Mpnn(self.data, self.split or "train")

    def _scan(
        self, passed: dict[str, list[str]], letters: Counter[str]
    ) -> Iterator[tuple[str, str, str]]:
        """Key, stamp and what it is left out for of every sample in a folder.

        passed: filled with the files that are none, by reason; letters: with how they came.
        """
        assert self.data is not None
        paths = sorted(path for path in self.data.rglob("*") if path.is_file())
        for path in tqdm(paths, "list structures", unit="file", disable=None):
            place, stamp = (
                path.relative_to(self.data).as_posix(),
                f"{path.stat().st_size}-{READING}",
            )
            if reason := _is_passed(path):
                passed.setdefault(reason, []).append(place)
                continue
            try:
                found = read_structure(path)
            except BadSample:
                yield place, stamp, ""
                continue
            if self.assembly and found.unsound:
                yield place, stamp, ""
                continue
            for name in found.unsound:
                yield f"{place}/{name}", stamp, ""
            chains = list(found.chains.values())
            for each in [chains] if self.assembly else [[chain] for chain in chains]:
                key = place if self.assembly else f"{place}/{each[0].name}"
                sequence = "".join(chain.sequence for chain in each)
                problem = self._problem(sequence, found.resolution)
                if not problem and not any(_designable(chain).any() for chain in each):
                    problem = "without a residue that has N, CA, C, O and a letter"
                if not problem:
                    letters.update(sum((Counter(chain.ways) for chain in each), Counter()))
                yield key, stamp, problem

    def _problem(self, sequence: str, resolution: float) -> str:
        """Which setting leaves a sample out; empty where none does."""
        if resolution > self.max_resolution:  # NaN is not
            return "over max_resolution"
        if len(sequence) < self.min_length:
            return "under min_length"
        if len(sequence) > self.max_length:
            return "over max_length"
        return "over max_x" if sequence.count("X") > self.max_x * len(sequence) else ""


def whole(path: Path) -> dict[str, Any]:
    """The entries of all chains of one file together; BadSample with the reason."""
    found = read_structure(path)
    if found.unsound:
        raise BadSample(f"{path.name}: {next(iter(found.unsound.values()))}")
    chains = list(found.chains.values())
    return _sample(chains, _by_sequence(chains), found.resolution)


def _is_passed(path: Path) -> str:
    """Why a file is no sample; empty where it may be one."""
    if path.name.startswith("."):
        return "hidden"
    if ENDINGS.search(path.name):
        return ""
    return f"ending {path.suffix.lower()}" if path.suffix else "no ending"


def _designable(chain: Chain) -> np.ndarray:
    """The residues that a net learns from and designs, [L]: four atoms, and one of the 20."""
    return np.isfinite(chain.coords).all((1, 2)) & (np.array(list(chain.sequence)) != "X")


def _by_sequence(chains: list[Chain]) -> int:
    """A number that only chains of these sequences have."""
    text = "/".join(chain.sequence for chain in chains)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])


def _sample(chains: list[Chain], cluster: int, resolution: float) -> dict[str, Any]:
    """The entries of a sample; BadSample where no residue of it can be designed."""
    if not any(_designable(chain).any() for chain in chains):
        coords = np.concatenate([chain.coords for chain in chains])
        lacking = np.isnan(coords).any(2).sum(0)
        atoms = [f"{name} of {count}" for name, count in zip(ATOMS, lacking, strict=True) if count]
        missing = f"; {', '.join(atoms)} is missing" if atoms else "; all are X"
        what = f"0 of {len(coords)} residues have N, CA, C, O and a letter"
        raise BadSample(f"nothing to learn or design: {what}{missing}")
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
