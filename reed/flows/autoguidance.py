"""AutoGuidance: a net guided by a weaker version of itself (arXiv 2406.02507)."""

from __future__ import annotations

from torch import Tensor, nn

from reed.errors import ReedError
from reed.flows.samplers import Guidance, Reading, Velocity, as_it_is


class Pair(nn.Module):
    """A net and the weaker one that guides it, which was trained less or is smaller.

    Args:
        net: The net that samples are drawn from.
        weak: The other one, for the same data and the same labels.
    """

    def __init__(self, net: nn.Module, weak: nn.Module) -> None:
        super().__init__()
        self.net, self.weak = net, weak


def check_pair(guidance: Guidance) -> None:
    """Raise ReedError if nothing would be guided."""
    if not guidance.scale > 1:
        raise ReedError(
            f"a weak run guides with a --guidance above 1, and it is {guidance.scale}; set it, or "
            "leave the weak run out"
        )


def autoguided_velocity(
    pair: Pair, y: Tensor, guidance: Guidance, read: Reading = as_it_is
) -> Velocity:
    """Return the velocity v_weak + scale (v - v_weak), where guidance is on; elsewhere v.

    Both nets see the same labels. The arguments are those of `guided_velocity` in
    reed.flows.samplers.

    Raises:
        ReedError: Guidance is off.
    """
    check_pair(guidance)

    def velocity(x: Tensor, t: float, step_start: float) -> Tensor:
        times = x.new_full((len(x),), t).float()
        v = pair.net(x.float(), times, y)[0].double()
        if guidance.is_on(step_start):
            v_weak = pair.weak(x.float(), times, y)[0].double()
            v = v_weak + guidance.scale * (v - v_weak)
        return read(v, x, t)

    return velocity
