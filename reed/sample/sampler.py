"""Sampling from trained weights: those of a run's checkpoint, or public ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from tqdm import tqdm

from reed import config, weights
from reed.cache.schema import Column, Field
from reed.domains.base import DOMAINS, Domain, Named
from reed.errors import ReedError
from reed.flows.autoguidance import Pair, check_pair
from reed.guides.bank import check_banks, open_banks
from reed.guides.guide import attach, guides_of
from reed.guides.steer import Steer
from reed.precision import OF_SAMPLING, computing, in_double
from reed.sample.chosen import weights_of
from reed.train import checkpoint
from reed.train.public import PublicWeights
from reed.train.recipe import TrainConfig
from reed.train.run_data import RunData

if TYPE_CHECKING:
    from reed.sample.compiled import Compiled

BATCH = 64  # default number of samples per batch
PROBLEM = "problem"  # array of a batch: what is wrong with each sample


class Sampler:
    """A trained net, ready to draw samples from.

    Args:
        net: The net, on its device.
        kind: Name of its domain.
        domain: The domain.
        fields: Fields that the net was trained on, by role.
        columns: Columns of these fields by role; empty if they are not known.
        about: Origin of the weights, for the recipe of the samples.
        name: Short name of the origin, as part of a file's name.
        precision: fp32 (without TF32), tf32, bf16 (autocast), or fp64, whose rounding errors are
            too small to show in an image.

    Raises:
        ReedError: There is no such precision.
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
        self.classes: tuple[str, ...] = ()  # their names, by number
        self.compiled: Compiled | None = None  # see reed.sample.compiled

    @property
    def step(self) -> int | None:
        """Optimizer steps of the weights; None if it is not known."""
        return self.about["step"]

    @classmethod
    def of_run(
        cls,
        run: Path,
        step: int | None = None,
        device: str = "cpu",
        *,
        ema: bool | str = True,
        precision: str = "fp32",
    ) -> Sampler:
        """Load a checkpoint of a run.

        Args:
            run: Folder of the run.
            step: Step of the checkpoint; None for the latest.
            device: Device of the net.
            ema: Whether to use the averaged weights instead of the model's; a name for those of one
                of several averages, of which True is the first.
            precision: See the class.

        Raises:
            ReedError: The run has no such checkpoint, or that has no such average.
        """
        checkpoint.find(run, step)
        settings = TrainConfig.of_run(run)
        found = weights_of(run, step, settings, ema)

        # The run keeps what it needs of its cache, which may be gone by now.
        data = RunData.of_run(run, settings.shards, settings.data)
        domain = data.make_domain(settings.domain)
        made = domain.net(data.fields)
        guides = attach(made, data.guides(settings.guide, made))
        net: nn.Module = made
        checkpoint.load_strict(net, found.net, f"{run} step {found.step}")
        if guides is not None:
            open_banks(guides, settings.shards, data.check_bank)
        about: dict[str, Any] = {
            "run": str(run),
            "checkpoint": str(found.file),
            "step": found.step,
            "ema": found.ema,
            "weights": weights.weights_sha256(found.file),
            "images_seen": found.images_seen,
            "convention": "reed",
            "domain": settings.domain,
            "fields": config.plain(data.fields),
            "config": config.plain(settings),
        }
        if guides is not None:
            about["guides"] = config.plain(settings.guide)
        columns = {
            role: data.columns[address.partition("/")[0]] for role, address in settings.data.items()
        }
        name = found.file.parent.name + found.suffix
        net = net.to(device)
        sampler = cls(net, data.domain, domain, data.fields, columns, about, name, precision)
        sampler.classes = data.classes
        return sampler

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
        """Make a sampler from the weights of a public checkpoint.

        Args:
            found: The checkpoint. Its net was trained on latents (stored - shift) * scale.
            device: Device of the net.
            heads: Attention heads; 0 if the weights tell.
            scale: See `found`.
            shift: See `found`.
            precision: See the class.

        Raises:
            ReedError: Weights are missing, unexpected or of another shape (the message lists
                them), or the net does not predict a velocity.
        """
        settings, kind = found.settings(heads), found.domain
        domain: Domain = config.build(DOMAINS.get(kind), settings, "domain")
        fields = found.fields(scale, shift)
        net: nn.Module = domain.net(fields)
        checkpoint.load_strict(net, found.net, str(found.path))
        # Public nets may count time from noise to data; ours is 0 for data and 1 for noise.
        net = found.on_our_time(net)

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
        return cls(net.to(device), kind, domain, fields, {}, about, name, precision)

    def check(self, num: int, options: Any) -> None:
        """Check that `num` samples can be drawn with these options.

        Raises:
            ReedError: A guide's bank has too few rows, the cache lacks the key of a prompt, or the
                options speak of guides that the net does not have.
        """
        if isinstance(self.net, Pair):
            check_pair(options.guidance)
        guides, steer = guides_of(self.net), getattr(options, "z", None)
        if isinstance(steer, Steer):  # the options of a user's domain may have another z, or none
            steer.check_used([] if guides is None else [g.spec.config.read for g in guides.all()])
        if guides is not None:
            check_banks(guides, num, options.z)

    def completed(self, options: Any) -> Any:
        """Return sampling options with numbers in place of names of classes."""
        is_named = isinstance(self.domain, Named)
        return self.domain.with_names(options, self.classes) if is_named else options

    def batch(
        self,
        number: int,
        options: Any,
        size: int,
        strict: bool = True,
        *,
        stop: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Draw samples number * size to (number + 1) * size - 1.

        A batch is full unless `stop` says otherwise, because a matrix product may round differently
        if its shape differs. So for one batch size a sample has the same bits, whichever process
        draws it.

        Args:
            number: Number of the batch.
            options: Sampling options of the domain.
            size: Samples per batch.
            strict: Whether to fail for one sample that is not finite. Otherwise the array
                ``problem``, text [size], says what is wrong with such samples; without it, nothing
                is wrong.
            stop: Number of the first sample that is not needed; None to draw the whole batch.

        Returns:
            Arrays [size, ...] by name; with ``stop``, they may be shorter.

        Raises:
            ReedError: A value is not finite; if not ``strict``, in every sample.
        """
        indices = range(number * size, (number + 1) * size)
        if stop is not None:
            indices = range(indices.start, min(indices.stop, stop))
            size = len(indices)
        device = str(next(self.net.parameters()).device)
        with computing(device, self.precision):
            drawn = self.domain.generate(self.net, self.fields, indices, options)
        if self.compiled is not None:
            self.compiled.drew(size)

        problems = [""] * size
        for name, values in drawn.items():
            if values.dtype.kind != "f":
                continue
            for row in np.flatnonzero(~np.isfinite(values.reshape(size, -1)).all(1)):
                problems[row] = problems[row] or f"{name!r} is not finite"
        # If no sample is finite, it is the checkpoint or the precision that is bad.
        if any(problems) and (strict or all(problems)):
            row = next(row for row, problem in enumerate(problems) if problem)
            name = problems[row].partition(" ")[0]
            raise ReedError(
                f"{name} of sample {indices[row]} is not finite, drawn in {self.precision} "
                f"from {self.about['checkpoint']}; try --precision fp32, or another checkpoint"
            )
        return drawn | ({PROBLEM: np.array(problems)} if any(problems) else {})

    def draw(
        self,
        which: int | range,
        options: Any,
        *,
        batch: int = BATCH,
        whole: bool = True,
        progress: bool = True,
    ) -> dict[str, np.ndarray]:
        """Draw samples in the scale of the stored data.

        A sample does not depend on the range, and only up to rounding on the batch size.

        Args:
            which: Number of samples, counted from 0, or a range of their indices.
            options: Sampling options of the domain.
            batch: Samples per batch.
            whole: Whether the last batch is drawn whole, which keeps the bits of its samples; else
                nothing behind the last sample is drawn.
            progress: Whether to show a progress bar.

        Returns:
            Arrays [N, ...] by name.
        """
        which = range(which) if isinstance(which, int) else which
        numbers = range(which.start // batch, -(-which.stop // batch))
        first, stop = numbers.start * batch, None if whole else which.stop
        end = numbers.stop * batch if whole else which.stop
        parts = []
        with tqdm(
            total=end - first, unit="sample", disable=not progress, dynamic_ncols=True
        ) as bar:
            for number in numbers:
                parts.append(self.batch(number, options, batch, stop=stop))
                bar.update(len(next(iter(parts[-1].values()))))
        cut = slice(which.start - first, which.stop - first, which.step)
        return {name: np.concatenate([part[name] for part in parts])[cut] for name in parts[0]}
