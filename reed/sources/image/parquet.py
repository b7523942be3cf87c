"""Parquet files with the bytes of images, as Hugging Face's datasets keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.errors import ReedError
from reed.extras import pip_install
from reed.sources.image.layouts import Raw

LABELS = ("label", "labels", "cls", "class")
CAPTIONS = ("caption", "text", "txt")


@dataclass(frozen=True)
class _Columns:
    """The names of the columns that matter; empty where there is none."""

    image: str
    label: str
    caption: str

    @property
    def names(self) -> list[str]:
        return [name for name in (self.image, self.label, self.caption) if name]


class Parquet:
    """Rows with an image (binary, or a struct with `bytes`), perhaps a class and a caption.

    The image is the column `image`, or else the only one of such a type; the class the first
    integer column called label, labels, cls or class; the caption the first string column called
    caption, text or txt. A key is the name of the file and the row ("train-00000-of-00256/000017"),
    a stamp the row with the numbers of rows and bytes of the file. Reading one row reads its
    whole row group: groups of about a hundred rows are best.
    """

    classes: list[str] = []

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = {path.stem: path for path in paths}
        self._footers: dict[str, tuple[Any, np.ndarray]] = {}
        self._last: tuple[tuple[str, int] | None, Any] = (None, None)

    @property
    def beside(self) -> tuple[str, ...]:
        """Which of a class and a caption there is a column of."""
        found = {"label": self._columns.label, "caption": self._columns.caption}
        return tuple(entry for entry, column in found.items() if column)

    @cached_property
    def _columns(self) -> _Columns:
        first = next(iter(self._paths))
        schema = self._footer(first)[0].schema.to_arrow_schema()
        return _find_columns(schema, self._paths[first])

    def stamps(self) -> dict[str, str]:
        found = {}
        for stem, path in self._paths.items():
            metadata, _ = self._footer(stem)
            missing = set(self._columns.names) - set(metadata.schema.to_arrow_schema().names)
            if missing:
                problem = f"{path} has no column {min(missing)!r}, the first file does"
                raise ReedError(f"{problem}; name the files of one table with --data")
            of = f"{metadata.num_rows}-{path.stat().st_size}"
            found |= {f"{stem}/{r:06d}": f"{r}/{of}" for r in range(metadata.num_rows)}
        return dict(sorted(found.items()))

    def raw(self, key: str) -> Raw:
        stem, _, row = key.partition("/")
        if stem not in self._paths or not row.isdecimal():
            raise BadSample("not in any of the parquet files")
        path = self._paths[stem]
        starts = self._footer(stem)[1]
        group = int(np.searchsorted(starts, int(row), side="right")) - 1
        if group + 1 >= len(starts):
            raise BadSample(f"{path.name} has {starts[-1]} rows")
        table, place = self._group(stem, group), int(row) - int(starts[group])

        def cell(name: str) -> Any:
            return table.column(name)[place].as_py() if name else None

        image = cell(self._columns.image)
        image = image.get("bytes") if isinstance(image, dict) else image
        if image is None:
            raise BadSample(f"row {row} of {path.name} holds no image bytes, at best a path")
        return Raw(image, cell(self._columns.label), cell(self._columns.caption))

    def _footer(self, stem: str) -> tuple[Any, np.ndarray]:
        """The metadata of a file, and the first row of every row group, then the number of rows."""
        if stem not in self._footers:
            path, parquet = self._paths[stem], _library()
            try:
                metadata = parquet.read_metadata(path)
            except (OSError, ValueError) as error:  # pyarrow's own errors are of these types
                raise ReedError(f"cannot read the parquet file {path}: {error}") from error
            counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            self._footers[stem] = metadata, np.cumsum([0, *counts])
        return self._footers[stem]

    def _group(self, stem: str, group: int) -> Any:
        """One row group as a table; the last one is kept, for the other view of the same row."""
        where, table = self._last
        if where == (stem, group):
            return table
        metadata = self._footer(stem)[0]
        try:
            with _library().ParquetFile(self._paths[stem], metadata=metadata) as file:
                table = file.read_row_group(group, self._columns.names, use_threads=False)
        except (OSError, ValueError) as error:
            raise BadSample(f"row group {group} cannot be read: {error}") from error
        self._last = ((stem, group), table)
        return table


def _find_columns(schema: Any, path: Path) -> _Columns:
    from pyarrow import types

    def holds_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(f.name == "bytes" and holds_bytes(f.type) for f in kind)
        return types.is_binary(kind) or types.is_large_binary(kind)

    def is_text(kind: Any) -> bool:
        return types.is_string(kind) or types.is_large_string(kind)

    def first(names: Sequence[str], fits: Any) -> str:
        fitting = (n for n in names if n in schema.names and fits(schema.field(n).type))
        return next(fitting, "")

    images = [field.name for field in schema if holds_bytes(field.type)]
    if "image" not in images and len(images) != 1:
        have = f"of such a type are {images}" if images else f"its columns are {schema.names}"
        raise ReedError(f"{path} has no image column: call a binary one 'image'; {have}")
    image = "image" if "image" in images else images[0]
    return _Columns(image, first(LABELS, types.is_integer), first(CAPTIONS, is_text))


def _library() -> ModuleType:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ReedError(
            f"parquet files need pyarrow; install it with: {pip_install('images')}"
        ) from error
    return parquet
