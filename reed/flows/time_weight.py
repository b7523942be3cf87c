"""Weights of each sample's alignment loss as a function of its diffusion time.

These are the timestep weights alpha_t of REED (arXiv 2507.08980), in the form that its code has.
Here they are per sample, [B]; the released code broadcasts them over the batch, so that only their
mean acts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reed.errors import ReedError, suggest

KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": torch.ones_like,
    "linear": lambda t: 1 - t,
    "cosine": lambda t: (1 + torch.cos(math.pi * t)) / 2,
    "sigmoid": lambda t: torch.sigmoid(-10 * (t - 0.5)),
    "loglinear": lambda t: 1 - torch.log1p(t),
}
WINDOW, SIGMOID = "cutoff", "sigmoid"
KEYS = {WINDOW: ("low", "high"), SIGMOID: ("tau", "k")}  # kind -> the keys of its table
DEFAULTS = {"tau": 0.5, "k": 10.0}


@dataclass(frozen=True)
class TimeWeight:
    """A weight w(t) of a sample at time t, where 0 is data and 1 is noise.

    Attributes:
        kind: constant, linear 1-t, cosine (1+cos(pi t))/2, sigmoid 1/(1+exp(k(t-tau))),
            loglinear 1-ln(1+t), or cutoff, which is 1 for low <= t <= high and 0 elsewhere.
        low: Start of the window, for cutoff.
        high: End of the window, for cutoff.
        tau: Time at which sigmoid is one half; VA-REPA (arXiv 2602.05435) has 0.7.
        k: Steepness of sigmoid; VA-REPA has 20.
    """

    kind: str = "constant"
    low: float = 0.0
    high: float = 1.0
    tau: float = 0.5
    k: float = 10.0

    @classmethod
    def of(cls, data: Any, where: str) -> TimeWeight:
        """Make a time weight from a setting.

        Args:
            data: A name, or a table with the keys of its kind: {kind = "cutoff", low = 0.2, high =
                0.7}, {kind = "sigmoid", tau = 0.7, k = 20}.
            where: Name of the setting, for messages.

        Raises:
            ReedError: The kind or a key is unknown, or not 0 <= low <= high <= 1, 0 <= tau <= 1 and
                0 < k.
        """
        table = data if isinstance(data, Mapping) else {"kind": data}
        kind = table.get("kind")
        kinds = [*KINDS, WINDOW]
        if kind not in kinds:
            raise ReedError(f"{where}: unknown time weight {kind!r}.{suggest(str(kind), kinds)}")

        allowed = ["kind", *KEYS.get(kind, ())]
        for key in table:
            if key not in allowed:
                hint = suggest(str(key), allowed)
                raise ReedError(f"{where}: time weight {kind!r} has no key {key!r}.{hint}")
        if kind not in KEYS:
            return cls(kind)
        given = {key: table.get(key, DEFAULTS.get(key)) for key in KEYS[kind]}

        # A bool is an int to Python, but no bound of a window.
        first, second = (_number(value) for value in given.values())
        if kind == WINDOW and not 0 <= first <= second <= 1:
            raise ReedError(
                f"{where}: time weight 'cutoff' needs 0 <= low <= high <= 1, "
                f"but low is {given['low']} and high is {given['high']}"
            )
        if kind == SIGMOID and not (0 <= first <= 1 and 0 < second < math.inf):
            raise ReedError(
                f"{where}: time weight 'sigmoid' needs 0 <= tau <= 1 and a k above 0, "
                f"but tau is {given['tau']} and k is {given['k']}"
            )
        return cls(kind, **dict(zip(given, (first, second), strict=True)))

    def __call__(self, t: Tensor) -> Tensor:
        """Return the weights of samples at times t, [B] -> [B]."""
        # a [B, 1, 1, 1] here would silently turn per-sample weights into their mean
        assert t.ndim == 1, t.shape
        if self.kind == WINDOW:
            return ((t >= self.low) & (t <= self.high)).to(t.dtype)
        if self.kind == SIGMOID:
            return torch.sigmoid(-self.k * (t - self.tau))
        return KINDS[self.kind](t)


def _number(value: Any) -> float:
    """Return a number, or NaN for anything else, bools included."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


def time_weight(spec: str | Mapping[str, Any], t: Tensor) -> Tensor:
    """Return the weights of samples at times t, [B] -> [B]; for `spec` see TimeWeight.of."""
    return TimeWeight.of(spec, "time_weight")(t)
