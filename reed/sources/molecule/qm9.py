"""What stands beside QM9's gdb9.sdf: molecules that changed when relaxed, and MiDi's split."""

from __future__ import annotations

import csv
from pathlib import Path

from reed.errors import ReedError

NAME, OMITTED = "gdb9.sdf", "uncharacterized.txt"
# MiDi (https://github.com/cvignac/MiDi) cuts gdb9.sdf.csv into these: 100,000, the rest, a tenth
SPLITS = {"train": "train.csv", "valid": "val.csv", "test": "test.csv"}


def is_companion(path: Path) -> bool:
    """Whether a table only tells of an SDF beside it."""
    table = path.with_suffix("")
    if path.suffix.lower() == ".csv" and table.suffix.lower() == ".sdf" and table.is_file():
        return True
    return path.name in (OMITTED, *SPLITS.values()) and path.with_name(NAME).is_file()


def omitted(path: Path) -> frozenset[int]:
    """The entries that QM9 calls uncharacterized, from 0; of another file none."""
    listed = path.with_name(OMITTED)
    if path.name != NAME or not listed.is_file():
        return frozenset()
    words = (line.split() for line in listed.read_text(errors="replace").splitlines())
    return frozenset(int(w[0]) - 1 for w in words if len(w) > 1 and w[0].isdecimal())


def splits(path: Path) -> dict[int, str]:
    """The split of each entry, from 0; of none where no tables stand beside gdb9.sdf."""
    found = {}
    for split, name in SPLITS.items():
        listed = path.with_name(name)
        if path.name == NAME and listed.is_file():
            found |= dict.fromkeys(_entries(listed), split)
    return found


def _entries(path: Path) -> list[int]:
    """The entries that a table names, from 0, by the numbers behind "gdb_" in its mol_id."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [int(row["mol_id"].removeprefix("gdb_")) - 1 for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, AttributeError, csv.Error) as error:
        raise ReedError(f"{path} is no part of gdb9.sdf.csv: {error!r}") from error
