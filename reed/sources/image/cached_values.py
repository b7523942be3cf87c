"""Values of cached samples: what a file holds is checked before it is a latent or a label."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from reed.build.shard import BadSample

_MOST = 2**31 - 1  # no data set has more classes


def numbers(name: str, array: Any) -> np.ndarray:
    """Return an array as float32; BadSample unless it is one of real numbers."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        kind = getattr(array, "dtype", type(array).__name__)
        raise BadSample(f"its {name} is of type {kind}, an array of real numbers is wanted")
    with np.errstate(over="ignore"):  # what becomes infinite is found by `sound`
        return array.astype(np.float32)


def label(value: Any) -> int:
    """Return a class; BadSample unless it is an integer from 0 up."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or not 0 <= value <= _MOST:
        raise BadSample(f"its class is {value!r}, an integer from 0 to {_MOST} is wanted")
    return int(value)


def table(name: str, content: bytes) -> dict[str, Any]:
    """Return the table of a JSON file; BadSample if it is none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadSample(f"its {name} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadSample(f"its {name} holds no table, but {type(found).__name__}")
    return found


def moments(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return mean and deviation on one axis; BadSample unless they have one shape."""
    if mean.shape != deviation.shape:
        shapes = f"{list(mean.shape)} and {list(deviation.shape)}"
        raise BadSample(f"its mean and its deviation have the shapes {shapes}; they must be equal")
    return sound("moments", np.concatenate([mean, deviation]) if mean.ndim else mean)


def halves(name: str, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both halves of the channels; BadSample if they cannot be halved."""
    if array.ndim != 3 or len(array) % 2:
        wanted = "[channels, height, width] with an even number of channels"
        raise BadSample(f"its {name} are of shape {list(array.shape)}, {wanted} is wanted")
    first, second = np.split(array, 2)
    return first, second


def single(array: np.ndarray) -> np.ndarray:
    """Return a latent without the axis of a batch of one."""
    return array[0] if array.ndim == 4 and len(array) == 1 else array


def sound(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array, which must be finite and of the dimensions of its entry."""
    if array.ndim != (2 if name == "features" else 3):
        raise BadSample(f"its {name} are of shape {list(array.shape)}")
    if not np.isfinite(array).all():
        raise BadSample(f"its {name} are not finite")
    if name == "moments" and (array[len(array) // 2 :] < 0).any():
        raise BadSample("its standard deviation is negative")
    return np.ascontiguousarray(array)
