"""Parquet files with the bytes of images, in the form of Hugging Face's datasets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.errors import ReedError
from reed.extras import pip_install
from reed.sources.image import parquet_columns
from reed.sources.image.labels import is_name, name_of, number_of
from reed.sources.image.layouts import EMPTY, Found, Raw
from reed.sources.image.parquet_columns import Columns

_READERS = 16  # threads that read the footers of many files


class Parquet:
    """Rows with an image (binary, or a struct with ``bytes``), and perhaps a class and a caption.

    Which column is which:

    - The image is the column ``image``, or else the only column of such a type.
    - The class is the column that ``label`` names. By default it is the column called label,
      labels, cls or class, or else the only column whose name ends in one of these. It holds
      integers or names.
    - The caption is the first column of text called caption, text or txt.
    - A class or caption without a column is read from JSON in a column called json.

    A key is the name of the file and the number of the row ("train-00000-of-00256/000017"). A
    stamp is that number with the numbers of rows and of bytes of the file. Reading one row reads
    its whole row group, so groups of about a hundred rows are best.

    Args:
        paths: The files.
        label: Column, or entry of the JSON, that holds the class; empty to find it by its name.
    """

    unlabelled = "has no class beside it, the first image has"

    def __init__(self, paths: Sequence[Path], label: str = "") -> None:
        self._paths = {path.stem: path for path in paths}
        if len(self._paths) < len(paths):
            raise ReedError(f"two files are called {paths[0].stem} but for the ending; rename one")
        self._footers: dict[str, tuple[Any, np.ndarray]] = {}
        self._last: tuple[tuple[str, int] | None, Any] = (None, None)
        self._asked = label

    @property
    def beside(self) -> tuple[str, ...]:
        """Which of the entries ``label`` and ``caption`` the data has."""
        available = {"label": self._columns.label, "caption": self._columns.caption}
        if self._columns.about:
            available = {
                entry: column or self._about(entry) is not None
                for entry, column in available.items()
            }
        return tuple(entry for entry, is_there in available.items() if is_there)

    @cached_property
    def _columns(self) -> Columns:
        first = next(iter(self._paths))
        return parquet_columns.find(self._schema(first), self._paths[first], self._asked)

    @cached_property
    def _first_about(self) -> dict[str, Any]:
        """The JSON of the first row."""
        return next((_table(cell) for cell in self._cells(self._columns.about)), {})

    def _about(self, entry: str) -> Any:
        """Return the class or the caption in the JSON of the first row; None if it has none."""
        return self._first_about.get(self._asked or entry if entry == "label" else entry)

    @cached_property
    def is_named(self) -> bool:
        """Whether a class is text that is not an integer."""
        column = self._columns.label
        if column and self._columns.kinds[column] != "text":
            return False
        return any(is_name(value) for value in self._labels())

    def names(self) -> Sequence[str]:
        if self.is_named:
            return sorted({name for value in self._labels() if (name := _name(value))})
        first = next(iter(self._paths))
        return parquet_columns.named(self._schema(first), self._columns.label)

    def _labels(self) -> Iterator[Any]:
        """Yield the class of every row as it is written; no other column is read."""
        if self._columns.label:
            yield from self._cells(self._columns.label)
        elif self._columns.about:
            for cell in self._cells(self._columns.about):
                try:
                    yield _table(cell).get(self._asked or "label")
                except BadSample:  # reported when the sample is read
                    continue

    def _cells(self, column: str) -> Iterator[Any]:
        """Yield every value of a column, of all files in their order."""
        for path in self._paths.values():
            try:
                with _library().ParquetFile(path) as file:
                    for batch in file.iter_batches(columns=[column]):
                        yield from batch.column(0).to_pylist()
            except (OSError, ValueError) as error:
                raise ReedError(f"cannot read column {column!r} of {path}: {error}") from error

    def found(self) -> Found:
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(self._footer, self._paths))
        stamps: dict[str, str] = {}
        empty: list[str] = []
        first, *others = ((path, self._schema(stem)) for stem, path in self._paths.items())
        for other in others:
            parquet_columns.compare(first, other, self._columns)
        for stem, path in self._paths.items():
            rows = self._footer(stem)[0].num_rows
            if not rows:
                empty.append(path.name)
            content = f"{rows}-{path.stat().st_size}"
            stamps |= {f"{stem}/{r:06d}": f"{r}/{content}" for r in range(rows)}
        return Found(dict(sorted(stamps.items())), {EMPTY: empty} if empty else {})

    def raw(self, key: str) -> Raw:
        stem, _, row = key.partition("/")
        if stem not in self._paths or not row.isdecimal():
            raise BadSample("not in any of the parquet files")

        # Row groups are the smallest unit that can be read.
        path = self._paths[stem]
        starts = self._footer(stem)[1]
        group = int(np.searchsorted(starts, int(row), side="right")) - 1
        if group + 1 >= len(starts):
            raise BadSample(f"row {row} does not exist: {path.name} has {starts[-1]} rows")
        table, offset = self._group(stem, group), int(row) - int(starts[group])
        columns = self._columns

        def cell(name: str) -> Any:
            return table.column(name)[offset].as_py() if name else None

        image = cell(columns.image)
        image = image.get("bytes") if isinstance(image, dict) else image
        if image is None:
            raise BadSample(f"row {row} of {path.name} holds no image bytes, at best a path")

        json_table = _table(cell(columns.about)) if columns.about else {}
        label = cell(columns.label) if columns.label else json_table.get(self._asked or "label")
        caption = cell(columns.caption) if columns.caption else json_table.get("caption")
        if columns.kinds.get(columns.label) == "true or false" and label is not None:
            label = int(label)
        parse = name_of if self.is_named else number_of
        return Raw(image, parse(label), caption if isinstance(caption, str) else None)

    def _schema(self, stem: str) -> Any:
        return self._footer(stem)[0].schema.to_arrow_schema()

    def _footer(self, stem: str) -> tuple[Any, np.ndarray]:
        """Return the metadata of a file, and the first row of every row group and the end."""
        if stem not in self._footers:
            path, parquet = self._paths[stem], _library()
            try:
                metadata = parquet.read_metadata(path)
            except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
                raise ReedError(f"cannot read the parquet file {path}: {error}") from error
            counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            self._footers[stem] = metadata, np.cumsum([0, *counts])
        return self._footers[stem]

    def _group(self, stem: str, group: int) -> Any:
        """Read one row group as a table; the last one is kept for the next row of the group."""
        last, table = self._last
        if last == (stem, group):
            return table
        metadata = self._footer(stem)[0]
        try:
            with _library().ParquetFile(self._paths[stem], metadata=metadata) as file:
                table = file.read_row_group(group, self._columns.names, use_threads=False)
        except (OSError, ValueError) as error:
            raise BadSample(f"row group {group} cannot be read: {error}") from error
        self._last = ((stem, group), table)
        return table


def _name(value: Any) -> str | None:
    """Return the name of a class; None for a value that is not one."""
    try:
        return name_of(value)
    except BadSample:  # reported when the sample is read
        return None


def _table(cell: Any) -> dict[str, Any]:
    """Return the table in a cell of JSON, or of a struct; empty for another value."""
    try:
        table = json.loads(cell) if isinstance(cell, str) else cell
    except (ValueError, RecursionError) as error:
        raise BadSample(f"the JSON beside it does not parse: {error}") from error
    return table if isinstance(table, dict) else {}


def _library() -> ModuleType:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ReedError(
            f"parquet files need pyarrow; install it with: {pip_install('images')}"
        ) from error
    return parquet
