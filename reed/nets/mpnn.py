"""ProteinMPNN as a denoiser of sequences, with the key names of ProteinMPNN and of REED."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reed.errors import ReedError, at_least
from reed.nets import GraphState, Net, Tap
from reed.nets.layers import placed_dropout
from reed.nets.mpnn_features import ProteinFeatures, gather_nodes

LETTERS = 20  # of which a sequence is made; number 20 is X, any residue
MASK = 21  # the absorbing state, in a row after the public ones
VOCABULARY = MASK + 1
_SCALE = 30.0  # messages are summed and divided by this, whatever the number of neighbours


@dataclass(frozen=True)
class MPNNConfig:
    """The shape of the net; the defaults are those of REED's protein recipe.

    hidden: channels of nodes and of edges; encoder_layers, decoder_layers; neighbours: edges of a
    residue; dropout: chance that a channel is dropped in training.
    """

    hidden: int = 128
    encoder_layers: int = 3
    decoder_layers: int = 3
    neighbours: int = 30
    dropout: float = 0.1

    def __post_init__(self) -> None:
        at_least(
            1,
            "net: ",
            **{
                name: getattr(self, name)
                for name in ("hidden", "encoder_layers", "decoder_layers", "neighbours")
            },
        )
        if not 0 <= self.dropout < 1:
            raise ReedError(f"net: dropout is {self.dropout}, it must be in [0, 1)")


@dataclass(frozen=True)
class Encoded:
    """What the encoder knows of a structure; it depends on no sequence.

    nodes: [B, L, hidden]; edges: [B, L, K, hidden]; index, real: of the edges, [B, L, K];
    resolved: [B, L]; states: the taps that were asked for.
    """

    nodes: Tensor
    edges: Tensor
    index: Tensor
    real: Tensor
    resolved: Tensor
    states: dict[int, GraphState]

    def of(self, rows: Tensor) -> Encoded:
        """The structures number `rows`, [N] int64, as a batch of N; without taps."""
        parts = (self.nodes, self.edges, self.index, self.real, self.resolved)
        return Encoded(*(part.index_select(0, rows) for part in parts), {})


class _FeedForward(nn.Module):
    """Linear, GELU, Linear over four times the width. Keys: W_in, W_out."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.W_in = nn.Linear(hidden, 4 * hidden)
        self.W_out = nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.W_out(F.gelu(self.W_in(x)))


def _over_edges(linear: nn.Linear, nodes: Tensor, edges: Tensor, index: Tensor) -> Tensor:
    """linear([node, edge, neighbour]) for every edge, [B, L, K, hidden].

    Nodes are multiplied before they are gathered, so that it costs one product per residue in
    place of one per edge, and the concatenation is never built.
    """
    width = nodes.shape[-1]
    own, edge, other = linear.weight.split([width, edges.shape[-1], width], dim=1)
    ours = F.linear(nodes, own, linear.bias).unsqueeze(2)
    return ours + F.linear(edges, edge) + gather_nodes(F.linear(nodes, other), index)


class _Layer(nn.Module):
    """What encoder and decoder layers share: how a residue receives its messages.

    Layers take plain tensors, which torch.compile follows best; real masks edges, resolved
    residues, and seed [B] is that of each row's dropout in this layer, None for no dropout.
    """

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self._dropout = dropout
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.dense = _FeedForward(hidden)

    def drop(self, x: Tensor, seed: Tensor | None, which: int) -> Tensor:
        """Dropout number `which` of this layer."""
        return x if seed is None else placed_dropout(x, self._dropout, seed, which)

    def receive(
        self, nodes: Tensor, message: Tensor, real: Tensor, resolved: Tensor, seed: Tensor | None
    ) -> Tensor:
        """Nodes after the sum of their real messages and the feed-forward net."""
        total = (message * real.unsqueeze(-1)).sum(2) / _SCALE
        nodes = self.norm1(nodes + self.drop(total, seed, 0))
        nodes = self.norm2(nodes + self.drop(self.dense(nodes), seed, 1))
        return nodes * resolved.unsqueeze(-1)


class _EncoderLayer(_Layer):
    """Messages from the neighbours to nodes, then to edges.

    Keys: norm1-3, W1-3 (node messages), W11-13 (edge messages), dense.
    """

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__(hidden, dropout)
        self.norm3 = nn.LayerNorm(hidden)
        self.W1, self.W11 = (nn.Linear(3 * hidden, hidden) for _ in range(2))
        self.W2, self.W3, self.W12, self.W13 = (nn.Linear(hidden, hidden) for _ in range(4))

    def forward(
        self,
        nodes: Tensor,
        edges: Tensor,
        index: Tensor,
        real: Tensor,
        resolved: Tensor,
        seed: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        message = self.W3(F.gelu(self.W2(F.gelu(_over_edges(self.W1, nodes, edges, index)))))
        nodes = self.receive(nodes, message, real, resolved, seed)
        message = self.W13(F.gelu(self.W12(F.gelu(_over_edges(self.W11, nodes, edges, index)))))
        return nodes, self.norm3(edges + self.drop(message, seed, 2))


class _DecoderLayer(_Layer):
    """Messages from the neighbours and their letters to nodes, and an update of the edges.

    Keys: norm1, norm2, W1-3, dense as in ProteinMPNN, W_edge and norm_edge as in REED.
    """

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__(hidden, dropout)
        self.W1 = nn.Linear(4 * hidden, hidden)
        self.W2, self.W3 = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        wide = 3 * hidden
        self.W_edge = nn.Sequential(
            nn.LayerNorm(wide), nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, 2 * hidden)
        )
        self.norm_edge = nn.LayerNorm(2 * hidden)

    def forward(
        self,
        nodes: Tensor,
        edges: Tensor,
        index: Tensor,
        real: Tensor,
        resolved: Tensor,
        seed: Tensor | None,
        update: bool,
    ) -> tuple[Tensor, Tensor]:
        message = self.W3(F.gelu(self.W2(F.gelu(_over_edges(self.W1, nodes, edges, index)))))
        if update:
            change = self.W_edge(torch.cat([message, edges], -1))
            edges = self.norm_edge(edges + self.drop(change, seed, 2))
        return self.receive(nodes, message, real, resolved, seed), edges


class MPNN(Net):
    """Logits of every residue from a backbone and a partly masked sequence, and states to align.

    Taps are the encoder layers, then the decoder layers; a tap gives the states of the nodes
    (hidden channels) and of the edges (hidden in the encoder; twice that in the decoder, where an
    edge also knows the neighbour's letter). The last decoder layer changes no edge, because
    nothing would read it: its W_edge is there for the public names and is not trained.

    Keys and shapes are those of REED's public protein code without its projectors, in which the
    names of ProteinMPNN's public v_48_* weights are a strict subset.
    Sources: ProteinMPNN (Dauparas et al. 2022); REED (arXiv 2507.08980), released code.
    """

    def __init__(self, config: MPNNConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden
        self.features = ProteinFeatures(hidden, config.neighbours)
        self.node_embeds = nn.Parameter(torch.zeros(hidden))
        self.W_e = nn.Linear(hidden, hidden)
        self.W_s = nn.Embedding(VOCABULARY, hidden)
        self.encoder_layers = nn.ModuleList(
            _EncoderLayer(hidden, config.dropout) for _ in range(config.encoder_layers)
        )
        self.decoder_layers = nn.ModuleList(
            _DecoderLayer(hidden, config.dropout) for _ in range(config.decoder_layers)
        )
        self.W_out = nn.Linear(hidden, VOCABULARY)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        # a parameter that no loss reaches would stop training on several processes
        self.decoder_layers[-1].W_edge.requires_grad_(False)
        self.decoder_layers[-1].norm_edge.requires_grad_(False)

    def taps(self) -> list[Tap]:
        """The states after each encoder layer, then after each decoder layer."""
        config, hidden = self.config, self.config.hidden
        encoder = [Tap(hidden, None, hidden)] * config.encoder_layers
        decoder = [Tap(hidden, None, 2 * hidden)] * (config.decoder_layers - 1)
        return [*encoder, *decoder, Tap(hidden, None)]

    def repeated(self) -> list[nn.Module]:
        """The parts that torch.compile takes one by one: alike, so that they share a graph."""
        return [self.features, *self.encoder_layers, *self.decoder_layers]

    def forward(
        self,
        coords: Tensor,
        residues: Tensor,
        resolved: Tensor,
        number: Tensor,
        chain: Tensor,
        seed: Tensor | None = None,
        taps: Sequence[int] = (),
    ) -> tuple[Tensor, dict[int, GraphState]]:
        """Logits [B, L, 22] and the states at the layers named in `taps`, counted from 1.

        coords: [B, L, 4, 3] (N, CA, C, O) in A, finite everywhere; residues: [B, L] int64, places
        in reed.chem.protein.ALPHABET, or MASK; resolved: [B, L] bool, False for padding and missing
        residues, which join no graph; number: [B, L] place along the chain; chain: [B, L];
        seed: [B] int32 below 2^24, of each row's dropout, needed in training when that is on.
        Raises ReedError for a tap that is not a layer.
        """
        layers = self.config.encoder_layers + self.config.decoder_layers
        for tap in taps:
            if not 1 <= tap <= layers:
                raise ReedError(f"tap {tap} is not a layer of this net: use 1 to {layers}")
        encoded = self.encode(coords, resolved, number, chain, seed, taps)
        return self.decode(encoded, residues, seed, taps)

    def encode(
        self,
        coords: Tensor,
        resolved: Tensor,
        number: Tensor,
        chain: Tensor,
        seed: Tensor | None = None,
        taps: Sequence[int] = (),
    ) -> Encoded:
        """The half of the net that sees no letter: once per structure, however many are drawn."""
        edges, index, real = self.features(coords, resolved, number, chain)
        nodes, edges = resolved.unsqueeze(-1) * self.node_embeds, self.W_e(edges)
        states = {}
        for place, layer in enumerate(self.encoder_layers, start=1):
            own = self._seed(seed, place)
            nodes, edges = layer(nodes, edges, index, real, resolved, own)
            if place in taps:
                states[place] = GraphState(nodes, edges, index, real)
        return Encoded(nodes, edges, index, real, resolved, states)

    def decode(
        self,
        encoded: Encoded,
        residues: Tensor,
        seed: Tensor | None = None,
        taps: Sequence[int] = (),
    ) -> tuple[Tensor, dict[int, GraphState]]:
        """The half of the net that sees the letters: residues [B, L] -> logits [B, L, 22]."""
        index, real, states = encoded.index, encoded.real, dict(encoded.states)
        letters = gather_nodes(self.W_s(residues), index)  # [B, L, K, hidden]
        nodes, edges = encoded.nodes, torch.cat([encoded.edges, letters.to(encoded.edges)], -1)
        first = self.config.encoder_layers + 1
        last = self.config.encoder_layers + self.config.decoder_layers
        for place, layer in enumerate(self.decoder_layers, start=first):
            own = self._seed(seed, place)
            nodes, edges = layer(
                nodes, edges, index, real, encoded.resolved, own, update=place < last
            )
            if place in taps:
                states[place] = GraphState(nodes, edges, index, real)
        return self.W_out(nodes), states

    def _seed(self, seed: Tensor | None, place: int) -> Tensor | None:
        """The seed of a layer's dropout; seeds of rows have 24 bits."""
        if not self.training or self.config.dropout == 0:
            return None
        assert seed is not None, "training with dropout needs a seed per row"
        return seed + (place << 24)

    def adopt(self, weights: Mapping[str, Tensor], what: str) -> list[str]:
        """Start from ProteinMPNN's or REED's public weights; returns what to tell the user.

        ProteinMPNN has 21 letters: the mask's row of W_s and W_out stays as it is, and so does
        what updates edges. Raises ReedError for keys that the net lacks or has in another shape.
        """
        own = self.state_dict()
        ours = {name: v for name, v in weights.items() if not name.startswith("projectors_")}
        for name in ("W_s.weight", "W_out.weight", "W_out.bias"):
            rows = ours.get(name)
            if rows is not None and len(rows) == MASK and rows.shape[1:] == own[name].shape[1:]:
                ours[name] = torch.cat([rows, own[name][MASK:].to(rows)])
        wrong = [n for n in ours if n not in own or own[n].shape != ours[n].shape]
        if wrong or not ours:
            problem = f"{wrong[0]} is not in this net, or has another shape" if wrong else "empty"
            raise ReedError(f"{what} does not fit the net: {problem}; public nets are the default")
        self.load_state_dict(ours, strict=False)
        fresh = [name for name in own if name not in ours]
        some = ", ".join(fresh[:3]) + (", …" if len(fresh) > 3 else "")
        left = f"; {len(fresh)} tensors start fresh: {some}" if fresh else ""
        return [f"{what}: starting from its weights{left}"]
