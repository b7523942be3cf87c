"""Nets, with the state-dict names of the public checkpoints."""

from dataclasses import dataclass

from torch import Tensor


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
