"""The decoder of an MPNN as designing runs it: only what a step changes and what it still needs.

In the first layer an edge depends on the letter of its neighbour alone, which changes once: it is
computed when that happens, not at every step. In the last layer, and in what leads to its edges,
only residues without a letter count, because nobody reads the logits of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from reed.nets.mpnn_features import gather_nodes

if TYPE_CHECKING:
    from reed.nets.mpnn import MPNN, DecoderLayer, Encoded


class DesignDecoder:
    """Maps letters [n, L] of some rows [n] to their logits, as `MPNN.decode` does without taps.

    Args:
        net: The net.
        encoded: The encoded structures, [B].
        mask: The letter of a residue that has none yet.
        scale: What sums of messages are divided by.
        letters: How many of the first logits are those of letters; only these are returned.
    """

    def __init__(self, net: MPNN, encoded: Encoded, mask: int, scale: float, letters: int) -> None:
        self._net, self._encoded = net, encoded
        self._layers = cast("list[DecoderLayer]", list(net.decoder_layers))
        self._mask, self._scale, self._letters = mask, scale, letters
        batch, length, neighbours = encoded.index.shape
        first = torch.arange(0, batch * length, length, device=encoded.index.device)
        self._places = (encoded.index + first.view(-1, 1, 1)).flatten(0, 1)  # [B L, K], of all rows

        # The letters of every row as the first layer has seen them, and what it made of them.
        self._seen = torch.full((batch, length), -1, device=encoded.index.device)
        self._messages = torch.zeros_like(encoded.edges)
        self._edges = torch.cat([encoded.edges, torch.zeros_like(encoded.edges)], -1)

    def __call__(self, letters: Tensor, rows: Tensor) -> Tensor:
        """Return the logits [n, L, V] of residues without a letter; 0 for the others."""
        self._advance(letters, rows)

        # A step that goes on with every row copies nothing.
        whole = len(rows) == len(self._seen)
        encoded = self._encoded if whole else self._encoded.of(rows)
        messages, edges = self._messages, self._edges
        if not whole:
            messages, edges = messages[rows], edges[rows]

        wanted = (letters == self._mask).flatten().nonzero().squeeze(1)
        layers = self._layers
        nodes = encoded.nodes
        for number, layer in enumerate(layers[:-1]):
            if number:
                messages = self._message(layer, nodes, edges, encoded, letters)
            received = layer.receive(nodes, messages, encoded.real, encoded.resolved, None)
            if number == len(layers) - 2:  # the last layer wants these edges alone
                edges, messages = (x.flatten(0, 1)[wanted] for x in (edges, messages))
            if number:
                edges = _updated(layer, edges, messages)
            nodes = received

        if len(layers) == 1:
            edges = edges.flatten(0, 1)[wanted]
        out = self._last(nodes, edges, encoded, letters, wanted)
        logits = out.new_zeros(letters.numel(), out.shape[-1])
        return logits.index_copy_(0, wanted, out).unflatten(0, letters.shape)

    def _advance(self, letters: Tensor, rows: Tensor) -> None:
        """Bring the first layer up to date with the letters [n, L] of these rows."""
        encoded, layer = self._encoded, self._layers[0]
        changed = torch.zeros_like(self._seen, dtype=torch.bool)
        changed[rows] = letters != self._seen[rows]
        self._seen[rows] = letters

        # Edges that are not real send nothing; they point to the residue itself.
        ends = self._places.flatten()
        which = changed.flatten()[ends].nonzero().squeeze(1)
        begins, ends = which // self._places.shape[1], ends[which]
        nodes = encoded.nodes.flatten(0, 1)
        spoken = self._net.W_s(self._seen.flatten()[ends]).to(nodes)
        edges = torch.cat([encoded.edges.flatten(0, 2)[which], spoken], -1)
        message = torch.cat([nodes[begins], edges, nodes[ends]], -1)
        message = layer.W3(F.gelu(layer.W2(F.gelu(layer.W1(message)))))
        self._messages.flatten(0, 2)[which] = message
        if len(self._layers) > 1:
            edges = _updated(layer, edges, message)
        self._edges.flatten(0, 2)[which] = edges

    def _others(self, nodes: Tensor, encoded: Encoded, letters: Tensor) -> Tensor:
        """Return the states that residues show to their neighbours."""
        hidden = (letters == self._mask).unsqueeze(-1)
        return torch.where(hidden, encoded.nodes, nodes) if self._net.config.keeps_masked else nodes

    def _message(
        self,
        layer: DecoderLayer,
        nodes: Tensor,
        edges: Tensor,
        encoded: Encoded,
        letters: Tensor,
    ) -> Tensor:
        """Return the messages of a layer, [n, L, K, hidden]."""
        width = nodes.shape[-1]
        for_node, for_edge, for_other = layer.W1.weight.split([width, edges.shape[-1], width], 1)
        over = F.linear(edges, for_edge)
        over += F.linear(nodes, for_node, layer.W1.bias).unsqueeze(2)
        others = self._others(nodes, encoded, letters)
        over += gather_nodes(F.linear(others, for_other), encoded.index)
        return layer.W3(F.gelu(layer.W2(F.gelu(over))))

    def _last(
        self, nodes: Tensor, edges: Tensor, encoded: Encoded, letters: Tensor, wanted: Tensor
    ) -> Tensor:
        """Return the logits of the wanted residues [m], whose edges are [m, K, 2 hidden]."""
        layer, width = self._layers[-1], nodes.shape[-1]
        for_node, for_edge, for_other = layer.W1.weight.split([width, edges.shape[-1], width], 1)
        others = F.linear(self._others(nodes, encoded, letters), for_other).flatten(0, 1)
        length = letters.shape[1]
        ends = encoded.index.flatten(0, 1)[wanted] + (wanted // length * length).unsqueeze(1)
        real, nodes = encoded.real.flatten(0, 1)[wanted], nodes.flatten(0, 1)[wanted]

        # The third product comes after the sum, which it may, because nothing else reads messages.
        over = F.linear(edges, for_edge) + others[ends]
        over += F.linear(nodes, for_node, layer.W1.bias).unsqueeze(1)
        values = (F.gelu(layer.W2(F.gelu(over))) * real.unsqueeze(-1)).sum(1)
        total = F.linear(values, layer.W3.weight) + real.sum(1, keepdim=True) * layer.W3.bias
        nodes = layer.norm1(nodes + total / self._scale)
        nodes = layer.norm2(nodes + layer.dense(nodes))
        return self._net.W_out(nodes)[:, : self._letters]


def _updated(layer: DecoderLayer, edges: Tensor, message: Tensor) -> Tensor:
    """Return the edges after a layer of the decoder."""
    return layer.norm_edge(edges + layer.W_edge(torch.cat([message, edges], -1)))
