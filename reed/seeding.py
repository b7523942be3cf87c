"""Random numbers that depend only on (seed, step, position in the batch), not on history."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_for(*scope: int | str) -> int:
    """Return a 63-bit seed that depends on every part of ``scope`` and on nothing else."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in scope)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


class Draws:
    """Draws the random numbers of some samples of one global batch.

    Every process draws the numbers of the whole global batch and keeps those of its own samples.
    So a sample gets the same numbers for any number of processes and any split of the batch.

    Args:
        seed: Seed of the run.
        step: Optimizer step.
        total: Samples in the global batch.
        rows: Slice of the global batch that this process keeps.
        device: Where the numbers are drawn.
    """

    def __init__(
        self, seed: int, step: int, total: int, rows: slice, device: torch.device | str = "cpu"
    ) -> None:
        import torch

        self._total, self._rows = total, rows
        self._generator = torch.Generator(device).manual_seed(seed_for(seed, "noise", step))

    def uniform(self, *shape: int) -> torch.Tensor:
        """Draw float32 numbers in [0, 1), shape [samples, ...shape]."""
        import torch

        return self._rows_of(torch.rand, shape)

    def normal(self, *shape: int) -> torch.Tensor:
        """Draw standard normal float32 numbers, shape [samples, ...shape]."""
        import torch

        return self._rows_of(torch.randn, shape)

    def _rows_of(self, draw, shape: tuple[int, ...]) -> torch.Tensor:
        """Draw for the whole global batch, and keep this process's samples."""
        device = self._generator.device
        return draw(self._total, *shape, generator=self._generator, device=device)[self._rows]
