"""Whether numbers may be stored, and what to say where not."""

from __future__ import annotations

import numpy as np


def is_sound(values: np.ndarray, holds_nan: bool = False) -> bool:
    """Whether all are finite; holds_nan: or NaN, which then is a value that is missing."""
    return bool((np.isfinite(values) | (np.isnan(values) if holds_nan else False)).all())


def extremes(array: np.ndarray) -> str:
    """The span of the finite values, and how many are not."""
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    bad = array.size - finite.size
    span = f"values from {finite.min():g} to {finite.max():g}" if finite.size else "no finite value"
    return f"{span}, {bad} of {array.size} not finite"
