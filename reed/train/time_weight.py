"""How much each sample's alignment loss counts, by its diffusion time.

This is the code's form of the timestep weights alpha_t of REED (arXiv 2507.08980). The weights
are per sample, [B]; the released code broadcasts them over the batch, which averages them away.
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
WINDOW = "cutoff"


@dataclass(frozen=True)
class TimeWeight:
    """A weight w(t) by name.

    kind: constant, linear 1-t, cosine (1+cos(pi t))/2, sigmoid 1/(1+exp(10(t-1/2))), loglinear
    1-ln(1+t), or cutoff: 1 for low <= t <= high and 0 elsewhere. Time 0 is data.
    """

    kind: str = "constant"
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def of(cls, data: Any, where: str) -> TimeWeight:
        """The time weight that configuration data describes.

        data: a name, or for the window {kind = "cutoff", low = 0.2, high = 0.7}; where: the
        option's name, for the message. Raises ReedError with the nearest name for an unknown
        kind or key, and for bounds that are not 0 <= low <= high <= 1.
        """
        table = data if isinstance(data, Mapping) else {"kind": data}
        kind = table.get("kind")
        kinds = [*KINDS, WINDOW]
        if kind not in kinds:
            raise ReedError(f"{where}: unknown time weight {kind!r}.{suggest(str(kind), kinds)}")
        allowed = ["kind", "low", "high"] if kind == WINDOW else ["kind"]
        for key in table:
            if key not in allowed:
                hint = suggest(str(key), allowed)
                raise ReedError(f"{where}: time weight {kind!r} has no key {key!r}.{hint}")
        if kind != WINDOW:
            return cls(kind)
        low, high = table.get("low"), table.get("high")
        plain = [bound for bound in (low, high) if isinstance(bound, int | float)]
        numbers = [float(bound) for bound in plain if not isinstance(bound, bool)]
        if len(numbers) < 2 or not 0 <= numbers[0] <= numbers[1] <= 1:
            raise ReedError(
                f"{where}: time weight 'cutoff' needs 0 <= low <= high <= 1, "
                f"but low is {low} and high is {high}"
            )
        return cls(kind, *numbers)

    def __call__(self, t: Tensor) -> Tensor:
        """The weights of samples at times t, [B] -> [B]."""
        # a [B, 1, 1, 1] here would silently turn per-sample weights into their mean
        assert t.ndim == 1, t.shape
        if self.kind == WINDOW:
            return ((t >= self.low) & (t <= self.high)).to(t.dtype)
        return KINDS[self.kind](t)


def time_weight(spec: str | Mapping[str, Any], t: Tensor) -> Tensor:
    """The weights of samples at times t for configuration data, [B] -> [B]; see TimeWeight.of."""
    return TimeWeight.of(spec, "time_weight")(t)
