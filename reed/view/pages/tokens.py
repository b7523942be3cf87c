"""Tokens of some samples, small enough to lie in a page: colours, norms, and what cosines need."""

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

DIRECTIONS = 128  # that are kept of the tokens of a field, at most
BYTES = 2**20  # that they take in a page; of over 8,192 tokens fewer are kept


@dataclass(frozen=True)
class Grid:
    """The tokens of one field. arrays: sample's place -> [T, D], in the channels of the encoder.

    basis: [k, D], the directions kept; kept: the share of the squared length of unit tokens along
    them; error, worst: of a cosine of two tokens of one sample as the page has it, over all pairs.
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
        """Which field it is: "column/field"."""
        return f"{self.column.name}/{self.field.name}"

    @property
    def norms(self) -> np.ndarray:
        """Of all tokens, one sample after another."""
        return np.concatenate([np.linalg.norm(x, axis=-1) for x in self.arrays.values()])

    @property
    def note(self) -> str:
        """How exact the cosines are, as a sentence."""
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
    """The tokens of a field with the directions that unit tokens vary in most, the mean included.

    values: sample's place -> [T, ...] as decoded; at least one token in all.
    """
    state, codec = reader.load_state(cache, column)[field.name], codecs.codec_of(field)
    arrays = {at: np.asarray(codec.restore(x, state), np.float32) for at, x in values.items()}
    stacked = np.concatenate([unit(x) for x in arrays.values()])
    most = max(8, min(DIRECTIONS, BYTES // len(stacked)))
    lengths, vectors = np.linalg.eigh(stacked.T @ stacked)
    basis = vectors[:, ::-1][:, :most].T
    kept = float(lengths[::-1][:most].sum() / max(lengths.sum(), 1e-30))
    off = [np.abs(_cosines(x) - _cosines(steps(x, basis))) for x in arrays.values()]
    pairs = sum(len(each) * (len(each) - 1) for each in off)  # both ways, none with itself
    error = sum(each.sum() for each in off) / max(pairs, 1)
    worst = max(each.max(initial=0) for each in off)
    return Grid(column, field, arrays, basis, kept, float(error), float(worst))


def _up(value: float) -> str:
    """A number rounded up to one digit, so that "at most" stays true."""
    step = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return f"{math.ceil(value / step) * step:.1g}"


def unit(x: np.ndarray) -> np.ndarray:
    """Vectors of length one, [..., D] float64; those of length zero stay."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-30)


def steps(x: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """The directions of tokens as the page has them: [T, D] -> [T, k] int8, 127 the largest."""
    z = unit(x) @ basis.T
    largest = np.abs(z).max(axis=-1, keepdims=True, initial=0)
    return np.rint(z * (127 / np.maximum(largest, 1e-30))).astype(np.int8)


def _cosines(x: np.ndarray) -> np.ndarray:
    """Of all pairs of different tokens, [T, T]; 0 of one with itself."""
    x = unit(x)
    found = x @ x.T
    np.fill_diagonal(found, 0.0)
    return found


def plain(cache: Path, found: Grid) -> dict[str, Any]:
    """The field and its tokens in plain values; arrays of numbers as base64.

    samples: place -> across (tokens in a row), count, colours [T, 3] uint8, norms [T] float32,
    steps [T, k] int8.
    """
    palette = peek.palette(cache, found.column, found.field)
    norms = found.norms
    samples = {
        place: {
            "across": across(found.field, len(x)),
            "count": len(x),
            "colours": packed(peek.colours(x, palette)),
            "norms": packed(np.linalg.norm(x, axis=-1).astype("<f4")),
            "steps": packed(steps(x, found.basis)),
        }
        for place, x in found.arrays.items()
    }
    first = next(iter(found.arrays.values()))
    return {
        "title": found.title,
        "note": found.note,
        "directions": len(found.basis),
        "is_grid": _is_grid(found.field, len(first)),
        "low": float(norms.min()),
        "high": float(norms.max()),
        "samples": samples,
    }


def across(field: Field, count: int) -> int:
    """How many tokens stand in a row: those of a square grid, else rows half as many as long."""
    return math.isqrt(count) if _is_grid(field, count) else math.ceil(math.sqrt(2 * count))


def _is_grid(field: Field, count: int) -> bool:
    """Whether tokens are patches: as many in every sample, and a square number."""
    return field.shape[0] is not None and math.isqrt(count) ** 2 == count


def packed(array: np.ndarray) -> str:
    """The bytes of an array as base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
