"""ProteinMPNN as a denoiser of sequences, with the state-dict keys of ProteinMPNN and REED."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reed.errors import ReedError, at_least, suggest
from reed.nets import Extra, GraphState, Net, Tap, mpnn_public
from reed.nets.layers import masked_mean, placed_dropout
from reed.nets.mpnn_features import ProteinFeatures, gather_nodes

LETTERS = 20  # amino acids; index 20 is X, an unknown residue
MASK = 21  # the absorbing state; its row follows the rows that ProteinMPNN has
VOCABULARY = MASK + 1
MASKED = ("decoder", "encoder")  # choices of MPNNConfig.masked_neighbours
SCALE = 30.0  # messages are summed and divided by this, whatever the number of neighbours


@dataclass(frozen=True)
class MPNNConfig:
    """The sizes of the net; the defaults are those of REED's protein recipe.

    Attributes:
        hidden: Channels of a node and of an edge.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        neighbours: Edges of a residue.
        dropout: Probability that a channel is dropped in training.
        masked_neighbours: State of a neighbour without a letter that the layers of the decoder see:
            that of the layer below ("decoder", as in REED) or the one that enters the decoder
            ("encoder", as in ProteinMPNN).
    """

    hidden: int = 128
    encoder_layers: int = 3
    decoder_layers: int = 3
    neighbours: int = 30
    dropout: float = 0.1
    masked_neighbours: str = "decoder"

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
        if self.masked_neighbours not in MASKED:
            problem = f"net: masked_neighbours cannot be {self.masked_neighbours!r}"
            raise ReedError(f"{problem}.{suggest(self.masked_neighbours, MASKED)}")

    @property
    def keeps_masked(self) -> bool:
        """Whether neighbours without a letter keep the state that enters the decoder."""
        return self.masked_neighbours == "encoder"


@dataclass(frozen=True)
class Encoded:
    """The output of the encoder for structures; it does not depend on their sequences.

    Attributes:
        nodes: Hidden states of the residues, [B, L, hidden].
        edges: Hidden states of the edges, [B, L, K, hidden].
        index: Residue at the other end of each edge, [B, L, K].
        real: Edges that exist, [B, L, K].
        resolved: Residues that have coordinates, [B, L].
        states: Tap -> hidden states, for the taps that were requested.
    """

    nodes: Tensor
    edges: Tensor
    index: Tensor
    real: Tensor
    resolved: Tensor
    states: dict[int, GraphState]

    @property
    def mean(self) -> Tensor:
        """Mean of the nodes over the residues that have coordinates, [B, hidden]."""
        return masked_mean(self.nodes, self.resolved)

    def of(self, rows: Tensor) -> Encoded:
        """Return a batch of the structures with indices `rows`, int64 [N]."""
        parts = (self.nodes, self.edges, self.index, self.real, self.resolved)
        states = {tap: state.of(rows) for tap, state in self.states.items()}
        return Encoded(*(part.index_select(0, rows) for part in parts), states)


class _FeedForward(nn.Module):
    """Linear, GELU, Linear with four times the width between. Keys: W_in, W_out."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.W_in = nn.Linear(hidden, 4 * hidden)
        self.W_out = nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.W_out(F.gelu(self.W_in(x)))


def _over_edges(
    linear: nn.Linear, nodes: Tensor, edges: Tensor, index: Tensor, others: Tensor | None = None
) -> Tensor:
    """Compute linear([node, edge, neighbour]) for every edge, [B, L, K, hidden].

    Nodes are multiplied before they are gathered. This costs one product per residue instead of one
    per edge, and the concatenation is never built.

    Args:
        linear: The layer.
        nodes: States of the residues, [B, L, hidden].
        edges: States of the edges, [B, L, K, any].
        index: Residue at the other end of each edge, [B, L, K].
        others: States that residues show to their neighbours, [B, L, hidden]; by default `nodes`.
    """
    others = nodes if others is None else others
    width = nodes.shape[-1]
    for_node, for_edge, for_other = linear.weight.split([width, edges.shape[-1], width], dim=1)
    node = F.linear(nodes, for_node, linear.bias).unsqueeze(2)
    return node + F.linear(edges, for_edge) + gather_nodes(F.linear(others, for_other), index)


class _Layer(nn.Module):
    """The common part of encoder and decoder layers: the update of residues by their messages.

    Layers take plain tensors, which torch.compile handles best. Among them are `real` (edges that
    exist), `resolved` (residues that have coordinates), and `seed`, which is the seed of each
    sample's dropout in this layer, [B], or None for no dropout.
    """

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self._dropout = dropout
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.dense = _FeedForward(hidden)

    def drop(self, x: Tensor, seed: Tensor | None, which: int) -> Tensor:
        """Apply dropout number `which` of this layer."""
        return x if seed is None else placed_dropout(x, self._dropout, seed, which)

    def receive(
        self, nodes: Tensor, message: Tensor, real: Tensor, resolved: Tensor, seed: Tensor | None
    ) -> Tensor:
        """Update the nodes by the sum of their real messages, then by the feed-forward net."""
        total = (message * real.unsqueeze(-1)).sum(2) / SCALE
        nodes = self.norm1(nodes + self.drop(total, seed, 0))
        nodes = self.norm2(nodes + self.drop(self.dense(nodes), seed, 1))
        return nodes * resolved.unsqueeze(-1)


class _EncoderLayer(_Layer):
    """An encoder layer: messages from the neighbours update the nodes, then the edges.

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


class DecoderLayer(_Layer):
    """A decoder layer: messages from the neighbours and their letters update nodes and edges.

    Keys: norm1, norm2, W1-3 and dense as in ProteinMPNN; W_edge and norm_edge as in REED.
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
        others: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        over_edges = _over_edges(self.W1, nodes, edges, index, others)
        message = self.W3(F.gelu(self.W2(F.gelu(over_edges))))
        if update:
            change = self.W_edge(torch.cat([message, edges], -1))
            edges = self.norm_edge(edges + self.drop(change, seed, 2))
        return self.receive(nodes, message, real, resolved, seed), edges


class MPNN(Net):
    """ProteinMPNN: a backbone and a partly masked sequence -> logits of every residue.

    The taps are the encoder layers, then the decoder layers. A tap has the hidden states of the
    nodes (`hidden` channels) and of the edges (`hidden` channels in the encoder, twice as many in
    the decoder, where an edge also has the neighbour's letter). The last decoder layer does not
    update the edges, because nothing would read them. Its W_edge exists only so that all public
    names do, and is not trained.

    Keys and shapes are those of REED's public protein code without its projectors. The names of
    ProteinMPNN's public v_48_* weights are a strict subset of them. Sources: ProteinMPNN (Dauparas
    et al. 2022); REED (arXiv 2507.08980), released code.
    """

    enters = ("vector",)

    def __init__(self, config: MPNNConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden

        # The names of these attributes are the keys of the public checkpoints.
        self.features = ProteinFeatures(hidden, config.neighbours)
        self.node_embeds = nn.Parameter(torch.zeros(hidden))
        self.W_e = nn.Linear(hidden, hidden)
        self.W_s = nn.Embedding(VOCABULARY, hidden)
        self.encoder_layers = nn.ModuleList(
            _EncoderLayer(hidden, config.dropout) for _ in range(config.encoder_layers)
        )
        self.decoder_layers = nn.ModuleList(
            DecoderLayer(hidden, config.dropout) for _ in range(config.decoder_layers)
        )
        self.W_out = nn.Linear(hidden, VOCABULARY)

        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

        # A trainable parameter without a gradient would stop training on several processes.
        self.decoder_layers[-1].W_edge.requires_grad_(False)
        self.decoder_layers[-1].norm_edge.requires_grad_(False)

    def taps(self) -> list[Tap]:
        """Return one tap for each encoder layer, then one for each decoder layer."""
        config, hidden = self.config, self.config.hidden
        encoder = [Tap(hidden, None, hidden)] * config.encoder_layers
        decoder = [Tap(hidden, None, 2 * hidden)] * (config.decoder_layers - 1)
        return [*encoder, *decoder, Tap(hidden, None)]

    def repeated(self) -> list[nn.Module]:
        """Return the modules that torch.compile compiles one by one; equal ones share a graph."""
        return [self.features, *self.encoder_layers, *self.decoder_layers]

    @property
    def widths(self) -> tuple[int, int]:
        """Channels of what enters, and of the encoded structure."""
        return self.config.hidden, self.config.hidden

    def given(self, **inputs: Any) -> Tensor:
        """Return the mean of the encoder's states over the residues of a structure, [B, D]."""
        names = ("coords", "resolved", "number", "chain", "seed")
        encoded = self.encode(**{name: inputs[name] for name in names if name in inputs})
        return encoded.mean

    def forward(
        self,
        coords: Tensor,
        residues: Tensor,
        resolved: Tensor,
        number: Tensor,
        chain: Tensor,
        seed: Tensor | None = None,
        taps: Sequence[int] = (),
        extra: Extra | None = None,
    ) -> tuple[Tensor, dict[int, GraphState]]:
        """Return logits [B, L, 22] and tap -> hidden states.

        Args:
            coords: N, CA, C and O in angstroms, [B, L, 4, 3], finite everywhere.
            residues: Indices into reed.chem.protein.ALPHABET, or MASK, int64 [B, L].
            resolved: False for padding and for residues without coordinates, which have no edges,
                bool [B, L].
            number: Positions along the chain, [B, L].
            chain: Numbers of the chains, [B, L].
            seed: Seed of each sample's dropout, int32 below 2^24 [B]; required in training if
                dropout is on.
            taps: Layers whose hidden states are returned, counted from 1.
            extra: What guides add to the decoder's nodes.

        Raises:
            ReedError: A tap is not a layer.
        """
        layers = self.config.encoder_layers + self.config.decoder_layers
        for tap in taps:
            if not 1 <= tap <= layers:
                raise ReedError(f"tap {tap} is not a layer of this net: use 1 to {layers}")
        encoded = self.encode(coords, resolved, number, chain, seed, taps)
        return self.decode(encoded, residues, seed, taps, extra)

    def encode(
        self,
        coords: Tensor,
        resolved: Tensor,
        number: Tensor,
        chain: Tensor,
        seed: Tensor | None = None,
        taps: Sequence[int] = (),
    ) -> Encoded:
        """Run the encoder, which sees no letters: once per structure, for any number of designs."""
        edges, index, real = self.features(coords, resolved, number, chain)
        nodes, edges = resolved.unsqueeze(-1) * self.node_embeds, self.W_e(edges)
        states = {}
        for depth, layer in enumerate(self.encoder_layers, start=1):
            layer_seed = self._seed(seed, depth)
            nodes, edges = layer(nodes, edges, index, real, resolved, layer_seed)
            if depth in taps:
                states[depth] = GraphState(nodes, edges, index, real)
        return Encoded(nodes, edges, index, real, resolved, states)

    def decode(
        self,
        encoded: Encoded,
        residues: Tensor,
        seed: Tensor | None = None,
        taps: Sequence[int] = (),
        extra: Extra | None = None,
    ) -> tuple[Tensor, dict[int, GraphState]]:
        """Run the decoder: structures and residues [B, L] -> logits [B, L, 22] and states."""
        index, real, states = encoded.index, encoded.real, dict(encoded.states)
        letters = gather_nodes(self.W_s(residues), index)  # [B, L, K, hidden]
        nodes, edges = encoded.nodes, torch.cat([encoded.edges, letters.to(encoded.edges)], -1)
        if extra is not None and extra.vector is not None:
            nodes = nodes + extra.vector.unsqueeze(1) * encoded.resolved.unsqueeze(-1)

        # ProteinMPNN shows residues only the encoder's states of those that have no letter yet.
        entering, hidden = nodes, (residues == MASK).unsqueeze(-1)
        keeps = self.config.keeps_masked
        first = self.config.encoder_layers + 1
        last = self.config.encoder_layers + self.config.decoder_layers
        for number, layer in enumerate(self.decoder_layers, start=first):
            layer_seed = self._seed(seed, number)
            others = torch.where(hidden, entering.to(nodes), nodes) if keeps else None
            nodes, edges = layer(
                nodes, edges, index, real, encoded.resolved, layer_seed, number < last, others
            )
            if number in taps:
                states[number] = GraphState(nodes, edges, index, real)
        return self.W_out(nodes), states

    def _seed(self, seed: Tensor | None, layer: int) -> Tensor | None:
        """Return the seeds of a layer's dropout: its number above the samples' 24 bits."""
        if not self.training or self.config.dropout == 0:
            return None
        assert seed is not None, "training with dropout needs a seed per sample"
        return seed + (layer << 24)

    def adopt(
        self, weights: Mapping[str, Tensor], what: str, args: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Load public weights of ProteinMPNN or REED, and return the lines to show to the user.

        ProteinMPNN has no mask and no update of edges (see `mpnn_public.load`): the mask's
        letter is zero, and the update starts so that it changes little.

        Args:
            weights: State dict of the public net.
            what: The file, for messages.
            args: Settings that the file states.

        Raises:
            ReedError: The weights are empty, or have keys that the net lacks or has in another
                shape.
        """
        lines = mpnn_public.load(self, weights, what, MASK)
        return lines + mpnn_public.told(args or {}, what, self.config.neighbours)
