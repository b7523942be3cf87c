"""Nets, with the state-dict names of the public checkpoints."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tap:
    """One place of a net whose hidden state can be aligned.

    width: channels of the hidden state; tokens: how many it has, None where that varies.
    """

    width: int
    tokens: int | None
