"""Samplers with a trained velocity: ODE (Euler, Heun) and SDE (Euler-Maruyama).

Time runs from 1 (noise) to 0 (data). Source: SiT (arXiv 2401.08740), sections 2 and 3; the grids,
the diffusion coefficient 2t and the guidance interval are those of the REPA and REED code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reed.config import option
from reed.errors import ReedError, at_least
from reed.flows.paths import Path, shifted

LAST_STEP = 0.04  # time at which the last step of the SDE begins

# Maps x [B, ...] float64, t and the t at the beginning of the step to a velocity, shaped like x.
Velocity = Callable[[Tensor, float, float], Tensor]
# Maps what a net predicted, x and t to a velocity, both in float64.
Reading = Callable[[Tensor, Tensor, float], Tensor]


def as_it_is(prediction: Tensor, x: Tensor, t: float) -> Tensor:
    """Return the prediction of a net that predicts the velocity."""
    return prediction


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance, on for steps that begin at ``low`` <= t <= ``high``.

    Sources: arXiv 2207.12598 and, for the interval, arXiv 2404.07724.

    Attributes:
        scale: Scale of the guidance, at least 1; 1 turns it off.
        low: First time of the interval.
        high: Last time of the interval.

    Raises:
        ReedError: The scale is below 1 or infinite, or the interval is empty.
    """

    scale: float = option(
        1.0, "Scale of classifier-free guidance; 1 turns it off.", flag="guidance", metavar="SCALE"
    )
    low: float = option(
        0.0,
        "Times at which guidance acts; 0 is data, 1 is noise.",
        flag="interval",
        metavar="LOW HIGH",
    )
    high: float = option(1.0, "The last of these times.", flag="interval")

    def __post_init__(self) -> None:
        check_scale("guidance scale", self.scale)
        check_interval("guidance interval", self.low, self.high)

    def is_on(self, t: float) -> bool:
        """Whether a step that begins at time t is guided; the interval is closed."""
        return self.scale > 1 and self.low <= t <= self.high

    def check_null(self, null_class: int | None) -> None:
        """Raise ReedError if guidance is on, but the net has no label that means "no label"."""
        if self.scale > 1 and null_class is None:
            raise ReedError(
                f"guidance scale {self.scale} needs a net trained with a null class, and this "
                "one has none; sample with scale 1"
            )


def check_scale(name: str, scale: float) -> None:
    """Raise ReedError unless a scale of guidance is finite and at least 1."""
    if not 1 <= scale < math.inf:
        raise ReedError(f"{name} is {scale}, it must be a finite number and at least 1 (1 = off)")


def check_interval(name: str, low: float, high: float) -> None:
    """Raise ReedError unless an interval of times lies in [0, 1] and is not empty."""
    if not 0 <= low <= high <= 1:
        raise ReedError(
            f"{name} [{low}, {high}] is empty or outside [0, 1]; t = 0 is data and t = 1 is noise"
        )


def guided_velocity(
    net: nn.Module,
    y: Tensor,
    null_class: int | None,
    guidance: Guidance,
    read: Reading = as_it_is,
) -> Velocity:
    """Return the velocity of a net for given labels, guided where guidance is on.

    The guided velocity is v_null + scale (v_y - v_null). Only guided steps double the batch: the
    labelled half comes first, then the null half.

    Args:
        net: Maps x [B, C, H, W] float32, t [B] float32 and y [B] to (prediction, states).
        y: Labels, int64 [B].
        null_class: The label that means "no label"; None for a net without one.
        guidance: Scale and interval of the guidance.
        read: Makes a velocity of a prediction, or of a weighted mean of predictions.

    Raises:
        ReedError: Guidance is on, but the net has no null class.
    """
    guidance.check_null(null_class)
    null = None if null_class is None else torch.full_like(y, null_class)

    def velocity(x: Tensor, t: float, step_start: float) -> Tensor:
        # The start of the step decides, so that both evaluations of a Heun step agree.
        guided = guidance.is_on(step_start)
        inputs, labels = x.float(), y
        if guided:
            assert null is not None  # checked above
            inputs = torch.cat([inputs, inputs])
            labels = torch.cat([y, null])
        times = torch.full((len(inputs),), t, dtype=torch.float32, device=x.device)
        v = net(inputs, times, labels)[0].double()
        if not guided:
            return read(v, x, t)
        v_label, v_null = v.chunk(2)
        return read(v_null + guidance.scale * (v_label - v_null), x, t)

    return velocity


# Tensors that are integrated together, each on a time of its own; and a clock: global -> own time.
Parts = tuple[Tensor, ...]
Clock = Callable[[float], float]
# Maps parts, the global time and that of the beginning of the step to their velocities, each by its
# own time.
PartsVelocity = Callable[[Parts, float, float], Parts]


def same_time(clock: float) -> float:
    """Return the global time: the clock of a part that neither waits nor runs ahead."""
    return clock


def ode(
    velocity: Velocity, x: Tensor, steps: int, heun: bool = False, shift: float = 1.0
) -> Tensor:
    """Integrate dx/dt = velocity from t = 1 to t = 0, by Euler or Heun.

    Args:
        velocity: The velocity. Euler calls it once per step; Heun calls it twice, but only once in
            the last step, which has no corrector.
        x: Noise, [B, ...].
        steps: Number of steps.
        heun: Whether to use Heun's method instead of Euler's.
        shift: Shift of the times, which are equally spaced without it.

    Returns:
        Samples, float64 [B, ...].

    Raises:
        ReedError: ``steps`` is below 1.
    """
    return ode_parts(_alone(velocity), (x,), steps, (same_time,), heun, shift)[0]


@torch.no_grad()
def ode_parts(
    velocity: PartsVelocity,
    parts: Parts,
    steps: int,
    clocks: Sequence[Clock],
    heun: bool = False,
    shift: float = 1.0,
) -> Parts:
    """Integrate several tensors together, as `ode` integrates one; a clock for each of them."""
    check_steps(steps)
    parts = tuple(part.double() for part in parts)

    grid = [*starts(steps, shift=shift), 0.0]
    for i in range(steps):
        t, t_next = grid[i], grid[i + 1]
        spans = [clock(t_next) - clock(t) for clock in clocks]
        v = velocity(parts, t, t)
        ahead = _moved(parts, spans, v)

        # A corrector of the last step would need the velocity at t = 0.
        if heun and i < steps - 1:
            v_ahead = velocity(ahead, t_next, t)
            means = tuple(0.5 * (a + b) for a, b in zip(v, v_ahead, strict=True))
            ahead = _moved(parts, spans, means)
        parts = ahead
    return parts


def _moved(parts: Parts, spans: Sequence[float], v: Parts) -> Parts:
    return tuple(x + dt * part for x, dt, part in zip(parts, spans, v, strict=True))


def _alone(velocity: Velocity) -> PartsVelocity:
    return lambda parts, t, start: (velocity(parts[0], t, start),)


def sde(
    velocity: Velocity,
    x: Tensor,
    steps: int,
    path: Path,
    noise: Callable[[int], Tensor],
    last_step: float = LAST_STEP,
    shift: float = 1.0,
) -> Tensor:
    """Integrate the reverse SDE with diffusion coefficient w = 2t by Euler-Maruyama.

    The grid has ``steps`` times from 1 to ``last_step``, equally spaced before the shift, and then
    0. The step to 0 adds no noise.

    Args:
        velocity: The velocity.
        x: Noise, [B, ...].
        steps: Number of steps.
        path: The interpolant that the velocity was trained on.
        noise: Maps a step, counted from 0, to standard normal numbers shaped like x; it is called
            ``steps`` - 1 times.
        last_step: Time at which the last step begins.
        shift: Shift of the times, which are equally spaced without it.

    Returns:
        Samples, float64 [B, ...].

    Raises:
        ReedError: ``steps`` is below 1, or ``last_step`` is not between 0 and 1.
    """
    one = _alone(velocity)
    return sde_parts(one, (x,), steps, (path,), lambda step: (noise(step),), last_step, shift)[0]


@torch.no_grad()
def sde_parts(
    velocity: PartsVelocity,
    parts: Parts,
    steps: int,
    paths: Sequence[Path],
    noise: Callable[[int], Parts],
    last_step: float = LAST_STEP,
    shift: float = 1.0,
) -> Parts:
    """Integrate several tensors together, as `sde` integrates one, all on the same time."""
    check_steps(steps)
    if not 0 < last_step < 1:
        raise ReedError(f"sampler: last_step is {last_step}, it must lie between 0 and 1")
    parts = tuple(part.double() for part in parts)
    grid = [*starts(steps, last_step, shift), 0.0]
    for i in range(steps):
        t, dt = grid[i], grid[i + 1] - grid[i]
        both = zip(paths, parts, velocity(parts, t, t), strict=True)
        parts = tuple(x + (v - t * _score(path, v, x, t)) * dt for path, x, v in both)
        if i < steps - 1:
            scale = math.sqrt(2 * t * -dt)
            parts = tuple(x + scale * n.to(x) for x, n in zip(parts, noise(i), strict=True))
    return parts


def starts(steps: int, last_step: float | None = None, shift: float = 1.0) -> list[float]:
    """Return the times at which steps from t = 1 begin.

    Args:
        steps: Number of steps.
        last_step: Time at which the last one begins; None if the steps end at 0.
        shift: Shift of the times; with 1, they are equally spaced.
    """
    if shift != 1:
        before = None if last_step is None else shifted(last_step, 1 / shift)
        return [shifted(t, shift) for t in starts(steps, before)]

    # The grids of torch and numpy differ in the last bit, which decides about guidance at the ends
    # of its interval.
    if last_step is not None:
        return torch.linspace(1, last_step, steps, dtype=torch.float64).tolist()
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()[:-1]


def _score(path: Path, v: Tensor, x: Tensor, t: float) -> Tensor:
    """Compute grad log p_t at x from the velocity there (SiT, section 2), shaped like x."""
    c = path.at(torch.tensor(t, dtype=torch.float64))
    ratio = c.alpha / c.d_alpha
    return (ratio * v - x) / (c.sigma**2 - ratio * c.d_sigma * c.sigma)


def check_steps(steps: int) -> None:
    """Raise ReedError unless there is at least one step."""
    at_least(1, "sampler: ", steps=steps)
