"""Files beside QM9's gdb9.sdf: the molecules that changed when relaxed, and MiDi's split."""

from __future__ import annotations

import csv
from pathlib import Path

from reed.errors import ReedError

NAMES, OMITTED = ("gdb9.sdf", "gdb9.sdf.gz"), "uncharacterized.txt"
# MiDi (https://github.com/cvignac/MiDi) cuts gdb9.sdf.csv into these: 100,000, the rest, a tenth
SPLITS = {"train": "train.csv", "valid": "val.csv", "test": "test.csv"}


def is_companion(path: Path) -> bool:
    """Return whether a file only describes an SDF file beside it."""
    described = path.with_suffix("")
    if path.suffix.lower() == ".csv" and described.suffix.lower() == ".sdf":
        return any(described.with_name(described.name + end).is_file() for end in ("", ".gz"))
    if path.name not in (OMITTED, *SPLITS.values()):
        return False
    return any(path.with_name(name).is_file() for name in NAMES)


def omitted(path: Path) -> frozenset[int]:
    """Return the entries, from 0, that QM9 calls uncharacterized; none for other files."""
    listed = path.with_name(OMITTED)
    if path.name not in NAMES or not listed.is_file():
        return frozenset()
    words = (line.split() for line in listed.read_text(errors="replace").splitlines())
    return frozenset(int(w[0]) - 1 for w in words if len(w) > 1 and w[0].isdecimal())


def splits(path: Path) -> dict[int, str]:
    """Return entry, from 0, -> split; empty without MiDi's tables beside a gdb9.sdf."""
    sides: dict[int, str] = {}
    for split, name in SPLITS.items():
        listed = path.with_name(name)
        if path.name in NAMES and listed.is_file():
            sides |= dict.fromkeys(_entries(listed), split)
    return sides


def _entries(path: Path) -> list[int]:
    """Return the entries, from 0, that a table names by ``gdb_NUMBER`` in its ``mol_id``."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [int(row["mol_id"].removeprefix("gdb_")) - 1 for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, AttributeError, csv.Error) as error:
        raise ReedError(f"{path} is no part of gdb9.sdf.csv: {error!r}") from error
