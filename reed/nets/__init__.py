"""Nets whose state-dict names are those of the public checkpoints."""

from __future__ import annotations

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

    def of(self, rows: Tensor) -> GraphState:
        """Return the states of some samples, rows int64 [N]."""
        parts = (self.nodes, self.edges, self.index, self.real)
        return GraphState(*(part.index_select(0, rows) for part in parts))


# The hidden states at a tap: tokens [B, T, D], or nodes and edges.
State = Tensor | GraphState


def nodes_of(hidden: State) -> Tensor:
    """Return the hidden states of the tokens at a tap, [B, T, D]."""
    return hidden.nodes if isinstance(hidden, GraphState) else hidden


ENTERS = ("vector", "token", "tokens")
FINAL = 2**31 - 1  # tap after all blocks: the states that the output layer reads


@dataclass(frozen=True)
class Extra:
    """What enters a net besides its inputs, already as wide as the net.

    Attributes:
        vector: Added to the condition of every block, [B, D].
        token: Tokens before the others, [B, n, D].
        tokens: Added to the tokens, one by one, [B, T, D].
    """

    vector: Tensor | None = None
    token: Tensor | None = None
    tokens: Tensor | None = None


class Net(nn.Module):
    """The interface of a net for the trainer and the sampler.

    A net that takes guides (see reed.guides) has the keyword `extra` in its forward pass.

    Attributes:
        enters: Parts of Extra that the net takes, names in ENTERS.
        beside: How a representation can be denoised beside x: "no", "together" with x, or "ahead"
            of it, too.
    """

    enters: tuple[str, ...] = ()
    beside: str = "no"

    def given(self, **inputs: Any) -> Tensor:
        """Return what is known of each sample at t = 1, [B, G], from the inputs of `forward`.

        At that time x is noise, so only the label, the structure or the size is known.
        """
        raise NotImplementedError

    @property
    def widths(self) -> tuple[int, int]:
        """Channels of what enters, and G of `given`."""
        raise NotImplementedError

    def taps(self) -> list[Tap]:
        """Return the blocks whose hidden states can be aligned; tap 1 is the first."""
        raise NotImplementedError

    def repeated(self) -> list[nn.Module]:
        """Return the modules that torch.compile compiles one by one; equal ones share a graph."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Mapping[int, State]]:
        """Return the prediction, and the hidden states at the taps in the keyword `taps`."""
        raise NotImplementedError
