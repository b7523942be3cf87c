"""The samples of a cache as the rows of a table: one column per field, named "column.field"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from reed.cache import reader, verify
from reed.cache.opened import Cache
from reed.cache.schema import Column, Field, shard_path
from reed.errors import ReedError, suggest

Row = dict[str, Any]

DTYPES = ("float32", "float16")  # of the decoded values
BLOCK_BYTES, BLOCK_ROWS = 16 << 20, 1024  # what is held in memory at a time


@dataclass(frozen=True)
class Feature:
    """One column of the table.

    Attributes:
        name: "column.field".
        column: Column of the cache.
        field: Field of that column.
        dtype: NumPy's name of the type of its values, or "utf8".
        shape: Shape of one value; the first entry is None where the length varies.
    """

    name: str
    column: str
    field: Field
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def is_ragged(self) -> bool:
        """Whether the length varies."""
        return None in self.shape


class Table:
    """The samples that all chosen columns have, with decoded values.

    Args:
        cache: The open cache.
        places: "column" or "column/field"; all columns where there are none.
        dtype: Type of floating-point values, one of ``DTYPES``.

    Attributes:
        cache: The open cache.
        dtype: As given.
        features: The columns of the table besides "key" and "view".
        views: Rows per sample; with more than one, the column "view" says which it is.
        kept: Whether each row of the plan is in the table.
        left_out: Column -> key -> reason, of the samples that a column lacks.

    Raises:
        ReedError: A column is missing or incomplete, or no sample is in all of them.
    """

    def __init__(self, cache: Cache, places: Sequence[str] = (), dtype: str = "float32") -> None:
        if dtype not in DTYPES:
            raise ReedError(f"unknown type {dtype!r}.{suggest(dtype, DTYPES)}")
        self.cache, self.dtype, self.views = cache, dtype, cache.manifest.views
        self._columns = _chosen(cache, places)
        if not self._columns:
            raise ReedError(f"{cache.folder} has no columns; build one with: reed-cache build")

        # The join checks that every column is complete, and finds what all of them have.
        named = [f"{name}/{f.name}" for name, fields in self._columns.items() for f in fields]
        self._joined = cache.join(named)
        self.kept = np.zeros(len(cache.plan.keys), dtype=bool)
        self.kept[self._joined.rows] = True
        self.left_out = {name: self._failed(name) for name in self._columns}
        self.features = [
            self._feature(name, field) for name, fields in self._columns.items() for field in fields
        ]

    @property
    def columns(self) -> dict[str, Column]:
        """The chosen columns by name."""
        return {name: self.cache.column(name) for name in self._columns}

    def keys(self, shard: int) -> list[str]:
        """Return the keys of the samples of a shard that are in the table."""
        rows = self.cache.plan.rows(shard)
        return [self.cache.plan.keys[row] for row in rows if self.kept[row]]

    def count(self, shard: int) -> int:
        """Return the number of rows of a shard: its samples times the views."""
        rows = self.cache.plan.rows(shard)
        return int(self.kept[rows.start : rows.stop].sum()) * self.views

    def check(self, shard: int) -> None:
        """Raise ReedError unless the files of a shard are what their markers state."""
        for name, column in self.columns.items():
            try:
                marker = verify.check_marker(self.cache.folder, self.cache.plan, column, shard)
                verify.check_file(self.cache.folder, self.cache.plan, column, marker)
            except ReedError as error:
                path = shard_path(self.cache.folder, self.cache.column(name), shard)
                repair = f"run reed-cache repair {self.cache.folder}"
                raise ReedError(f"{path}: {error}; {repair}") from error

    def rows(self, shard: int) -> Iterator[Row]:
        """Yield the rows of a shard in cache order, one at a time.

        Raises:
            ReedError: A value is beyond the type that was chosen.
        """
        keys = self.keys(shard)
        streams = {
            (name, view): reader.records(
                self.cache.folder,
                self.cache.column(name),
                shard,
                fields,
                self.cache.state(name),
                view=view,
                keys=set(keys),
            )
            for name, fields in self._columns.items()
            for view in range(self.views)
        }

        # Every column holds its samples in the order of the plan, so the streams go in step.
        for key in keys:
            for view in range(self.views):
                row: Row = {"key": key} | ({"view": view} if self.views > 1 else {})
                values = {name: next(streams[name, view]) for name in self._columns}
                assert all(found == key for found, _ in values.values())
                for feature in self.features:
                    value = values[feature.column][1][feature.field.name]
                    row[feature.name] = self._cast(feature, key, value)
                yield row

    def bytes(self) -> int:
        """Return the bytes of all values, without what a format adds."""
        total = 0
        for feature in self.features:
            size = 1 if feature.dtype == "utf8" else np.dtype(feature.dtype).itemsize
            inner = prod(n for n in feature.shape if n is not None)
            lengths: Any = self.kept.sum()
            if feature.is_ragged or feature.dtype == "utf8":
                lengths = self._lengths(feature)[self.kept].sum()
            total += int(lengths) * inner * size * self.views
        return total

    def blocks(self, rows: Iterator[Row]) -> Iterator[list[Row]]:
        """Yield the rows in lists that together take little memory."""
        block, size = [], 0
        for row in rows:
            block.append(row)
            size += sum(v.nbytes for v in row.values() if isinstance(v, np.ndarray))
            if size >= BLOCK_BYTES or len(block) >= BLOCK_ROWS:
                yield block
                block, size = [], 0
        if block:
            yield block

    def _lengths(self, feature: Feature) -> np.ndarray:
        """Return the length of a ragged field or of a text for every row of the plan."""
        (joined,) = [c for c in self._joined.columns if c.name == feature.column]
        parts = joined.parts[f"{feature.column}/{feature.field.name}"]
        return joined.lengths(next(part.name for part in parts if part.is_ragged))

    def _failed(self, name: str) -> dict[str, str]:
        index = self.cache.index(name)
        return {key: why for _, m in sorted(index.markers.items()) for key, why in m.failed.items()}

    def _feature(self, name: str, field: Field) -> Feature:
        """Return the feature of a field; the type of its values is that of the first one."""
        if field.kind == "text":
            return Feature(f"{name}.{field.name}", name, field, "utf8", ())
        row = int(self._joined.rows[0])
        value = self.cache.values(f"{name}/{field.name}")[self.cache.plan.keys[row]]
        kind = np.asarray(value).dtype
        dtype = self.dtype if kind.kind == "f" else "uint8" if kind.kind == "b" else kind.name
        return Feature(f"{name}.{field.name}", name, field, dtype, field.shape)

    def _cast(self, feature: Feature, key: str, value: Any) -> Any:
        """Return a value in the type of its feature: text, one number, or an array."""
        if feature.dtype == "utf8":
            return value
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(np.asarray(value).astype(feature.dtype, copy=False))
        if feature.dtype == "float16" and np.isinf(array).any():
            largest = float(np.abs(np.asarray(value)).max())
            where = f"{feature.column}/{feature.field.name} of sample {key!r}"
            raise ReedError(f"{where} holds {largest:g}, beyond float16; use --dtype float32")
        return array if feature.shape else array.reshape(()).item()


def _chosen(cache: Cache, places: Sequence[str]) -> dict[str, list[Field]]:
    """Return the fields of every column that is named, in the order of the columns."""
    chosen: dict[str, dict[str, Field]] = {}
    for place in places or cache.columns:
        name, _, field = place.partition("/")
        column = cache.column(name)
        for each in [column.field(field)] if field else column.fields:
            chosen.setdefault(name, {})[each.name] = each
    return {name: list(fields.values()) for name, fields in chosen.items()}
