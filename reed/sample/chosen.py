"""The weights of a run that samples are drawn from: an average, or the last ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from reed.train import averages, checkpoint, export
from reed.train.recipe import TrainConfig


@dataclass(frozen=True)
class Weights:
    """Weights of one checkpoint of a run.

    Attributes:
        step: Optimizer steps done.
        net: State dict of the net.
        file: File that holds them.
        images_seen: Samples seen in training; None if that is not known.
        ema: What a recipe of samples says: False for the last weights, True for the only average of
            a run, the name of an average where there are several.
        suffix: Part of the names of samples that says which weights they are from.
    """

    step: int
    net: dict[str, Tensor]
    file: Path
    images_seen: int | None
    ema: bool | str
    suffix: str


def weights_of(run: Path, step: int | None, settings: TrainConfig, ema: bool | str) -> Weights:
    """Read weights of a run's checkpoint.

    Args:
        run: Folder of the run.
        step: Step of the checkpoint; None for the latest.
        settings: Settings of the run.
        ema: Whether to read an average, the first one; a name for the average of that name.

    Raises:
        ReedError: The run has no such checkpoint, or that has no such average.
    """
    if not ema:
        saved = checkpoint.load(run, step, groups=("model",))
        file = checkpoint.find(run, saved.step)[1] / "model.safetensors"
        net, said, suffix = export.under("net.", saved.model), False, "-model"
    else:
        own = settings.averages()
        saved, average = averages.load(run, step, own, "" if ema is True else ema)
        # Sets that an earlier version drew of the only average state no name, and are extended.
        named = len(own) > 1 or not average.is_first
        net, file, said = saved.ema, average.file, average.name if named else True
        suffix = "" if average.is_first else f"-ema-{average.name}"
    return Weights(saved.step, net, file, saved.extra.get("samples"), said, suffix)
