"""What `reed-train --dry-run` shows of a recipe besides its settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from reed.bytes import human
from reed.cache import files
from reed.guides.settings import GuideSpec
from reed.train.align import AlignedNet
from reed.train.curriculum import Schedule, drawn, sketch
from reed.train.recipe import Setup, TrainConfig, shapes_alone
from reed.wording import counted


def sketch_weights(schedules: Mapping[str, Schedule], lr: Schedule, steps: int) -> str:
    """Draw the weight of every loss, and below them the learning rate, as lines of text.

    Args:
        schedules: Loss name -> its weight; a guide may be called lr, too.
        lr: Factor of the learning rate.
        steps: Steps of the run.
    """
    name = "lr" if "lr" not in schedules else "optim.lr"
    return sketch({**schedules, name: lr}, steps)


def sketch_guides(guides: Mapping[str, GuideSpec], width: int = 48) -> str:
    """Draw A(t) of guides as lines of text, from t = 1 (noise) to t = 0 (data).

    Args:
        guides: Name -> guide.
        width: Bars in a line.
    """
    times = torch.linspace(1, 0, width, dtype=torch.float64)
    longest, lines = max(map(len, guides)), []
    for name, guide in guides.items():
        bars = drawn(guide.when.share(times).tolist(), 1.0)
        middle = float(guide.when.share(times.new_tensor(0.5)))
        ends = f"{middle:.4g} at t = 0.5; {guide.config.read}, {guide.config.enter}"
        lines.append(f"{name.ljust(longest)}  {bars}  {ends}")
    return "\n".join(lines)


def disk(setup: Setup) -> str:
    """Return a line on the disk space that the checkpoints and snapshots of a run will take."""
    settings = setup.config
    with shapes_alone():
        model = AlignedNet(setup.domain.net(setup.fields), setup.targets, setup.guides)
    own, average = _bytes(model.state_dict().values()), _bytes(model.net.state_dict().values())
    moments = 2 * _bytes(p for p in model.parameters() if p.requires_grad)
    averages = settings.averages().values()

    # A checkpoint has the weights, the optimizer's two moments, and every average of the net.
    whole = own + moments + average * len(averages)
    kept = _kept(settings)
    parts = [f"{counted(kept, 'checkpoint')} of {human(whole)}"]
    total = kept * whole
    if every := settings.every.snapshot:
        size = average * sum(each.sigma_rel > 0 for each in averages)
        parts.append(f"{counted(settings.steps // every, 'snapshot')} of {human(size)}")
        total += settings.steps // every * size

    free = files.free(settings.run)
    said = f"disk: {', '.join(parts)}, {human(total)} in all, {human(free)} free"
    said += f"; each of {counted(len(averages), 'average')} takes {human(average)} of a checkpoint"
    return said if total < free else f"{said}; make room, or lower keep"


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _kept(settings: TrainConfig) -> int:
    """Return the number of checkpoints at the end of a run, see `reed.train.checkpoint.prune`."""
    steps, save, keep = settings.steps, settings.every.save, settings.keep
    saved = sorted({steps, *(range(save, steps + 1, save) if save > 0 else ())})
    if not keep:
        return len(saved)
    interval = settings.every.keep
    older = [step for step in saved[:-keep] if interval and step % interval == 0]
    return len(saved[-keep:]) + len(older)
