"""Nets, with the state-dict names of the public checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Tap:
    """One place of a net whose hidden state can be aligned.

    width: channels of the hidden state; tokens: how many it has, None where that varies;
    edges: channels of the state of an edge between two tokens, 0 where the net has none.
    """

    width: int
    tokens: int | None
    edges: int = 0


@dataclass(frozen=True)
class GraphState:
    """The hidden state at a tap of a net on a graph, whose tokens are its nodes.

    nodes: [B, T, D]; edges: [B, T, K, E]; index: [B, T, K] int64, the token at the other end of an
    edge; real: [B, T, K], False where a token has fewer than K neighbours.
    """

    nodes: Tensor
    edges: Tensor
    index: Tensor
    real: Tensor


State = Tensor | GraphState  # of a net at a tap: tokens [B, T, D], or those and their edges


class Net(nn.Module):
    """What the trainer and the sampler ask of a net, besides what every module of torch has."""

    def taps(self) -> list[Tap]:
        """The places whose hidden states can be aligned; tap 1 is the first."""
        raise NotImplementedError

    def repeated(self) -> list[nn.Module]:
        """The parts that torch.compile takes one by one; those that are alike share a graph."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Mapping[int, State]]:
        """The prediction, and the states at the taps that the keyword `taps` names."""
        raise NotImplementedError
