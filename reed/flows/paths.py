"""Interpolants between data (t = 0) and noise (t = 1), and the laws that times are drawn from.

Source: stochastic interpolants in SiT (arXiv 2401.08740), section 2 and table 1 there; the names
and constants are those of the REPA and REED code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from reed.errors import ReedError, suggest


class Coefficients(NamedTuple):
    """x_t = alpha x + sigma noise, and the derivatives of both by t; all shaped like t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


@dataclass(frozen=True)
class Path:
    """One interpolant.

    at(t): its coefficients; time_at(s): the t in [0, 1] at which sigma / alpha = s.
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
    """The path called `name`; raises ReedError with the nearest name when there is none."""
    if name not in PATHS:
        raise ReedError(f"unknown path {name!r}.{suggest(name, PATHS)}")
    return PATHS[name]


class Interpolated(NamedTuple):
    """The noised sample x_t and the velocity d x_t / dt, both shaped like the data."""

    x_t: Tensor
    velocity: Tensor


def interpolate(path: Path, x: Tensor, noise: Tensor, t: Tensor) -> Interpolated:
    """The noised samples and the velocity that the net is to predict there.

    x, noise: [B, ...]; t: [B]. Linear: velocity = noise - x.
    """
    assert t.shape == x.shape[:1] and noise.shape == x.shape, (t.shape, x.shape, noise.shape)
    c = path.at(t.view(-1, *[1] * (x.ndim - 1)))  # each [B, 1, ...]
    return Interpolated(c.alpha * x + c.sigma * noise, c.d_alpha * x + c.d_sigma * noise)


@dataclass(frozen=True)
class TimeLaw:
    """How random numbers become times.

    draws: the kind of numbers to hand in, named like the method of reed.seeding.Draws;
    times(numbers, path): [B] -> [B] in [0, 1].
    """

    draws: Literal["uniform", "normal"]
    times: Callable[[Tensor, Path], Tensor]


TIME_LAWS = {
    "uniform": TimeLaw("uniform", lambda numbers, path: numbers),
    # sigma / alpha is log-normal, whatever the path (EDM, arXiv 2206.00364, with mean 0, std 1)
    "lognormal": TimeLaw("normal", lambda numbers, path: path.time_at(numbers.exp())),
}


def get_time_law(name: str) -> TimeLaw:
    """The law called `name`; raises ReedError with the nearest name when there is none."""
    if name not in TIME_LAWS:
        raise ReedError(f"unknown law of times {name!r}.{suggest(name, TIME_LAWS)}")
    return TIME_LAWS[name]
