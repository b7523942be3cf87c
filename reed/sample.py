"""Samples from a run: the averaged net of a checkpoint, drawn in batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from reed import checkpoint, config, public, recipe
from reed.cache.schema import Field
from reed.domain import DOMAINS, Domain
from reed.public import PublicWeights
from reed.recipe import TrainConfig


class Sampler:
    """A trained net, ready to draw from.

    net: on its device; domain, fields: as it was trained; step: where it was, if that is known.
    """

    def __init__(
        self, net: nn.Module, domain: Domain, fields: dict[str, Field], step: int | None
    ) -> None:
        self._net, self.domain, self.fields, self.step = net.eval(), domain, fields, step

    @classmethod
    def of_run(cls, run: Path, step: int | None = None, device: str = "cpu") -> Sampler:
        """The average of a run's checkpoint, by default the latest."""
        saved = checkpoint.load(run, step, groups=("ema",))
        settings = config.build(TrainConfig, config.read(run / "config.json"))
        domain: Domain = recipe.domain_of(settings)
        fields = recipe.fields_of(settings, domain)
        net: nn.Module = domain.net(fields)
        checkpoint.load_strict(net, saved.ema, f"{run} step {saved.step}")
        return cls(net.to(device), domain, fields, saved.step)

    @classmethod
    def of_weights(
        cls, weights: PublicWeights, device: str = "cpu", *, heads: int = 0,
        scale: float = 1.0, shift: float = 0.0,
    ) -> Sampler:  # fmt: skip
        """Public weights of images or latents that the net saw as (stored - shift) * scale.

        heads: of attention, where the weights cannot tell. Raises ReedError that lists the keys
        which are missing, unexpected or of another shape, and for a net without a velocity.
        """
        settings = public.domain_settings(weights, heads)
        domain: Domain = config.build(DOMAINS.get("image"), settings, "domain")
        fields = public.fields(weights, scale, shift)
        net: nn.Module = domain.net(fields)
        checkpoint.load_strict(net, weights.net, str(weights.path))
        net = public.OtherTime(net) if weights.origin == "sit" else net
        return cls(net.to(device), domain, fields, weights.steps)

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
