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
from reed.chem.structure import SUFFIXES, Chain, read_structure
from reed.errors import ReedError
from reed.sources import SOURCES
from reed.sources.protein.mpnn import Mpnn

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

    data: a folder tree of .pdb, .ent, .cif or .mmcif files, also .gz, or the folder of the
    training data of ProteinMPNN (list.csv, reed.sources.protein.mpnn); split: of the latter:
    train, valid or test; assembly: all chains of a file are one sample, else each is one;
    max_resolution: structures without any, as from NMR, stay; max_x: the largest share of X. What
    these leave out is counted on stderr.
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

    def listing(self) -> dict[str, str]:
        """Every key with the size of its file; unreadable files are kept, to fail with a reason."""
        if self.data is None or not self.data.is_dir():
            at = "" if self.data is None else f", there is none at {self.data}"
            raise ReedError(f"proteins: name a folder of structures with --data{at}")
        found = self._mpnn.listing(self._problem) if self._is_mpnn else self._scan()
        stamps: dict[str, str] = {}
        out: Counter[str] = Counter()
        for key, stamp, problem in found:
            out[problem] += 1
            if not problem:
                stamps[key] = stamp
        if reasons := ", ".join(f"{count} {name}" for name, count in sorted(out.items()) if name):
            tqdm.write(f"proteins: {len(stamps)} samples; left out: {reasons}", file=sys.stderr)
        return stamps

    def read(self, key: str, view: int = 0) -> Mapping[str, Any]:
        """The entries of one chain, or of all chains of a file; BadSample with the reason."""
        if self._is_mpnn:
            chain, cluster, resolution = self._mpnn.read(key)
            return _sample([chain], cluster, resolution)
        assert self.data is not None, "listing() comes before read()"
        place, _, name = key.rpartition("/") if not key.endswith(SUFFIXES) else (key, "", "")
        found = read_structure(self.data / place)
        if name and name not in found.chains:
            raise BadSample(f"{place} has no chain {name!r}, only {', '.join(found.chains)}")
        chains = [found.chains[name]] if name else list(found.chains.values())
        if not any(np.isfinite(chain.coords[:, 1]).any() for chain in chains):
            raise BadSample("has no CA atom")
        return _sample(chains, _by_sequence(chains), found.resolution)

    @property
    def _mpnn(self) -> Mpnn:
        assert self.data is not None
        return Mpnn(self.data, self.split or "train")

    def _scan(self) -> Iterator[tuple[str, str, str]]:
        """Key, stamp and what it is left out for of every sample in a folder."""
        assert self.data is not None
        paths = sorted(path for path in self.data.rglob("*") if path.name.endswith(SUFFIXES))
        for path in tqdm(paths, "list structures", unit="file", disable=None):
            place, stamp = path.relative_to(self.data).as_posix(), str(path.stat().st_size)
            try:
                found = read_structure(path)
            except BadSample:
                yield place, stamp, ""
                continue
            chains = list(found.chains.values())
            for each in [chains] if self.assembly else [[chain] for chain in chains]:
                key = place if self.assembly else f"{place}/{each[0].name}"
                sequence = "".join(chain.sequence for chain in each)
                yield key, stamp, self._problem(sequence, found.resolution)

    def _problem(self, sequence: str, resolution: float) -> str:
        """Which setting leaves a sample out; empty where none does."""
        if resolution > self.max_resolution:  # NaN is not
            return "over max_resolution"
        if len(sequence) < self.min_length:
            return "under min_length"
        if len(sequence) > self.max_length:
            return "over max_length"
        return "over max_x" if sequence.count("X") > self.max_x * len(sequence) else ""


def _by_sequence(chains: list[Chain]) -> int:
    """A number that only chains of these sequences have."""
    text = "/".join(chain.sequence for chain in chains)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])


def _sample(chains: list[Chain], cluster: int, resolution: float) -> dict[str, Any]:
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
