"""The memory that batches are read into: allocated (and pinned) once, then reused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


Fields = Mapping[str, Mapping[str, Sequence[Part]]]  # column -> name of a field -> its parts
Buffers = dict[str, dict[str, Buffer]]  # column -> part -> its memory


class Ring:
    """The memory of several batches, which take turns.

    Args:
        size: Number of batches.
        shapes: (samples, padded length) of the batches that must fit.
        pin: Whether to page-lock the memory.
    """

    def __init__(self, size: int, shapes: Iterable[tuple[int, int]], pin: bool) -> None:
        self._shapes, self._pin = set(shapes), pin
        self._buffers: list[Buffers] = [{} for _ in range(size)]
        self._copied: dict[int, torch.cuda.Event] = {}  # position -> its copy to a device

    def prepare(self, fields: Fields) -> None:
        """Allocate what some fields need, for all batches."""
        for position in range(len(self._buffers)):
            self._fit(position, fields)

    def at(self, step: int, fields: Fields) -> Buffers:
        """Return the memory for some fields of a batch; that of other fields is freed.

        It waits until the batch that was there has been copied to its device.
        """
        position = step % len(self._buffers)
        if position in self._copied:
            self._copied.pop(position).synchronize()
        self._fit(position, fields)
        return self._buffers[position]

    def copied(self, step: int, device: torch.device | str) -> None:
        """Note that the copies of a batch to a CUDA device have been queued."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(device))
        self._copied[step % len(self._buffers)] = event

    def _fit(self, position: int, fields: Fields) -> None:
        """Keep, allocate and free memory, so that there is that of the fields.

        A field that is requested under two names has one buffer.
        """
        old, new = self._buffers[position], {}
        for column, named in fields.items():
            kept, parts = old.get(column, {}), {p.name: p for ps in named.values() for p in ps}
            new[column] = {
                name: kept[name] if name in kept else Buffer(part, self._shapes, self._pin)
                for name, part in parts.items()
            }
        self._buffers[position] = new


def _cut(flat: np.ndarray, count: int) -> list[memoryview]:
    """Return the memory of every ``count`` entries."""
    memory, size = flat.data.cast("B"), count * flat.itemsize
    return [memory[start : start + size] for start in range(0, len(memory), size)]
