"""When a representation enters: the density alpha(t) of the time t*, and A(t) = P(t* >= t)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reed.errors import ReedError, suggest
from reed.flows.time_weight import KINDS, SIGMOID, WINDOW, TimeWeight

START, NEVER = "start", "never"
_HALVINGS = 60  # of [0, 1], after which the inverse of A is exact in float64


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _sigmoid(t: Tensor, weight: TimeWeight) -> Tensor:
    high = F.softplus(-weight.k * (t - weight.tau))
    low = _softplus(-weight.k * (1 - weight.tau))  # the antiderivative at t = 1
    return (high - low) / _sigmoid_total(weight)


def _sigmoid_total(weight: TimeWeight) -> float:
    """Return k times the integral of a sigmoid from 0 to 1."""
    return _softplus(weight.k * weight.tau) - _softplus(-weight.k * (1 - weight.tau))


def _loglinear(t: Tensor) -> Tensor:
    rest = 2 * t - (1 + t) * torch.log1p(t)  # the integral of 1 - ln(1 + s) from 0 to t
    return 1 - rest / (2 - 2 * math.log(2))


# Integrals of the weights in reed.flows.time_weight from t to 1, as shares of the whole.
SHARES: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": lambda t: 1 - t,
    "linear": lambda t: (1 - t) ** 2,
    "cosine": lambda t: (1 - t) - torch.sin(math.pi * t) / math.pi,
    "sigmoid": lambda t: _sigmoid(t, TimeWeight(SIGMOID)),
    "loglinear": _loglinear,
}


@dataclass(frozen=True)
class When:
    """The law of the time t* at which a representation is drawn; 0 is data and 1 is noise.

    Attributes:
        kind: start (t* = 1), never, or a kind of time weight, which is alpha up to its scale.
        weight: That time weight; None for start and never.
    """

    kind: str
    weight: TimeWeight | None = None

    @classmethod
    def of(cls, data: Any, where: str) -> When:
        """Make the law from a setting.

        Args:
            data: start, never, or a time weight (see TimeWeight.of).
            where: Name of the setting, for messages.

        Raises:
            ReedError: There is no such law, or it integrates to zero.
        """
        if data in (START, NEVER):
            return cls(data)
        if not isinstance(data, Mapping) and data not in (*KINDS, WINDOW):
            known = [START, NEVER, *KINDS]
            raise ReedError(
                f"{where} is {data!r}, no law of t*.{suggest(str(data), known)}, or a window, "
                "{ kind = 'cutoff', low = 0.2, high = 0.7 }"
            )
        weight = TimeWeight.of(data, where)
        if weight.kind == WINDOW and weight.low == weight.high:
            raise ReedError(
                f"{where}: the window from {weight.low:g} to {weight.high:g} has no width, so that "
                "alpha integrates to zero; widen it, or use start or never"
            )
        return cls(weight.kind, weight)

    @property
    def is_start(self) -> bool:
        """Whether t* = 1 for every sample."""
        return self.kind == START

    @property
    def is_never(self) -> bool:
        """Whether the representation never enters."""
        return self.kind == NEVER

    def share(self, t: Tensor) -> Tensor:
        """Return A(t) = P(t* >= t), shaped like t: the share of samples that have z at time t."""
        if self.weight is None:
            return torch.full_like(t, float(self.is_start))
        if self.kind == WINDOW:
            low, high = self.weight.low, self.weight.high
            return ((high - t) / (high - low)).clamp(0, 1)
        share = _sigmoid(t, self.weight) if self.kind == SIGMOID else SHARES[self.kind](t)
        return share.clamp(0, 1)  # rounding may leave [0, 1] by 1e-8

    def density(self, t: Tensor) -> Tensor:
        """Return alpha(t) where it is a density, [B] -> [B]; 0 for start and never."""
        if self.weight is None:
            return torch.zeros_like(t)
        if self.kind == WINDOW:
            return self.weight(t) / (self.weight.high - self.weight.low)
        if self.kind == SIGMOID:
            return self.weight(t) / (_sigmoid_total(self.weight) / self.weight.k)
        totals = {"constant": 1.0, "loglinear": 2 - 2 * math.log(2)}  # 1/2 for the others
        return self.weight(t) / totals.get(self.kind, 0.5)

    def times(self, u: Tensor) -> Tensor:
        """Return the times t* at which A falls to u; for uniform u their density is alpha.

        Args:
            u: Numbers in [0, 1), float64 [B].
        """
        if self.weight is None:
            return torch.full_like(u, 1.0 if self.is_start else -1.0)
        low, high = torch.zeros_like(u), torch.ones_like(u)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            later = self.share(middle) > u  # not >=: nothing is drawn where A is 0
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        return low
