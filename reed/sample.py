"""Samples from a run: the averaged net of a checkpoint, drawn in batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from reed import checkpoint, config, recipe
from reed.cache.schema import Field
from reed.domain import Domain
from reed.recipe import TrainConfig


class Sampler:
    """A trained net, ready to draw from.

    run: the run's folder; step: of the checkpoint, the latest by default; device: "cpu", "cuda".
    """

    def __init__(self, run: Path, step: int | None = None, device: str = "cpu") -> None:
        saved = checkpoint.load(run, step, groups=("ema",))
        settings = config.build(TrainConfig, config.read(run / "config.json"))
        self.step = saved.step
        self.domain: Domain = recipe.domain_of(settings)
        self.fields: dict[str, Field] = recipe.fields_of(settings, self.domain)
        self._net: nn.Module = self.domain.net(self.fields)
        checkpoint.load_strict(self._net, saved.ema, f"{run} step {saved.step}")
        self._net.to(device).eval()

    @torch.no_grad()
    def draw(
        self, num: int, options: Any, *, batch: int = 256, progress: bool = True
    ) -> dict[str, np.ndarray]:
        """Samples 0 to num - 1 as arrays [num, ...] by name, in the scale of the stored data."""
        parts = []
        with tqdm(total=num, unit="sample", disable=not progress, dynamic_ncols=True) as bar:
            for first in range(0, num, batch):
                indices = range(first, min(num, first + batch))
                parts.append(self.domain.generate(self._net, self.fields, indices, options))
                bar.update(len(indices))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays to an .npz that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.tmp")
    with open(temp, "wb") as file:
        np.savez(file, **arrays)
    temp.replace(path)
