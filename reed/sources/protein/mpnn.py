"""ProteinMPNN's training data (pdb_2021aug02): list.csv, lists of clusters, one .pt per chain.

Source: Dauparas et al., 2022, https://github.com/dauparas/ProteinMPNN, training/README.md.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.chem.protein import ALPHABET, ATOMS
from reed.chem.structure import Chain
from reed.errors import ReedError, suggest
from reed.weights import read

SPLITS = ("train", "valid", "test")
COLUMNS = ("CHAINID", "RESOLUTION", "CLUSTER", "SEQUENCE")


@dataclass(frozen=True)
class Row:
    """One line of list.csv; resolution: in angstroms, NaN where there is none."""

    cluster: int
    resolution: float
    sequence: str


@dataclass(frozen=True)
class Mpnn:
    """The chains of one split: those of the clusters that valid_clusters.txt lists, that
    test_clusters.txt lists, or that neither does (train). Keys are CHAINIDs ("5naf_A").
    """

    data: Path
    split: str

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            hint = suggest(self.split, SPLITS)
            raise ReedError(f"proteins: there is no split {self.split!r}.{hint}")

    def listing(self, problem: Callable[[str, float], str]) -> Iterator[tuple[str, str, str]]:
        """Key, stamp and what it is left out for, of every chain of the split; opens no file."""
        for key, row in self._rows.items():
            path = self._path(key)
            size = path.stat().st_size if path.is_file() else -1
            reason = "without a .pt file" if size < 0 else problem(row.sequence, row.resolution)
            yield key, f"{size}-{row.cluster}", reason

    def read(self, key: str) -> tuple[Chain, int, float]:
        """The chain, its cluster and its resolution; BadSample with the reason."""
        row, path = self._rows.get(key), self._path(key)
        if row is None or not path.is_file():
            raise BadSample("not in list.csv" if row is None else f"there is no {path.name}")
        try:
            found = read(path)
        except ReedError as error:
            raise BadSample(str(error)) from error
        sequence, coords = found.get("seq"), getattr(found.get("xyz"), "shape", ())
        right = isinstance(sequence, str) and len(coords) == 3 and coords[1:] == (14, 3)
        if not right or coords[0] != len(sequence) or not sequence:
            problem = f"xyz is {list(coords)}, seq {sequence!r:.20}"
            raise BadSample(f"{path.name}: {problem}; expected [L, 14, 3] and L letters")
        atoms = found["xyz"].float().numpy()[:, : len(ATOMS)].copy()  # the first are N, CA, C, O
        if np.isinf(atoms).any() or not np.isfinite(atoms[:, 1]).any():
            raise BadSample(f"{path.name}: no CA atom, or coordinates that are infinite")
        atoms[~np.isfinite(atoms).all(2)] = np.nan
        letters = "".join(letter if letter in ALPHABET else "X" for letter in sequence)
        number = np.arange(len(letters), dtype=np.int32)
        chain = Chain(key.rpartition("_")[2], letters, atoms, number)
        return chain, row.cluster, row.resolution

    def _path(self, key: str) -> Path:
        return self.data / "pdb" / key[1:3] / f"{key}.pt"

    @property
    def _rows(self) -> Mapping[str, Row]:
        return _table(self.data).split(self.split)


@dataclass(frozen=True)
class _Table:
    rows: dict[str, Row]
    held_out: dict[str, frozenset[int]]

    @cached_property
    def _splits(self) -> dict[str, dict[str, Row]]:
        found: dict[str, dict[str, Row]] = {split: {} for split in SPLITS}
        for key, row in self.rows.items():
            held = [name for name, clusters in self.held_out.items() if row.cluster in clusters]
            found[held[0] if held else "train"][key] = row
        return found

    def split(self, name: str) -> dict[str, Row]:
        """The rows of one split."""
        return self._splits[name]


def _table(data: Path) -> _Table:
    return _open(data, (data / "list.csv").stat().st_mtime_ns)


@lru_cache(maxsize=1)  # per process: a source that was sent to another one opens its data there
def _open(data: Path, changed: int) -> _Table:
    path = data / "list.csv"
    try:
        rows = _rows(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReedError(f"cannot read {path}: {error}") from error
    held_out = {name: _clusters(data / f"{name}_clusters.txt") for name in ("valid", "test")}
    if both := held_out["valid"] & held_out["test"]:
        raise ReedError(f"{data}: cluster {min(both)} is both in valid and in test_clusters.txt")
    return _Table(rows, held_out)


def _rows(path: Path) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    with open(path, encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        if missing := set(COLUMNS) - set(lines.fieldnames or ()):
            raise ReedError(f"{path} lacks the columns {', '.join(sorted(missing))}")
        for line in lines:
            key, row = _row(path, lines.line_num, line)
            if rows.setdefault(key, row) != row:
                raise ReedError(f"{path}, line {lines.line_num}: {key!r} is there twice")
    return rows


def _row(path: Path, number: int, line: Mapping[str, Any]) -> tuple[str, Row]:
    try:
        key, resolution = line["CHAINID"], float(line["RESOLUTION"] or "nan")
        known = resolution if math.isfinite(resolution) and resolution > 0 else math.nan
        if len(key) < 3 or {"/", "\\", ".."} & {*key, key[1:3]}:
            raise ValueError(f"CHAINID {key!r}")
        return key, Row(int(line["CLUSTER"]), known, line["SEQUENCE"])
    except (TypeError, ValueError) as error:
        raise ReedError(f"{path}, line {number} is no chain: {error}") from error


def _clusters(path: Path) -> frozenset[int]:
    try:
        return frozenset(int(word) for word in path.read_text(encoding="utf-8").split())
    except (OSError, ValueError) as error:
        raise ReedError(f"cannot read {path}, which says what is held out: {error}") from error
