"""Classes of samples, from a class file or from a value stored beside the sample."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reed.build.shard import BadSample
from reed.errors import ReedError
from reed.wording import counted

_FORMS = 'write key,label lines (.csv), or {"key": label} or {"labels": [["key", label]]} (.json)'


def read_labels(path: Path) -> dict[str, int] | None:
    """Read the class of every key from a .csv or .json file.

    Returns:
        The class of every key; None for the JSON {"labels": null}, which EDM2's tools write.

    Raises:
        ReedError: The file cannot be read, a label is not an integer of at least 0, or a key has
            two labels. The message names the line or the key.
    """
    if path.suffix.lower() not in (".csv", ".json"):
        raise ReedError(f"{path} is not a class file: {_FORMS}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _json_rows(path, text) if path.suffix.lower() == ".json" else _csv_rows(path, text)
    except (OSError, ValueError, csv.Error) as error:
        raise ReedError(f"cannot read the class file {path}: {error}") from error
    return None if rows is None else _table(path, rows)


def labels_in(where: Path, text: str) -> dict[str, int] | None:
    """Read the class of every key from the text of a .json file, as `read_labels` does.

    Args:
        where: What a message calls the file.
        text: Its content.
    """
    try:
        rows = _json_rows(where, text)
    except (ValueError, RecursionError) as error:
        raise ReedError(f"cannot read the class file {where}: {error}") from error
    return None if rows is None else _table(where, rows)


def _csv_rows(path: Path, text: str) -> Iterable[tuple[Any, Any]]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    for number, row in enumerate(rows):
        if len(row) != 2:
            raise ReedError(
                f"{path}, row {number + 1} has {counted(len(row), 'column')}, not 2; {_FORMS}"
            )
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
    raise ReedError(f"{path} is not a class file: {_FORMS}")


def _table(path: Path, rows: Iterable[tuple[Any, Any]]) -> dict[str, int]:
    labels: dict[str, int] = {}
    for key, value in rows:
        label = _integer(value)
        if label is None or label < 0 or not isinstance(key, str):
            raise ReedError(f"{path}: the label of {key!r} is {value!r}, not an integer from 0 up")
        if labels.setdefault(key, label) != label:
            raise ReedError(f"{path}: {key!r} has two labels, {labels[key]} and {label}")
    return labels


def _integer(value: Any) -> int | None:
    """Return an integer, or text that is one, as an integer; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(value) if isinstance(value, str) else None
    except ValueError:
        return None


def is_name(value: Any) -> bool:
    """Return whether a value beside a sample is the name of a class: text that is not a number."""
    return isinstance(value, str) and bool(value.strip()) and not _is_number(value.strip())


def _is_number(text: str) -> bool:
    """Return whether text is a number in digits; "nan" and "inf" may be names of classes."""
    try:
        float(text)
    except ValueError:
        return False
    return text[-1].isdigit() or text[-1] == "."


def number_of(value: Any) -> int | None:
    """Return the number of the class in a value beside a sample; None for None.

    A whole float counts as an integer, because tables with gaps hold integers as floats.

    Raises:
        BadSample: The value is not an integer.
    """
    number = _integer(value) if isinstance(value, str | int) else None
    if isinstance(value, float) and value.is_integer():
        number = int(value)
    if value is not None and number is None:
        raise BadSample(f"the class beside it is {value!r}, not an integer")
    return number


def name_of(value: Any) -> str | None:
    """Return the name of the class in a value beside a sample; None for None or blank text.

    Raises:
        BadSample: The value is neither text nor an integer.
    """
    if value is None or isinstance(value, str):
        return (value or "").strip() or None
    if type(value) is int:  # bool is a subclass of int, but is not a class
        return str(value)
    raise BadSample(f"the class beside it is {value!r}, not a name")
