"""Tokens of samples in a form small enough for a page: colours, norms, data for cosines."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reed.cache import reader
from reed.cache.codecs import codecs
from reed.cache.schema import Column, Field
from reed.view import peek

DIRECTIONS = 128  # directions kept of the tokens of a field, at most
BYTES = 2**20  # size of these in a page, at most; so for over 8,192 tokens fewer are kept


@dataclass(frozen=True)
class Grid:
    """The tokens of one field.

    Attributes:
        column: Column of the field.
        field: The field.
        arrays: Tokens [T, D] in the channels of the encoder, by index of the sample.
        basis: Directions kept, [k, D].
        kept: Share of the squared length of unit tokens along these directions.
        error: Mean error of the cosines that the page computes, over all pairs of tokens of one
            sample.
        worst: The largest of these errors.
    """

    column: Column
    field: Field
    arrays: Mapping[int, np.ndarray]
    basis: np.ndarray
    kept: float
    error: float
    worst: float

    @property
    def title(self) -> str:
        """Address of the field, "column/field"."""
        return f"{self.column.name}/{self.field.name}"

    @property
    def norms(self) -> np.ndarray:
        """Norms of all tokens, one sample after another."""
        return np.concatenate([np.linalg.norm(x, axis=-1) for x in self.arrays.values()])

    @property
    def note(self) -> str:
        """Sentence that says how exact the cosines are."""
        count, channels = self.basis.shape
        share = math.floor(1000 * self.kept) / 10
        how = (
            "8-bit numbers in all directions"
            if self.kept > 1 - 1e-9
            else (
                f"8-bit numbers in {count} of {channels} directions, which keep {share} % of the "
                "squared length of unit tokens"
            )
        )
        return (
            f"Cosines are computed here from {how}; over all pairs within the samples shown they "
            f"are off by {_up(self.error)} on average and {_up(self.worst)} at most."
        )


def grid(cache: Path, column: Column, field: Field, values: Mapping[int, np.ndarray]) -> Grid:
    """Return the tokens of a field, with the directions in which unit tokens are longest.

    The mean is not subtracted, so it is one of these directions.

    Args:
        cache: Folder of the cache.
        column: Column of the field.
        field: The field.
        values: Decoded values [T, ...] by index of the sample, with at least one token in total.
    """
    state, codec = reader.load_state(cache, column)[field.name], codecs.codec_of(field)
    arrays = {i: np.asarray(codec.restore(x, state), np.float32) for i, x in values.items()}
    stacked = np.concatenate([unit(x) for x in arrays.values()])
    most = max(8, min(DIRECTIONS, BYTES // len(stacked)))
    lengths, vectors = np.linalg.eigh(stacked.T @ stacked)
    basis = vectors[:, ::-1][:, :most].T
    kept = float(lengths[::-1][:most].sum() / max(lengths.sum(), 1e-30))
    errors = [np.abs(_cosines(x) - _cosines(steps(x, basis))) for x in arrays.values()]
    pairs = sum(len(matrix) * (len(matrix) - 1) for matrix in errors)  # ordered pairs
    error = sum(matrix.sum() for matrix in errors) / max(pairs, 1)
    worst = max(matrix.max(initial=0) for matrix in errors)
    return Grid(column, field, arrays, basis, kept, float(error), float(worst))


def _up(value: float) -> str:
    """Round a number up to one digit, so that "at most" stays true."""
    step = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return f"{math.ceil(value / step) * step:.1g}"


def unit(x: np.ndarray) -> np.ndarray:
    """Scale vectors [..., D] to length one, as float64; vectors of length zero stay."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-30)


def steps(x: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return tokens [T, D] along the basis as int8 [T, k], scaled so that the largest is 127."""
    z = unit(x) @ basis.T
    largest = np.abs(z).max(axis=-1, keepdims=True, initial=0)
    return np.rint(z * (127 / np.maximum(largest, 1e-30))).astype(np.int8)


def _cosines(x: np.ndarray) -> np.ndarray:
    """Return the cosines of all pairs of tokens, [T, T], with 0 on the diagonal."""
    x = unit(x)
    cosines = x @ x.T
    np.fill_diagonal(cosines, 0.0)
    return cosines


def plain(cache: Path, grid: Grid) -> dict[str, Any]:
    """Return the field and its tokens as plain data, with arrays as base64.

    Returns:
        Facts about the field, and samples by index: across (tokens per row), count, colours
        (uint8 [T, 3]), norms (float32 [T]) and steps (int8 [T, k]).
    """
    palette = peek.palette(cache, grid.column, grid.field)
    norms = grid.norms
    samples = {
        index: {
            "across": across(grid.field, len(x)),
            "count": len(x),
            "colours": packed(peek.colours(x, palette)),
            "norms": packed(np.linalg.norm(x, axis=-1).astype("<f4")),
            "steps": packed(steps(x, grid.basis)),
        }
        for index, x in grid.arrays.items()
    }

    # Whether tokens are patches depends on the field, so any sample tells.
    first = next(iter(grid.arrays.values()))
    return {
        "title": grid.title,
        "note": grid.note,
        "directions": len(grid.basis),
        "is_grid": _is_grid(grid.field, len(first)),
        "low": float(norms.min()),
        "high": float(norms.max()),
        "samples": samples,
    }


def across(field: Field, count: int) -> int:
    """Return tokens per row: the side of a square grid, else about twice the number of rows."""
    return math.isqrt(count) if _is_grid(field, count) else math.ceil(math.sqrt(2 * count))


def _is_grid(field: Field, count: int) -> bool:
    """Return whether tokens are patches: a square number, the same in every sample."""
    return field.shape[0] is not None and math.isqrt(count) ** 2 == count


def packed(array: np.ndarray) -> str:
    """Return the bytes of an array as base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
