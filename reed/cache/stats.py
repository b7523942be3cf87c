"""Per-channel sums of a field, kept in every marker and added up over a column."""

from __future__ import annotations

from typing import Any

import numpy as np

from reed.cache.schema import Field


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

    def summary(self) -> dict[str, Any]:
        """Return the table that the marker stores."""
        return {"count": self._count, "sum": self._sum.tolist(), "sumsq": self._square.tolist()}
