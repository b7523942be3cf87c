"""From noise to samples with a trained velocity: ODE (Euler, Heun) and SDE (Euler-Maruyama).

Time runs from 1 (noise) to 0 (data). Source: SiT (arXiv 2401.08740), sections 2 and 3; the grids,
the diffusion coefficient 2t and the guidance interval are those of the REPA and REED code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reed.errors import ReedError, at_least
from reed.flows.paths import Path

# velocity(x [B, ...] float64, t, t at the beginning of the step) -> [B, ...] float64
Velocity = Callable[[Tensor, float, float], Tensor]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance with `scale`, on for steps that begin at low <= t <= high.

    Scale 1 is off. Raises ReedError for a scale below 1 or an empty interval.
    Sources: arXiv 2207.12598 and, for the interval, arXiv 2404.07724.
    """

    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale >= 1:
            raise ReedError(f"guidance scale is {self.scale}, it must be at least 1 (1 = off)")
        if not 0 <= self.low <= self.high <= 1:
            raise ReedError(
                f"guidance interval [{self.low}, {self.high}] is empty or outside [0, 1]; "
                "t = 0 is data and t = 1 is noise"
            )

    def is_on(self, t: float) -> bool:
        """Whether a step that begins at time t is guided (both ends of the interval are)."""
        return self.scale > 1 and self.low <= t <= self.high


def guided_velocity(
    net: nn.Module, y: Tensor, null_class: int | None, guidance: Guidance
) -> Velocity:
    """The velocity of `net` for labels y, v_null + scale (v_y - v_null) where guidance is on.

    net(x [B, C, H, W] float32, t [B] float32, y [B]) -> (velocity, states); y: [B] int64;
    null_class: the label that means "no label", or None for a net without one.
    Only guided steps pay for a doubled batch: the labelled half first, then the null half.
    Raises ReedError when guidance is asked of a net without a null class.
    """
    null = None if null_class is None else torch.full_like(y, null_class)
    if guidance.scale > 1 and null is None:
        raise ReedError(
            f"guidance scale {guidance.scale} needs a net trained with a null class, and this "
            "one has none; sample with scale 1"
        )

    def velocity(x: Tensor, t: float, step_start: float) -> Tensor:
        # by the start of the step, so that both evaluations of a Heun step agree
        guided = guidance.is_on(step_start)
        inputs, labels = x.float(), y
        if guided:
            assert null is not None  # else guidance is off
            inputs = torch.cat([inputs, inputs])
            labels = torch.cat([y, null])
        times = torch.full((len(inputs),), t, dtype=torch.float32, device=x.device)
        v = net(inputs, times, labels)[0].double()
        if not guided:
            return v
        v_label, v_null = v.chunk(2)
        return v_null + guidance.scale * (v_label - v_null)

    return velocity


@torch.no_grad()
def ode(velocity: Velocity, x: Tensor, steps: int, heun: bool = False) -> Tensor:
    """Integrates dx/dt = velocity from t = 1 to t = 0 in equal steps, by Euler or Heun.

    x: noise [B, ...]; returns samples [B, ...] float64. Calls `velocity` once per step, with Heun
    twice but for the last step, which has no corrector. Raises ReedError when steps < 1.
    """
    check_steps(steps)
    x = x.double()
    # torch's grid, not numpy's: they differ in the last bit, and that decides guidance at the
    # ends of its interval
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
    for i in range(steps):
        t, t_next = grid[i], grid[i + 1]
        v = velocity(x, t, t)
        ahead = x + (t_next - t) * v
        if heun and i < steps - 1:
            ahead = x + (t_next - t) * 0.5 * (v + velocity(ahead, t_next, t))
        x = ahead
    return x


@torch.no_grad()
def sde(
    velocity: Velocity,
    x: Tensor,
    steps: int,
    path: Path,
    noise: Callable[[int], Tensor],
    last_step: float = 0.04,
) -> Tensor:
    """Integrates the reverse SDE with diffusion coefficient w = 2t by Euler-Maruyama.

    The grid is `steps` equally spaced times from 1 to `last_step`, then 0; the step to 0 adds no
    noise. x: noise [B, ...]; noise(i): standard normal numbers shaped like x for step i, counted
    from 0, called steps - 1 times; returns samples [B, ...] float64.
    Raises ReedError when steps < 1 or last_step is outside (0, 1).
    """
    check_steps(steps)
    if not 0 < last_step < 1:
        raise ReedError(f"sampler: last_step is {last_step}, it must lie between 0 and 1")
    x = x.double()
    grid = [*torch.linspace(1, last_step, steps, dtype=torch.float64).tolist(), 0.0]
    for i in range(steps):
        t, dt = grid[i], grid[i + 1] - grid[i]
        v = velocity(x, t, t)
        x = x + (v - t * _score(path, v, x, t)) * dt
        if i < steps - 1:
            x = x + math.sqrt(2 * t * -dt) * noise(i).to(x)
    return x


def _score(path: Path, v: Tensor, x: Tensor, t: float) -> Tensor:
    """Compute grad log p_t at x from the velocity there (SiT, section 2), shaped like x."""
    c = path.at(torch.tensor(t, dtype=torch.float64))
    ratio = c.alpha / c.d_alpha
    return (ratio * v - x) / (c.sigma**2 - ratio * c.d_sigma * c.sigma)


def check_steps(steps: int) -> None:
    """ReedError when there is no step."""
    at_least(1, "sampler: ", steps=steps)
