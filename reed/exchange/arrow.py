"""Rows as Arrow record batches, which parquet, Hugging Face datasets and Lance are written from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reed.exchange.table import Feature, Row, Table
from reed.weights import library


def pyarrow(purpose: str) -> Any:
    """Return the module, or raise ReedError with the command that installs it."""
    return library("pyarrow", purpose, "export")


def schema_of(pa: Any, table: Table) -> Any:
    """Return the Arrow schema: key, view where there are several, and every feature.

    Arrays are nested lists, of fixed size but for the axis whose length varies.
    """
    fields = [pa.field("key", pa.string())]
    if table.views > 1:
        fields.append(pa.field("view", pa.int64()))
    fields += [pa.field(f.name, _type(pa, f)) for f in table.features]
    return pa.schema(fields)


def batch_of(pa: Any, schema: Any, features: Sequence[Feature], rows: Sequence[Row]) -> Any:
    """Return some rows as one record batch."""
    arrays = {f.name: _array(pa, f, [row[f.name] for row in rows]) for f in features}
    columns = [
        arrays[name] if name in arrays else pa.array([row[name] for row in rows])
        for name in schema.names
    ]
    return pa.record_batch(columns, schema=schema)


def _type(pa: Any, feature: Feature) -> Any:
    if feature.dtype == "utf8":
        return pa.string()
    kind = pa.from_numpy_dtype(np.dtype(feature.dtype))
    for size in reversed(feature.shape):
        item = pa.field("item", kind)
        kind = pa.list_(item) if size is None else pa.list_(item, size)
    return kind


def _array(pa: Any, feature: Feature, values: list[Any]) -> Any:
    """Return the values of one feature; arrays are copied once, into one flat buffer."""
    if not feature.shape:
        return pa.array(values, _type(pa, feature))
    flat = np.concatenate([value.ravel() for value in values])
    array, kind = pa.array(flat), _type(pa, feature)
    kinds = [kind]
    for _ in feature.shape[1:]:
        kinds.append(kinds[-1].value_type)

    # From the innermost axis outwards: every list type holds the one before.
    for size, each in zip(reversed(feature.shape), reversed(kinds), strict=True):
        if size is None:
            ends = np.cumsum([0, *(len(value) for value in values)], dtype=np.int32)
            array = pa.ListArray.from_arrays(pa.array(ends), array, type=each)
        else:
            array = pa.FixedSizeListArray.from_arrays(array, type=each)
    return array
