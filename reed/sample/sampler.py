"""Samples from trained weights: those of a run's checkpoint, or public ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from tqdm import tqdm

from reed import config, weights
from reed.cache.schema import Column, Field
from reed.domains.base import DOMAINS, Domain
from reed.errors import ReedError
from reed.precision import OF_SAMPLING, computing, in_double
from reed.train import checkpoint, export, public
from reed.train.public import PublicWeights
from reed.train.recipe import TrainConfig
from reed.train.run_data import RunData

BATCH = 64


class Sampler:
    """A trained net, ready to draw from.

    net: on its device; kind: the name of its domain; fields: what it was trained on, by role, and
    columns: where that is cached, if it is known; about: where the weights come from, for the
    recipe of samples; name: the same in short; step: optimizer steps done, if known.
    precision: fp32 (without TF32), tf32, bf16 (autocast) or fp64, whose rounding is too small to
    show in an image.
    """

    def __init__(
        self,
        net: nn.Module,
        kind: str,
        domain: Domain,
        fields: Mapping[str, Field],
        columns: Mapping[str, Column],
        about: dict[str, Any],
        name: str,
        precision: str,
    ) -> None:
        if precision not in OF_SAMPLING:
            raise ReedError(f"precision is {precision!r}, it must be one of {OF_SAMPLING}")
        self.net = in_double(net.eval()) if precision == "fp64" else net.eval()
        self.kind, self.domain = kind, domain
        self.fields, self.columns = fields, columns
        self.about, self.name, self.precision = about, name, precision

    @property
    def step(self) -> int | None:
        """Optimizer steps that the weights have seen, if that is known."""
        return self.about["step"]

    @classmethod
    def of_run(
        cls,
        run: Path,
        step: int | None = None,
        device: str = "cpu",
        *,
        ema: bool = True,
        precision: str = "fp32",
    ) -> Sampler:
        """A run's checkpoint, by default the latest; its average, or else its model."""
        group = "ema" if ema else "model"
        saved = checkpoint.load(run, step, groups=(group,))
        settings = config.build(TrainConfig, config.read(run / "config.json"))
        data = RunData.of_run(run, settings.shards, settings.data)
        domain = data.make_domain(settings.domain)
        net: nn.Module = domain.net(data.fields)
        state = saved.ema if ema else export.under("net.", saved.model)
        checkpoint.load_strict(net, state, f"{run} step {saved.step}")
        name = f"step-{saved.step:07d}"
        file = run / name / f"{group}.safetensors"
        about = {
            "run": str(run),
            "checkpoint": str(file),
            "step": saved.step,
            "ema": ema,
            "weights": weights.weights_sha256(file),
            "images_seen": saved.extra.get("samples"),
            "convention": "reed",
            "domain": settings.domain,
            "fields": config.plain(data.fields),
            "config": config.plain(settings),
        }
        columns = {r: data.columns[p.partition("/")[0]] for r, p in settings.data.items()}
        name += "" if ema else "-model"
        net = net.to(device)
        return cls(net, data.domain, domain, data.fields, columns, about, name, precision)

    @classmethod
    def of_weights(
        cls,
        found: PublicWeights,
        device: str = "cpu",
        *,
        heads: int = 0,
        scale: float = 1.0,
        shift: float = 0.0,
        precision: str = "fp32",
    ) -> Sampler:
        """Public weights of latents that the net saw as (stored - shift) * scale.

        heads: of attention, where the weights cannot tell. Raises ReedError that lists the keys
        which are missing, unexpected or of another shape, and for a net without a velocity.
        """
        settings = public.domain_settings(found, heads)
        domain: Domain = config.build(DOMAINS.get("image"), settings, "domain")
        fields = public.fields(found, scale, shift)
        net: nn.Module = domain.net(fields)
        checkpoint.load_strict(net, found.net, str(found.path))
        net = public.OtherTime(net) if found.origin == "sit" else net
        about = {
            "run": None,
            "checkpoint": str(found.path),
            "step": found.steps,
            "ema": found.group != "model",
            "images_seen": None,
            "weights": weights.weights_sha256(found.path) if found.path.is_file() else None,
            "convention": found.origin,
            "domain": settings,
            "fields": config.plain(fields),
            "config": found.args,
        }
        name = found.path.stem + ("-model" if found.group == "model" else "")
        return cls(net.to(device), "image", domain, fields, {}, about, name, precision)

    def batch(self, number: int, options: Any, size: int) -> dict[str, np.ndarray]:
        """Samples number * size to (number + 1) * size - 1, as arrays [size, ...] by name.

        A batch is always full: a matrix product may round otherwise where its shape is another.
        So a sample has the same bits whoever draws it, at one batch size.
        Raises ReedError when a number is not finite.
        """
        indices = range(number * size, (number + 1) * size)
        device = str(next(self.net.parameters()).device)
        with computing(device, self.precision):
            drawn = self.domain.generate(self.net, self.fields, indices, options)
        for name, values in drawn.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                bad = np.isfinite(values.reshape(size, -1)).all(1).argmin()
                raise ReedError(
                    f"{name!r} of sample {indices[bad]} is not finite, drawn in {self.precision} "
                    f"from {self.about['checkpoint']}; try --precision fp32, or another checkpoint"
                )
        return drawn

    def draw(
        self, which: int | range, options: Any, *, batch: int = BATCH, progress: bool = True
    ) -> dict[str, np.ndarray]:
        """Some samples as arrays [N, ...] by name, in the scale of the stored data.

        which: how many, from 0, or a range of their numbers; options: the domain's. The numbers
        are the same for every range, and up to rounding for every batch.
        """
        which = range(which) if isinstance(which, int) else which
        numbers = range(which.start // batch, -(-which.stop // batch))
        parts = []
        with tqdm(
            total=len(numbers) * batch, unit="sample", disable=not progress, dynamic_ncols=True
        ) as bar:
            for number in numbers:
                parts.append(self.batch(number, options, batch))
                bar.update(batch)
        first = numbers.start * batch
        cut = slice(which.start - first, which.stop - first, which.step)
        return {name: np.concatenate([part[name] for part in parts])[cut] for name in parts[0]}
