"""Per-channel sums of a field, kept in every marker and added up over a column.

The sums of a record are those of its rows, one after another, and are added to the sums before it
in the order of the records. Batches of any size thus give the same sums, bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from reed.cache.codecs.batch import doubled, is_tensor, tensor_of
from reed.cache.schema import Field

_EXACT = {"f2", "f4", "i1", "u1", "i2", "u2"}  # dtypes of which float64 holds every square
_WIDE = 128  # channels from which a row of one record is enough work for one call

Sums = tuple[int, np.ndarray, np.ndarray]  # rows, and the sums of each record, [records, C]


class Stats:
    """Running sum and sum of squares per channel of one field, in float64."""

    def __init__(self, field: Field) -> None:
        self._axis, self._length = field.channel_axis, field.shape == (None,)
        self._count = 0
        self._sum = self._square = np.zeros(1)

    def add(self, value: np.ndarray) -> None:
        """Add one sample; a field of shape [None] has one channel, and NaN is not counted."""
        array = np.array(value, dtype=np.float64, ndmin=1)  # a copy, which is squared in place
        array = array[:, None] if self._length else array
        flat = np.moveaxis(array, self._axis, -1).reshape(-1, array.shape[self._axis])
        flat = flat[~np.isnan(flat).any(axis=1)]
        self._count += len(flat)
        self._sum = self._sum + flat.sum(axis=0)
        self._square = self._square + np.square(flat, out=flat).sum(axis=0)

    def add_all(self, values: Any) -> None:
        """Add some samples: an array [samples, ...], a tensor on an accelerator, or a list."""
        found = self._sums(values)
        if found is None:
            for value in values:
                self.add(value.cpu().numpy() if is_tensor(value) else value)
            return

        # Added one after another, as `add` does, and not in pairs.
        count, sums, squares = found
        self._count += count
        for record in range(len(sums)):
            self._sum = self._sum + sums[record]
            self._square = self._square + squares[record]

    def _sums(self, values: Any) -> Sums | None:
        """Return the sums of each sample; None if they have to be added one by one."""
        on_device = is_tensor(values)
        exact = on_device or (isinstance(values, np.ndarray) and values.dtype.str[1:] in _EXACT)
        if not exact or self._length or len(values.shape) < 2 or 0 in values.shape:
            return None

        channels = values.shape[1 + self._axis] if self._axis >= 0 else values.shape[-1]
        if channels == 1:  # numpy adds up a single channel in pairs
            return None

        # Channels come last: [N, T, C], or [T, N, C] where they are few.
        axis = 1 + self._axis if self._axis >= 0 else -1
        if on_device or channels >= _WIDE:
            move = values.movedim if on_device else partial(np.moveaxis, values)
            rows = move(axis, -1).reshape(len(values), -1, channels)
            sums, squares = (_on_device if on_device else _wide)(rows)
        elif axis == 1:
            sums, squares = _narrow(_turned(values))
        else:
            rows = np.moveaxis(values, axis, -1).reshape(len(values), -1, channels)
            sums, squares = _narrow(rows.transpose(1, 0, 2))

        # NaN counts for nothing, which only `add` knows.
        if not np.isfinite(squares).all():
            return None
        return math.prod(values.shape) // channels, sums, squares

    def summary(self) -> dict[str, Any]:
        """Return the table that the marker stores."""
        return {"count": self._count, "sum": self._sum.tolist(), "sumsq": self._square.tolist()}


def moments(summaries: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return mean and standard deviation per channel of what several summaries count, float64 [C].

    Args:
        summaries: Tables of `Stats.summary`, such as those of all shards of a column.

    Returns:
        None if they count no value.
    """
    found = [each for each in summaries if each.get("count")]
    if not found:
        return None
    count = sum(each["count"] for each in found)
    mean = np.sum([each["sum"] for each in found], axis=0) / count
    square = np.sum([each["sumsq"] for each in found], axis=0) / count
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def _wide(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sums and sums of squares of records with many channels: [N, T, C] -> [N, C]."""
    sums, squares = np.empty((2, len(rows), rows.shape[2]))
    exact = np.empty(rows.shape[1:])
    as_tensor = tensor_of(exact)
    for record, values in enumerate(rows):
        as_tensor.copy_(tensor_of(values))
        np.add.reduce(exact, axis=0, out=sums[record])
        as_tensor.square_()
        np.add.reduce(exact, axis=0, out=squares[record])
    return sums, squares


def _narrow(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same of records with few channels, [T, N, C]: a row of all records at a time."""
    flat = doubled(rows).reshape(len(rows), -1)  # one row of all records
    sums = np.add.reduce(flat, axis=0).reshape(rows.shape[1:])
    return sums, np.add.reduce(np.square(flat, out=flat), axis=0).reshape(rows.shape[1:])


def _turned(values: np.ndarray) -> np.ndarray:
    """Return [N, C, ...] as [T, N, C]; torch transposes in a fraction of numpy's time."""
    count, channels = values.shape[:2]
    flat = np.ascontiguousarray(values).reshape(count * channels, -1)
    turned = flat.T if flat.dtype.kind != "f" else tensor_of(flat).t().contiguous().numpy()
    return turned.reshape(-1, count, channels)


def _on_device(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the same where a tensor is; the order of the additions is the device's."""
    exact = rows.double()
    sums = exact.sum(1)
    return sums.cpu().numpy(), exact.square_().sum(1).cpu().numpy()
