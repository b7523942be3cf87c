"""The optimizer of a run: AdamW, for some groups with settings of their own, or beside Muon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from reed.train.adamw import AdamW
from reed.train.groups import MUON, assign, trainable
from reed.train.settings import OptimConfig

FACTOR = "factor"  # of the learning rate, in a group of the optimizer
# The update of a matrix is as large as AdamW's usually is, so that lr and weight decay can be the
# same (Moonlight, arXiv 2502.16982).
SCALE = "match_rms_adamw"


def optimizer_of(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """Make the optimizer of the weights that are trained.

    Raises:
        ReedError: The groups do not fit the model (see reed.train.groups).
    """
    if not optim.groups:
        return AdamW.of(model, optim)

    # A group of kind "muon" becomes two, because its vectors go to AdamW.
    named = trainable(model)
    adamw: list[dict[str, Any]] = []
    muon: list[dict[str, Any]] = []
    for name, members in assign(named, optim.groups).items():
        group = optim.groups.get(name)
        factor = group.lr if group else 1.0
        own = group.weight_decay if group else None
        shared = {
            FACTOR: factor,
            "lr": optim.lr * factor,
            "weight_decay": optim.weight_decay if own is None else own,
        }
        matrices = [n for n in members if group and group.kind == MUON and named[n].ndim == 2]
        others = [n for n in members if n not in set(matrices)]
        for parts, chosen in ((adamw, others), (muon, matrices)):
            if chosen:
                parts.append({"params": [named[n] for n in chosen], **shared})

    parts: list[torch.optim.Optimizer] = []
    if adamw:
        parts.append(AdamW(adamw, betas=optim.betas, eps=optim.eps, fused=True))
    if muon:
        parts.append(torch.optim.Muon(muon, adjust_lr_fn=SCALE))
    return parts[0] if len(parts) == 1 and adamw else Together(parts)


class Together(torch.optim.Optimizer):
    """Several optimizers as one, whose groups and state are theirs.

    Args:
        parts: The optimizers.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = tuple(parts)
        for part in parts:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once, unless `found_inf` is 1."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        found = getattr(self, "found_inf", None)
        for part in self._parts:
            if isinstance(part, AdamW):  # whose kernel reads the attribute without waiting
                part.found_inf = found  # ty: ignore[missing-attribute]  # as torch has it
                part.step()
            elif found is None or not found:
                part.step()
        return loss
