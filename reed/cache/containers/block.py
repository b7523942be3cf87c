"""Consecutive records of a shard, as containers write them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reed.cache.codecs.base import Part

# A member name, and one array or bytes of text per part.
Record = tuple[str, Sequence[Any]]


@dataclass(frozen=True)
class Block:
    """Consecutive records.

    Attributes:
        names: Their member names.
        values: For each part one value per record: an array [records, ...], or a list of arrays or
            of bytes of text where the length varies.
    """

    names: Sequence[str]
    values: Sequence[Sequence[Any] | np.ndarray]

    def part(self, start: int, stop: int) -> Block:
        """Return some of the records."""
        return Block(self.names[start:stop], [values[start:stop] for values in self.values])


def blocks(records: Iterable[Record | Block]) -> Iterator[Block]:
    """Yield blocks: those that are given, and one for every single record."""
    for record in records:
        if isinstance(record, Block):
            if record.names:
                yield record
        else:
            yield Block([record[0]], [[value] for value in record[1]])


def arrays_of(part: Part, values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return one array [records, ...] of values of equal shape, in the dtype of their part."""
    stacked = np.ascontiguousarray(values)
    assert stacked.dtype.str == part.dtype, f"{part.name}: {stacked.dtype.str} is not {part.dtype}"
    return stacked


def lengths_of(part: Part, values: Sequence[Any] | np.ndarray) -> list[int]:
    """Return the length of every value: rows, or bytes of text; 1 without an axis."""
    if part.dtype == "utf8":
        return [len(value) for value in values]
    if isinstance(values, np.ndarray):
        return [values.shape[1] if values.ndim > 1 else 1] * len(values)
    return [np.shape(value)[0] if np.shape(value) else 1 for value in values]
