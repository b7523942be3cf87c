"""AdamW whose methods do not import the compiler."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from reed.train.settings import OptimConfig


def _plain(name: str) -> Callable[..., Any]:
    """Return a method of torch's AdamW without its wrappers."""
    return cast(Callable[..., Any], inspect.unwrap(getattr(torch.optim.AdamW, name)))


class AdamW(torch.optim.AdamW):
    """torch's AdamW, without the wrappers that keep torch.compile out of its methods.

    These wrappers import torch._dynamo when they are first called, even if nothing is compiled.
    This takes more than a third of the time in which a run starts. The trainer compiles only
    blocks of nets, so no compiler ever sees an optimizer. The values are those of torch, bit for
    bit, and the hooks of `step` are called as ever.
    """

    @classmethod
    def of(cls, model: nn.Module, optim: OptimConfig) -> AdamW:
        """Make the optimizer of the weights that are trained, with torch's fused kernel."""
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        return cls(
            weights,
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=True,
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with settings of its own."""
        _plain("add_param_group")(self, param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once."""
        return _plain("step")(self, closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or set them to zero."""
        _plain("zero_grad")(self, set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parameters and the settings of all groups."""
        return _plain("state_dict")(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        _plain("load_state_dict")(self, state_dict)
