"""Batches on the device; on a GPU they are copied and decoded while the previous step runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Generator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reed.cache.stream import ShardStream, Stored


@dataclass(frozen=True)
class Fed:
    """This process's part of a batch, decoded, on the device.

    Attributes:
        values: Role or target name -> decoded values, [rows, ...].
        mask: Real tokens are True, [rows, L]; None where all tokens are real.
        rows: Samples in this part.
        first: Position of the first of them in the global batch.
        total: Samples in the global batch.
    """

    values: dict[str, Tensor]
    mask: Tensor | None
    rows: int
    first: int
    total: int

    def part(self, i: int, parts: int) -> Fed:
        """Return micro-batch `i` of `parts` micro-batches of nearly equal size."""
        begin, end = (self.rows * number // parts for number in (i, i + 1))
        values = {name: value[begin:end] for name, value in self.values.items()}
        mask = None if self.mask is None else self.mask[begin:end]
        return Fed(values, mask, end - begin, self.first + begin, self.total)

    def without(self, names: Collection[str]) -> Fed:
        """Return the same part without some values, such as targets that have been released."""
        values = {name: value for name, value in self.values.items() if name not in names}
        return replace(self, values=values)


class Feed:
    """The batches of a stream, moved to a device.

    Attributes:
        waited: Seconds that the host has waited for the readers so far.
    """

    def __init__(self, stream: ShardStream, device: torch.device) -> None:
        self._stream, self._device, self.waited = stream, device, 0.0
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def batches(self, start: int) -> Generator[Fed]:
        """Yield batches without end, from step `start` on.

        The host asks for a batch when it has queued the previous step. On a GPU, copying and
        decoding run on a second CUDA stream, in parallel with that step.
        """
        with contextlib.closing(self._stream.batches(start)) as source:
            while True:
                began = time.perf_counter()
                stored = next(source)
                self.waited += time.perf_counter() - began
                side = self._side
                yield self._fed(stored) if side is None else self._fed_beside(stored, side)

    def _fed(self, stored: Stored) -> Fed:
        values = self._stream.decode(stored, self._device)
        rows, mask = len(stored.rows), stored.mask(self._device)
        return Fed(values, mask, rows, stored.first, stored.total)

    def _fed_beside(self, stored: Stored, side: torch.cuda.Stream) -> Fed:
        """Copy and decode on the CUDA stream `side`, and let the current stream wait for it."""
        with torch.cuda.stream(side):
            fed = self._fed(stored)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(side)
        for tensor in (*fed.values.values(), *([] if fed.mask is None else [fed.mask])):
            tensor.record_stream(current)  # else its memory could be reused before it is read
        return fed
