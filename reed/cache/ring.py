"""The memory that batches are read into: allocated (and pinned) once, used again and again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np
import torch

from reed.cache.codecs.codecs import Part


class Buffer:
    """The memory of one part of one batch.

    shapes: (rows, padded length) of the batches that it must hold; pin: page-locked, for copies
    to a GPU beside its work.
    """

    def __init__(self, part: Part, shapes: Iterable[tuple[int, int]], pin: bool) -> None:
        self._part = part
        counts = [rows * prod(part.shape_at(length)) for rows, length in shapes]
        flat = torch.from_numpy(np.zeros(max(counts), part.dtype))
        self._flat = flat.pin_memory() if pin else flat
        # Kept, because objects made per record and batch keep the garbage collector busy
        self._rows = [] if None in part.shape else _cut(self._flat.numpy(), prod(part.shape_at(0)))

    def tensor(self, rows: int, length: int) -> torch.Tensor:
        """The beginning of the memory as [rows, ...]; length: where the part's own varies."""
        shape = (rows, *self._part.shape_at(length))
        return self._flat[: prod(shape)].view(shape)

    def records(
        self, tensor: torch.Tensor, lengths: np.ndarray | None
    ) -> Sequence[np.ndarray | memoryview]:
        """Where each record goes: a row of `tensor`, or its beginning; padding is set to zero."""
        if None not in self._part.shape:
            return self._rows[: len(tensor)]
        assert lengths is not None, self._part
        array = tensor.numpy()
        for j, length in enumerate(lengths):
            array[j, length:] = 0
        return [array[j, :length] for j, length in enumerate(lengths)]


def _cut(flat: np.ndarray, count: int) -> list[memoryview]:
    """The memory of every `count` entries."""
    memory, size = flat.data.cast("B"), count * flat.itemsize
    return [memory[start : start + size] for start in range(0, len(memory), size)]
