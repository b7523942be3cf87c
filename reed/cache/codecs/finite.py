"""Checking that numbers are finite, and describing those that are not."""

from __future__ import annotations

import numpy as np


def is_sound(values: np.ndarray, holds_nan: bool = False) -> bool:
    """Whether all values are finite.

    Args:
        values: The values.
        holds_nan: Whether NaN is allowed, too; it stands for a missing value.
    """
    return bool((np.isfinite(values) | (np.isnan(values) if holds_nan else False)).all())


def extremes(array: np.ndarray) -> str:
    """Return the range of the finite values, and how many are not finite, for a message."""
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    bad = array.size - finite.size
    span = f"values from {finite.min():g} to {finite.max():g}" if finite.size else "no finite value"
    return f"{span}, {bad} of {array.size} not finite"
