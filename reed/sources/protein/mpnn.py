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
    """One line of list.csv.

    Attributes:
        cluster: Number of the cluster of the sequence.
        resolution: Resolution in angstroms; NaN if unknown.
        sequence: Sequence of the chain.
    """

    cluster: int
    resolution: float
    sequence: str


@dataclass(frozen=True)
class Mpnn:
    """The chains of one split; keys are CHAINIDs ("5naf_A").

    The split ``valid`` has the clusters in valid_clusters.txt, ``test`` those in
    test_clusters.txt, and ``train`` all others.

    Attributes:
        data: The folder of list.csv.
        split: ``train``, ``valid`` or ``test``.
    """

    data: Path
    split: str

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            hint = suggest(self.split, SPLITS)
            raise ReedError(f"proteins: there is no split {self.split!r}.{hint}")

    def listing(self, problem: Callable[[str, float], str]) -> Iterator[tuple[str, str, str]]:
        """Yield key, stamp and problem of every chain of the split, without opening its file.

        Args:
            problem: Function of sequence and resolution that returns why a chain is left out, or
                an empty string.
        """
        for key, row in self._rows.items():
            path = self._path(key)
            size = path.stat().st_size if path.is_file() else -1
            reason = "without a .pt file" if size < 0 else problem(row.sequence, row.resolution)
            yield key, f"{size}-{row.cluster}", reason

    def read(self, key: str) -> tuple[Chain, int, float]:
        """Read a chain, its cluster and its resolution.

        Raises:
            BadSample: There is no such chain, or its file is damaged.
        """
        row, path = self._rows.get(key), self._path(key)
        if row is None or not path.is_file():
            raise BadSample("not in list.csv" if row is None else f"there is no {path.name}")
        try:
            content = read(path, finite=False)  # atoms that were not resolved are NaN
        except ReedError as error:
            raise BadSample(str(error)) from error

        sequence, shape = content.get("seq"), getattr(content.get("xyz"), "shape", ())
        is_chain = isinstance(sequence, str) and len(shape) == 3 and shape[1:] == (14, 3)
        if not is_chain or shape[0] != len(sequence) or not sequence:
            problem = f"xyz is {list(shape)}, seq {sequence!r:.20}"
            raise BadSample(f"{path.name}: {problem}; expected [L, 14, 3] and L letters")

        atoms = content["xyz"].float().numpy()[:, : len(ATOMS)].copy()  # first are N, CA, C, O
        if np.isinf(atoms).any() or not np.isfinite(atoms[:, 1]).any():
            raise BadSample(f"{path.name}: no CA atom, or coordinates that are infinite")
        atoms[~np.isfinite(atoms).all(2)] = np.nan  # an atom is observed as a whole or not at all

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
    """The content of list.csv, and the clusters of ``valid`` and ``test``."""

    rows: dict[str, Row]
    held_out: dict[str, frozenset[int]]

    @cached_property
    def _splits(self) -> dict[str, dict[str, Row]]:
        splits: dict[str, dict[str, Row]] = {split: {} for split in SPLITS}
        for key, row in self.rows.items():
            held = [name for name, clusters in self.held_out.items() if row.cluster in clusters]
            splits[held[0] if held else "train"][key] = row
        return splits

    def split(self, name: str) -> dict[str, Row]:
        """Return the rows of one split by key."""
        return self._splits[name]


def _table(data: Path) -> _Table:
    """Return the table of a folder; it is read again when list.csv has changed."""
    return _open(data, (data / "list.csv").stat().st_mtime_ns)


@lru_cache(maxsize=1)  # per process: a source that is sent to another process opens its data there
def _open(data: Path, changed: int) -> _Table:
    path = data / "list.csv"
    try:
        rows = _rows(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReedError(f"cannot read {path}: {error}") from error
    held_out = {name: _clusters(data / f"{name}_clusters.txt") for name in ("valid", "test")}
    if both := held_out["valid"] & held_out["test"]:
        raise ReedError(
            f"{data}: cluster {min(both)} is in valid_clusters.txt and in test_clusters.txt"
        )
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
                raise ReedError(
                    f"{path}, line {lines.line_num}: {key!r} is listed twice, with different values"
                )
    return rows


def _row(path: Path, number: int, line: Mapping[str, Any]) -> tuple[str, Row]:
    """Parse one line of list.csv.

    Raises:
        ReedError: A value is missing or no number, or the key would be an unsafe path.
    """
    try:
        key, resolution = line["CHAINID"], float(line["RESOLUTION"] or "nan")
        known = resolution if math.isfinite(resolution) and resolution > 0 else math.nan
        if len(key) < 3 or {"/", "\\", ".."} & {*key, key[1:3]}:
            raise ValueError(f"CHAINID {key!r}")
        return key, Row(int(line["CLUSTER"]), known, line["SEQUENCE"])
    except (TypeError, ValueError) as error:
        raise ReedError(f"{path}, line {number} is not a chain: {error}") from error


def _clusters(path: Path) -> frozenset[int]:
    try:
        return frozenset(int(word) for word in path.read_text(encoding="utf-8").split())
    except (OSError, ValueError) as error:
        raise ReedError(f"cannot read {path}, which lists held-out clusters: {error}") from error
