"""Interpolants between data (t = 0) and noise (t = 1), and distributions of training times.

Source: stochastic interpolants in SiT (arXiv 2401.08740), section 2 and table 1 there; the names
and constants are those of the REPA and REED code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from reed.errors import ReedError, suggest

Time = TypeVar("Time", float, Tensor)


class Coefficients(NamedTuple):
    """Coefficients of x_t = alpha x + sigma noise and their derivatives by t, shaped like t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


@dataclass(frozen=True)
class Path:
    """One interpolant.

    Attributes:
        at: Maps times to coefficients.
        time_at: Maps a ratio sigma / alpha to the time in [0, 1] at which it holds.
    """

    at: Callable[[Tensor], Coefficients]
    time_at: Callable[[Tensor], Tensor]


def _linear(t: Tensor) -> Coefficients:
    one = torch.ones_like(t)
    return Coefficients(1 - t, t, -one, one)


def _cosine(t: Tensor) -> Coefficients:
    half_pi = math.pi / 2
    cos, sin = torch.cos(half_pi * t), torch.sin(half_pi * t)
    return Coefficients(cos, sin, -half_pi * sin, half_pi * cos)


PATHS = {
    "linear": Path(_linear, lambda s: s / (1 + s)),
    "cosine": Path(_cosine, lambda s: 2 / math.pi * torch.atan(s)),
}


def get_path(name: str) -> Path:
    """Return the path called ``name``; ReedError suggests the nearest name if there is none."""
    if name not in PATHS:
        raise ReedError(f"unknown path {name!r}.{suggest(name, PATHS)}")
    return PATHS[name]


class Interpolated(NamedTuple):
    """The noised sample x_t and its velocity d x_t / dt, both shaped like the data."""

    x_t: Tensor
    velocity: Tensor


def interpolate(path: Path, x: Tensor, noise: Tensor, t: Tensor) -> Interpolated:
    """Noise samples, and return the velocities that a net should predict for them.

    On the linear path the velocity is noise - x.

    Args:
        path: The interpolant.
        x: Data, [B, ...].
        noise: Noise, [B, ...].
        t: Times, [B].
    """
    assert t.shape == x.shape[:1] and noise.shape == x.shape, (t.shape, x.shape, noise.shape)
    c = path.at(t.view(-1, *[1] * (x.ndim - 1)))  # every coefficient is [B, 1, ...]
    return Interpolated(c.alpha * x + c.sigma * noise, c.d_alpha * x + c.d_sigma * noise)


def velocity_to(path: Path, x: Tensor, x_t: Tensor, t: Tensor, floor: float) -> Tensor:
    """Return the velocity at x_t that leads to the data x, on a net that predicts x.

    On the linear path it is (x_t - x) / max(t, floor). Source: JiT (arXiv 2511.13720).

    Args:
        path: The interpolant.
        x: Data, [B, ...].
        x_t: Noised data, [B, ...].
        t: Times, [B].
        floor: Smallest divisor.
    """
    c = path.at(t.view(-1, *[1] * (x.ndim - 1)))
    return c.d_sigma * x_t / c.sigma.clamp(min=floor) - steepness(path, t, floor, x.ndim) * x


def steepness(path: Path, t: Tensor, floor: float, ndim: int) -> Tensor:
    """Return what an error in x is multiplied by in the velocity of `velocity_to`, [B, 1, ...]."""
    c = path.at(t.view(-1, *[1] * (ndim - 1)))
    return (c.d_sigma * c.alpha - c.d_alpha * c.sigma) / c.sigma.clamp(min=floor)


def shifted(t: Time, shift: float) -> Time:
    """Return s t / (1 + (s - 1) t): the linear path's sigma / alpha is s times as large there.

    It moves times towards noise where data have many channels. Sources: Stable Diffusion 3 (arXiv
    2403.03206), section 5.3.2; RAE (arXiv 2510.11690).
    """
    return shift * t / (1 - t + shift * t)  # exact at t = 0 and t = 1


@dataclass(frozen=True)
class TimeLaw:
    """Turns random numbers into training times.

    Attributes:
        draws: Kind of random numbers, named like the method of reed.seeding.Draws.
        times: Maps numbers [B] and a path to times [B] in [0, 1].
        shift: Shift of the times towards noise, which the sampler's grid follows; 1 for none.
    """

    draws: Literal["uniform", "normal"]
    times: Callable[[Tensor, Path], Tensor]
    shift: float = 1.0


TIME_LAWS = {
    "uniform": TimeLaw("uniform", lambda numbers, path: numbers),
    # sigma / alpha is log-normal on every path (EDM, arXiv 2206.00364, with mean 0, std 1).
    "lognormal": TimeLaw("normal", lambda numbers, path: path.time_at(numbers.exp())),
    # t itself is logit-normal (SD3, arXiv 2403.03206); on the linear path this is "lognormal".
    "logit-normal": TimeLaw("normal", lambda numbers, path: numbers.sigmoid()),
}
SHIFT = "shift:"


def get_time_law(name: str) -> TimeLaw:
    """Return the law called ``name``, such as "uniform", "shift:4.9" or "logit-normal shift:4.9".

    Raises:
        ReedError: There is no such law (the message suggests the nearest name), or the shift is no
            positive number.
    """
    base, _, shift = name.rpartition(SHIFT) if SHIFT in name else (name, "", "")
    base = base.strip() or "uniform"  # a shift alone is one of uniform times
    if base not in TIME_LAWS:
        raise ReedError(f"unknown time law {base!r}.{suggest(base, TIME_LAWS)}")
    law = TIME_LAWS[base]
    if SHIFT not in name:
        return law

    # Text that is no number is refused like a number out of range.
    try:
        factor = float(shift)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ReedError(
            f"the shift of times is {shift!r}, it must be a positive number, as in 'shift:4.9'"
        )
    return replace(law, times=lambda n, path: shifted(law.times(n, path), factor), shift=factor)
