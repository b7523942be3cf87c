"""How guides call the net of a sampler, which alone knows the inputs of the net."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from reed.nets import Extra, State


@dataclass(frozen=True)
class View:
    """How a guide looks at the samples of a batch at the beginning of a step.

    Attributes:
        states: Rows and what enters them -> the states at the requested taps.
        given: Rows -> what is known at t = 1, see `Net.given`.
        mask: Tokens that count, [B, T]; None if all do.
    """

    states: Callable[[Tensor, Extra, Sequence[int]], Mapping[int, State]]
    given: Callable[[Tensor], Tensor]
    mask: Tensor | None = None


# Labels on or off (one entry per copy of the batch), what enters, taps -> prediction and states.
Call = Callable[[list[bool], Extra, Sequence[int]], tuple[Any, Mapping[int, State]]]
