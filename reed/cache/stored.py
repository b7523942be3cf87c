"""One batch of a cache as it is stored, before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Stored:
    """One batch as stored, or this process's part of it.

    The arrays are views of a ring buffer; they are overwritten when the next batch is requested.

    Attributes:
        step: Step of the global batch.
        rows: Rows of the samples, [B].
        first: Position of the first sample in the global batch.
        total: Samples of the global batch.
        parts: The stored parts of every requested name, each [B, ...], padded with zeros to
            ``length`` where samples differ in length.
        lengths: Length of every sample, [B]; None where all samples have the same length.
        length: Length to which the batch is padded.
    """

    step: int
    rows: np.ndarray
    first: int
    total: int
    parts: dict[str, list[torch.Tensor]]
    lengths: np.ndarray | None = None
    length: int = 0

    def mask(self, device: torch.device | str = "cpu") -> torch.Tensor | None:
        """Return [B, length], True for real tokens; None where all samples have the same length."""
        if self.lengths is None:
            return None
        mask = torch.from_numpy(np.arange(self.length) < self.lengths[:, None])
        if torch.device(device).type == "cuda":
            mask = mask.pin_memory()  # a copy from pageable memory would wait for the GPU
        return mask.to(device, non_blocking=True)
