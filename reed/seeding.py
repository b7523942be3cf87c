"""Random numbers as a function of place (seed, step, row), never of history."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_for(*scope: int | str) -> int:
    """A 63-bit seed that depends on every part of `scope` and on nothing else."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in scope)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


class Draws:
    """The random numbers of some rows of one global batch.

    Every rank draws the numbers of the whole global batch and keeps its own rows, so a row gets
    the same numbers whatever the number of processes and however the batch is cut up.

    seed, step: the place; total: rows of the global batch; rows: the half-open slice kept here.
    """

    def __init__(
        self, seed: int, step: int, total: int, rows: slice, device: torch.device | str = "cpu"
    ) -> None:
        import torch

        self._total, self._rows = total, rows
        self._generator = torch.Generator(device).manual_seed(seed_for(seed, "noise", step))

    def uniform(self, *shape: int) -> torch.Tensor:
        """Float32 numbers in [0, 1), shape [rows, *shape]."""
        import torch

        return self._rows_of(torch.rand, shape)

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal float32 numbers, shape [rows, *shape]."""
        import torch

        return self._rows_of(torch.randn, shape)

    def _rows_of(self, draw, shape: tuple[int, ...]) -> torch.Tensor:
        device = self._generator.device
        return draw(self._total, *shape, generator=self._generator, device=device)[self._rows]
