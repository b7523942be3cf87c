"""Nets whose state-dict names are those of the public checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Tap:
    """A block of a net whose hidden states can be aligned.

    Attributes:
        width: Channels of a token's hidden state.
        tokens: Number of tokens; None if it varies.
        edges: Channels of the hidden state of an edge between two tokens; 0 if there are no edges.
    """

    width: int
    tokens: int | None
    edges: int = 0


@dataclass(frozen=True)
class GraphState:
    """The hidden states at a tap of a net on a graph, where a token is a node.

    Attributes:
        nodes: Hidden states of the nodes, [B, T, D].
        edges: Hidden states of the edges, [B, T, K, E].
        index: Token at the other end of each edge, int64 [B, T, K].
        real: Edges that exist, bool [B, T, K]; a token may have fewer than K neighbours.
    """

    nodes: Tensor
    edges: Tensor
    index: Tensor
    real: Tensor


# The hidden states at a tap: tokens [B, T, D], or nodes and edges.
State = Tensor | GraphState


class Net(nn.Module):
    """The interface of a net for the trainer and the sampler."""

    def taps(self) -> list[Tap]:
        """Return the blocks whose hidden states can be aligned; tap 1 is the first."""
        raise NotImplementedError

    def repeated(self) -> list[nn.Module]:
        """Return the modules that torch.compile compiles one by one; equal ones share a graph."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Mapping[int, State]]:
        """Return the prediction, and the hidden states at the taps in the keyword `taps`."""
        raise NotImplementedError
