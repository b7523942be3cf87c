"""The layers of Semla; see reed.nets.semla."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reed.errors import ReedError, at_least
from reed.nets import semla_drawing
from reed.nets.layers import is_drawing

EPS = 1e-6


@dataclass(frozen=True)
class SemlaConfig:
    """The sizes of the net; the defaults are those published for GEOM-DRUGS.

    Attributes:
        width: Features of an atom.
        layers: Number of layers.
        heads: Heads of the attention over features.
        sets: Sets of coordinates of an atom.
        message: Features of an atom in a message.
        hidden: Hidden width of the message MLP.
        edge: Features of a bond.
        size_emb: Width of the embedding of the number of atoms.
        max_atoms: Molecules must have fewer atoms than this.
        self_cond: Whether the net gets its last prediction as an input.
    """

    width: int = 384
    layers: int = 12
    heads: int = 32
    sets: int = 64
    message: int = 128
    hidden: int = 128
    edge: int = 128
    size_emb: int = 64
    max_atoms: int = 256
    self_cond: bool = True

    def __post_init__(self) -> None:
        sizes = "width heads sets message hidden edge size_emb max_atoms".split()
        at_least(1, "net: ", **{name: getattr(self, name) for name in sizes})
        at_least(3, "net: ", layers=self.layers)
        if self.width % self.heads:
            raise ReedError(f"net: heads {self.heads} must divide width {self.width}")


def mlp(first: int, hidden: int, last: int) -> nn.Sequential:
    """Return Linear, SiLU, Linear. Keys: 0, 2."""
    return nn.Sequential(nn.Linear(first, hidden), nn.SiLU(), nn.Linear(hidden, last))


def centred(coords: Tensor, mask: Tensor) -> Tensor:
    """Centre coordinates [..., N, 3] at the mean over the mask [..., N]; the others become zero."""
    weight = mask.unsqueeze(-1).to(coords.dtype)
    mean = (coords * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp(min=1)
    return (coords - mean) * weight


def attention(messages: Tensor, pairs: Tensor) -> Tensor:
    """Return attention weights over the other atoms, [B, N, N, H]; zeros for a single atom.

    Args:
        messages: Logits, [B, N, N, H].
        pairs: Pairs of two different real atoms, bool [B, N, N].
    """
    pairs = pairs.unsqueeze(-1)
    lowest = torch.finfo(messages.dtype).min
    return messages.masked_fill(~pairs, lowest).softmax(2) * pairs


class CoordNorm(nn.Module):
    """Normalisation of coordinate sets [B, S, N, 3]: centred, then scaled by learned weights.

    Args:
        sets: Number of sets, S.
        length: Whether each set is also divided by the mean length of its vectors.
    """

    def __init__(self, sets: int, *, length: bool = True) -> None:
        super().__init__()
        self.length = length
        self.set_weights = nn.Parameter(torch.ones(1, sets, 1, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = centred(x, mask[:, None].expand(x.shape[:-1]))
        if self.length:
            count = mask.sum(-1).clamp(min=1).view(-1, 1, 1)
            # EPS, because the norm has no gradient at zero, where padding lies.
            lengths = (x.square().sum(-1) + EPS**2).sqrt() * mask[:, None]
            x = x / (lengths.sum(-1, keepdim=True) / count + EPS).unsqueeze(-1)
        return x * self.set_weights


class LengthsMLP(nn.Module):
    """An update of the features by themselves and the lengths of the coordinates. Key: node_ff."""

    def __init__(self, width: int, sets: int) -> None:
        super().__init__()
        self.node_ff = mlp(width + sets, 4 * width, width)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        lengths = (x.square().sum(-1) + EPS**2).sqrt().transpose(1, 2)  # [B, N, S]
        return self.node_ff(torch.cat([h, lengths], -1))


class EquivariantMLP(nn.Module):
    """An update of the coordinate sets: mixed, scaled by the features, and mixed again."""

    def __init__(self, width: int, sets: int, inner: int) -> None:
        super().__init__()
        self.node_proj = mlp(width, inner, inner)
        self.coord_proj = nn.Linear(sets, inner, bias=False)
        self.attn_proj = nn.Linear(inner, sets, bias=False)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        total = self.coord_proj(x.transpose(1, -1)).sum(-1, keepdim=True)  # [B, 3, N, 1]
        return self.attn_proj(self.node_proj(h).unsqueeze(1) * total).transpose(1, -1)


class NodeFeedForward(nn.Module):
    """Updates of each atom's coordinates [B, S, N, 3] and features [B, N, D], without messages."""

    def __init__(self, width: int, sets: int, inner: int) -> None:
        super().__init__()
        self.node_norm, self.coord_norm = nn.LayerNorm(width), CoordNorm(sets)
        self.invariant_mlp = LengthsMLP(width, sets)
        self.equivariant_mlp = EquivariantMLP(width, sets, inner)

    def forward(self, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        h, x = self.node_norm(h), self.coord_norm(x, mask)
        return self.equivariant_mlp(x, h), self.invariant_mlp(x, h)


def both(h: Tensor) -> Tensor:
    """Return the features of both atoms of every pair, [B, N, D] -> [B, N, N, 2 D]."""
    shape = (h.shape[0], h.shape[1], h.shape[1], h.shape[2])
    return torch.cat([h.unsqueeze(2).expand(shape), h.unsqueeze(1).expand(shape)], -1)


class EdgeMessages(nn.Module):
    """A message for every pair of atoms, [B, N, N, out].

    Args:
        config: Sizes of the net.
        hidden: Hidden width of the MLP.
        out: Channels of a message.
        edge: Channels of the edges that messages depend on; 0 if they depend on none.
    """

    def __init__(self, config: SemlaConfig, hidden: int, out: int, edge: int) -> None:
        super().__init__()
        self.coord_norm = CoordNorm(config.sets, length=False)
        self.node_norm = nn.LayerNorm(config.width)
        self.edge_norm = nn.LayerNorm(edge) if edge else None
        self.node_proj = nn.Linear(config.width, config.message)
        self.message_mlp = mlp(2 * config.message + config.sets + edge, hidden, out)

    def forward(self, x: Tensor, h: Tensor, mask: Tensor, edges: Tensor | None) -> Tensor:
        x = self.coord_norm(x, mask)
        dots = torch.einsum("bsic,bsjc->bijs", x, x)
        parts = [both(self.node_proj(self.node_norm(h))), dots]
        if self.edge_norm is not None and edges is not None:
            parts.append(self.edge_norm(edges))
        return self.message_mlp(torch.cat(parts, -1))


class CoordAttention(nn.Module):
    """An update of the coordinates: directions to other atoms, weighted by messages and summed.

    The sum is scaled by the length of the weights, which keeps the variance (arXiv 2403.04747), as
    in NodeAttention.
    """

    def __init__(self, sets: int) -> None:
        super().__init__()
        self.coord_norm = CoordNorm(sets)
        self.coord_proj = nn.Linear(sets, sets, bias=False)
        self.attn_proj = nn.Linear(sets, sets, bias=False)

    def forward(self, x: Tensor, messages: Tensor, pairs: Tensor, mask: Tensor) -> Tensor:
        x = self.coord_proj(self.coord_norm(x, mask).transpose(1, -1))  # [B, 3, N, S]
        squares = x.square().sum(1)
        gram = torch.einsum("bcip,bcjp->bijp", x, x)
        distance = (squares[:, :, None] + squares[:, None] - 2 * gram).clamp(min=1e-12).sqrt()
        weight = attention(messages, pairs)
        scaled = weight / (distance + EPS)
        directions = x * scaled.sum(2)[:, None] - torch.einsum("bijp,bcjp->bcip", scaled, x)
        return self.attn_proj(directions * _length(weight).unsqueeze(1)).transpose(1, -1)


class NodeAttention(nn.Module):
    """An update of the features by those of other atoms; each channel of a message is one head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.feat_norm = nn.LayerNorm(width)
        self.in_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor, messages: Tensor, pairs: Tensor) -> Tensor:
        weight = attention(messages, pairs)
        split = self.in_proj(self.feat_norm(h)).unflatten(-1, (self.heads, -1))
        mixed = torch.einsum("bijh,bjhd->bihd", weight, split)
        return self.out_proj((mixed * _length(weight).unsqueeze(-1)).flatten(2))


def _length(weight: Tensor) -> Tensor:
    """Return the Euclidean length of each atom's weights, [B, N, N, H] -> [B, N, H]."""
    return (weight.square().sum(2) + EPS**2).sqrt()


class Layer(nn.Module):
    """A feed-forward update of each atom, then attention by messages.

    edge_feat_norm has weights in the public files but is not used.

    Args:
        config: Sizes of the net.
        takes: Whether messages depend on edges; true of the first layer.
        gives: Whether messages also return edges; true of the last layer.
    """

    def __init__(self, config: SemlaConfig, *, takes: bool, gives: bool) -> None:
        super().__init__()
        self.cut = (config.heads, config.sets, config.edge if gives else 0)
        if takes:
            self.edge_feat_norm = nn.LayerNorm(config.edge).requires_grad_(False)
        out = sum(self.cut)
        self.node_ff = NodeFeedForward(config.width, config.sets, config.message)
        hidden = out if takes or gives else config.hidden
        self.message_ff = EdgeMessages(config, hidden, out, config.edge if takes else 0)
        self.coord_attn = CoordAttention(config.sets)
        self.node_attn = NodeAttention(config.width, config.heads)

    def forward(
        self, x: Tensor, h: Tensor, pairs: Tensor, mask: Tensor, edges: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if is_drawing(x):
            return semla_drawing.layer(self, x, h, pairs, mask, edges)
        dx, dh = self.node_ff(x, h, mask)
        x, h = x + dx, h + dh
        messages = self.message_ff(x, h, mask, edges)
        for_h, for_x, for_edges = messages.split(self.cut, -1)
        h = h + self.node_attn(h, for_h, pairs)
        return x + self.coord_attn(x, for_x, pairs, mask), h, for_edges


class BondRefine(nn.Module):
    """An update of the edges by the final coordinates [B, N, 3], features and edges."""

    def __init__(self, config: SemlaConfig) -> None:
        super().__init__()
        self.coord_norm = CoordNorm(1, length=False)
        self.node_norm, self.edge_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.edge)
        self.node_proj = nn.Linear(config.width, config.message)
        self.message_mlp = mlp(2 * config.message + config.edge + 2, config.message, config.edge)

    def forward(self, x: Tensor, h: Tensor, mask: Tensor, edges: Tensor) -> Tensor:
        if is_drawing(x):
            return semla_drawing.bond_refine(self, x, h, mask, edges)
        x = self.coord_norm(x.unsqueeze(1), mask).squeeze(1)
        squared_distance = (x.unsqueeze(2) - x.unsqueeze(1)).square().sum(-1, keepdim=True)
        dots = (x @ x.transpose(1, 2)).unsqueeze(-1)
        pairs = both(self.node_proj(self.node_norm(h)))
        inputs = [pairs, squared_distance, dots, self.edge_norm(edges)]
        return self.message_mlp(torch.cat(inputs, -1))
