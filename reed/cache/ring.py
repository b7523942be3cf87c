"""The memory that batches are read into: allocated (and pinned) once, then reused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np
import torch

from reed.cache.codecs.codecs import Part


class Buffer:
    """The memory of one part of one batch.

    Args:
        part: The part.
        shapes: (samples, padded length) of the batches that must fit.
        pin: Whether to page-lock the memory, so that copies to a GPU run beside its work.
    """

    def __init__(self, part: Part, shapes: Iterable[tuple[int, int]], pin: bool) -> None:
        self._part = part
        counts = [rows * prod(part.shape_at(length)) for rows, length in shapes]
        flat = torch.from_numpy(np.zeros(max(counts), part.dtype))
        self._flat = flat.pin_memory() if pin else flat
        # Kept: making an object per record and batch would keep the garbage collector busy.
        self._rows = [] if None in part.shape else _cut(self._flat.numpy(), prod(part.shape_at(0)))

    def tensor(self, rows: int, length: int) -> torch.Tensor:
        """Return the beginning of the memory as [rows, ...].

        Args:
            rows: Samples of the batch.
            length: Padded length, where the part's length varies.
        """
        shape = (rows, *self._part.shape_at(length))
        return self._flat[: prod(shape)].view(shape)

    def records(
        self, tensor: torch.Tensor, lengths: np.ndarray | None
    ) -> Sequence[np.ndarray | memoryview]:
        """Return the memory of each record; padding is set to zero.

        Args:
            tensor: The batch, from `tensor`.
            lengths: Length of every record, where lengths vary.
        """
        if None not in self._part.shape:
            return self._rows[: len(tensor)]
        assert lengths is not None, self._part
        array = tensor.numpy()
        for j, length in enumerate(lengths):
            array[j, length:] = 0
        return [array[j, :length] for j, length in enumerate(lengths)]


def _cut(flat: np.ndarray, count: int) -> list[memoryview]:
    """Return the memory of every ``count`` entries."""
    memory, size = flat.data.cast("B"), count * flat.itemsize
    return [memory[start : start + size] for start in range(0, len(memory), size)]
