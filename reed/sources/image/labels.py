"""What says which class a sample is of: a file of classes, or a value beside the sample."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reed.build.shard import BadSample
from reed.errors import ReedError

_FORMS = 'write key,label lines (.csv), or {"key": label} or {"labels": [["key", label]]} (.json)'


def read_labels(path: Path) -> dict[str, int] | None:
    """Key -> class of a .csv or .json file; None for the JSON {"labels": null} of EDM2's tools.

    ReedError naming the line or key when a label is no integer of 0 or more, or a key has two.
    """
    if path.suffix.lower() not in (".csv", ".json"):
        raise ReedError(f"{path} is no class file: {_FORMS}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _json_rows(path, text) if path.suffix.lower() == ".json" else _csv_rows(path, text)
    except (OSError, ValueError, csv.Error) as error:
        raise ReedError(f"cannot read the class file {path}: {error}") from error
    return None if rows is None else _table(path, rows)


def _csv_rows(path: Path, text: str) -> Iterable[tuple[Any, Any]]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    for number, row in enumerate(rows):
        if len(row) != 2:
            raise ReedError(f"{path}, row {number + 1} has {len(row)} columns, not 2; {_FORMS}")
    is_header = bool(rows) and _integer(rows[0][1]) is None
    return [(key, label) for key, label in rows[is_header:]]


def _json_rows(path: Path, text: str) -> Iterable[tuple[Any, Any]] | None:
    table = json.loads(text)
    if isinstance(table, dict) and set(table) == {"labels"}:
        table = table["labels"]
        if table is None:
            return None
    if isinstance(table, dict):
        return table.items()
    if isinstance(table, list) and all(isinstance(r, list) and len(r) == 2 for r in table):
        return [(key, label) for key, label in table]
    raise ReedError(f"{path} is no class file: {_FORMS}")


def _table(path: Path, rows: Iterable[tuple[Any, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, value in rows:
        label = _integer(value)
        if label is None or label < 0 or not isinstance(key, str):
            raise ReedError(f"{path}: the label of {key!r} is {value!r}, not an integer from 0 up")
        if found.setdefault(key, label) != label:
            raise ReedError(f"{path}: {key!r} has two labels, {found[key]} and {label}")
    return found


def _integer(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(value) if isinstance(value, str) else None
    except ValueError:
        return None


def is_name(value: Any) -> bool:
    """Whether a value beside a sample is the name of a class: text that is no integer."""
    return isinstance(value, str) and bool(value.strip()) and _integer(value) is None


def number_of(value: Any) -> int | None:
    """The class in a value beside a sample; BadSample where it is no integer, None without one.

    A float is one where it is whole: tables with gaps hold integers as floats.
    """
    number = _integer(value) if isinstance(value, str | int) else None
    if isinstance(value, float) and value.is_integer():
        number = int(value)
    if value is not None and number is None:
        raise BadSample(f"the class beside it is {value!r}, not an integer")
    return number


def name_of(value: Any) -> str | None:
    """The name of the class in a value beside a sample; BadSample where it is none."""
    if value is None or isinstance(value, str):
        return (value or "").strip() or None
    if type(value) is int:  # true is none
        return str(value)
    raise BadSample(f"the class beside it is {value!r}, not a name")
