"""The representations that the samples of a batch hold at the moment, for one guide."""

from __future__ import annotations

import torch
from torch import Tensor

from reed.guides.guide import Guide


class Held:
    """The representations of one guide in a batch.

    Args:
        guide: The guide.
        times: The time t* of every sample.
        size: Samples in the batch.
        like: Tensor with the device and dtype of the net.

    Attributes:
        times: See above, float64 [B].
        has: Samples that have z, bool [B].
        known: Samples whose z was ever read, bool [B]; a mean is known after the first step.
    """

    def __init__(self, guide: Guide, times: Tensor, size: int, like: Tensor) -> None:
        self.times = times.to(like.device)
        self.has = torch.zeros(size, dtype=torch.bool, device=like.device)
        self.known = torch.full_like(self.has, guide.spec.config.read != "mean")
        empty = torch.zeros(size, *guide.spec.shape, dtype=like.dtype, device=like.device)
        self._z = {True: empty}
        self._next: dict[bool, Tensor] = {}
        self._seen = torch.zeros_like(self.has)

    def of(self, label: bool) -> Tensor:
        """Return z for the evaluation with or without labels; they differ for a mean alone."""
        return self._z.get(label, self._z[True])

    def put(self, rows: Tensor, z: Tensor) -> None:
        """Set z of some rows, which have it from now on."""
        self._z[True] = self._z[True].index_copy(0, rows, z.to(self._z[True]))
        self.has = self.has.index_fill(0, rows, True)

    def give(self, z: Tensor) -> None:
        """Set the z of all samples, which then need no prediction; each has it from its time on."""
        self._z[True] = z.to(self._z[True])
        self.known = torch.ones_like(self.known)

    def renew(self, label: bool, z: Tensor, seen: Tensor | None) -> None:
        """Predict z anew, for the samples in `seen` alone if it is given; see `take`."""
        if seen is None:
            seen = torch.ones_like(self.has)
        rows = seen.view(-1, *[1] * (z.ndim - 1))
        self._next[label] = torch.where(rows, z, self.of(label))
        self._seen = seen

    def take(self) -> None:
        """Use the new predictions from the next step on, in all of its evaluations."""
        self._z |= self._next
        self.known = self.known | self._seen
