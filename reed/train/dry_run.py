"""What `reed-train --dry-run` shows of a recipe besides its settings."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from reed.guides.settings import GuideSpec
from reed.train.curriculum import Schedule, drawn, sketch


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
