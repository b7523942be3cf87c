"""The layers of Semla as sampling computes them: the same numbers up to rounding, in less time.

Training keeps the layers as they are in reed.nets.semla_layers, and so its bits. Without a gradient
there is more freedom. Channels come before pairs of atoms, [B, C, N, N], so that sums over
neighbours are matrix products and a softmax reads memory in order. A linear layer of two atoms is
one product per atom, not per pair. Sums that follow a linear layer are taken before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from reed.nets import semla_layers as layers

EPS = 1e-6  # that of the layers


def softmax(logits: Tensor) -> Tensor:
    """Compute `logits.softmax(-1)`."""
    # For fewer numbers than a vector register holds, torch computes one exponential at a time.
    if logits.shape[-1] >= 16 or logits.device.type != "cpu":
        return logits.softmax(-1)
    powers = (logits - logits.amax(-1, keepdim=True)).exp_()
    return powers.div_(powers.sum(-1, keepdim=True))


def upper(pairs: Tensor) -> Tensor:
    """Return the entries on and above the diagonal, [B, N, N, ...] -> [B, N (N + 1) / 2, ...]."""
    first, second = torch.triu_indices(pairs.shape[1], pairs.shape[1], device=pairs.device)
    return pairs.flatten(1, 2).index_select(1, first * pairs.shape[1] + second)


def mirrored(entries: Tensor, size: int) -> Tensor:
    """Return the symmetric matrices [B, N, N, ...] that these entries are the `upper` ones of."""
    first, second = torch.triu_indices(size, size, device=entries.device)
    place = torch.empty(size, size, dtype=torch.long, device=entries.device)
    place[first, second] = place[second, first] = torch.arange(len(first), device=entries.device)
    return entries.index_select(1, place.flatten()).unflatten(1, (size, size))


def bonds_in(block: nn.Module, bonds: Tensor) -> Tensor:
    """Compute the edges of symmetric bonds [B, N, N, K]: the `upper` ones."""
    return block(upper(bonds))


def bonds_out(block: nn.Module, edges: Tensor) -> Tensor:
    """Compute the logits of the bonds [B, N, N, 5] from edges in both directions [B, N, N, E]."""
    return mirrored(block(upper(edges) + upper(edges.transpose(1, 2))), edges.shape[1])


def layer(
    block: layers.Layer, x: Tensor, h: Tensor, pairs: Tensor, mask: Tensor, edges: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `block.forward`, for x that is 0 at padding."""
    dx, dh = node_feed_forward(block.node_ff, x, h, mask)
    x, h = x + dx, h + dh

    # Both norms of the coordinates begin with the same centring.
    centre = _centred(x, mask)
    messages = edge_messages(block.message_ff, centre, h, edges)  # [B, C, N, N]
    heads, sets, out = block.cut
    logits, for_edges = messages.split([heads + sets, out], 1)
    lowest = torch.finfo(logits.dtype).min / 2  # any logit added to it leaves it finite
    weight = softmax(logits.add_((~pairs).unsqueeze(1).to(logits.dtype) * lowest))

    # An atom without others has weights that mean nothing; its length is 0, and so is its update.
    length = (weight.square().sum(-1) + EPS**2).sqrt() * pairs.any(-1).unsqueeze(1)  # [B, C, N]
    for_h, for_x = weight.split([heads, sets], 1)
    h = h + node_attention(block.node_attn, h, for_h, length[:, :heads])
    x = x + coord_attention(block.coord_attn, centre, for_x, length[:, heads:], mask)
    return x, h, for_edges.permute(0, 2, 3, 1)


def node_feed_forward(
    block: layers.NodeFeedForward, x: Tensor, h: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute `block.forward`, for x that is 0 at padding."""
    h = block.node_norm(h)
    centre = _centred(x, mask)
    x = centre * _scale(block.coord_norm, centre, mask)

    mixing = block.equivariant_mlp
    total = torch.einsum("s,bsnc->bnc", mixing.coord_proj.weight.sum(0), x)
    factor = mixing.attn_proj(mixing.node_proj(h)).transpose(1, 2)  # [B, S, N]
    return factor.unsqueeze(-1) * total.unsqueeze(1), block.invariant_mlp(x, h)


def edge_messages(
    block: layers.EdgeMessages, centre: Tensor, h: Tensor, edges: Tensor | None
) -> Tensor:
    """Compute messages [B, C, N, N] from centred coordinates, as `block.forward` does."""
    first, last = _linear_layers(block.message_mlp)
    batch, sets, size, _ = centre.shape
    nodes, width = block.node_proj(block.node_norm(h)), block.node_proj.out_features
    for_node, for_other, for_dots, for_edges = first.weight.split(
        [width, width, sets, first.in_features - 2 * width - sets], 1
    )

    # Every set has a weight, which its products have twice.
    for_dots = for_dots * block.coord_norm.set_weights.flatten().square()
    dots = (centre @ centre.mT).flatten(2)
    hidden = _mixed(for_dots, dots).view(batch, -1, size, size)
    hidden += F.linear(nodes, for_node, first.bias).mT.unsqueeze(3)
    hidden += F.linear(nodes, for_other).mT.unsqueeze(2)
    if block.edge_norm is not None and edges is not None:
        # These edges are those of the upper triangle.
        upper = F.linear(block.edge_norm(edges), for_edges)
        hidden += mirrored(upper, size).permute(0, 3, 1, 2)
    F.silu(hidden, inplace=True)
    return _mixed(last.weight, hidden.flatten(2), last.bias).view(batch, -1, size, size)


def node_attention(
    block: layers.NodeAttention, h: Tensor, weight: Tensor, length: Tensor
) -> Tensor:
    """Return the update of the features by weights [B, H, N, N] of these lengths [B, H, N]."""
    split = block.in_proj(block.feat_norm(h)).unflatten(-1, (block.heads, -1)).transpose(1, 2)
    mixed = (weight @ split) * length.unsqueeze(-1)
    return block.out_proj(mixed.transpose(1, 2).flatten(2))


def coord_attention(
    block: layers.CoordAttention, centre: Tensor, weight: Tensor, length: Tensor, mask: Tensor
) -> Tensor:
    """Return the update of the coordinates by weights [B, S, N, N] of these lengths [B, S, N]."""
    x = centre * _scale(block.coord_norm, centre, mask)
    x = _mixed(block.coord_proj.weight, x.flatten(2)).view_as(x)  # [B, S, N, 3]

    # |a - b|^2 = |a|^2 + |b|^2 - 2 ab as one product; likewise sum and weighted sum in another.
    square, one = x.square().sum(-1, keepdim=True), torch.ones_like(x[..., :1])
    apart = torch.cat([x * -2, square, one], -1) @ torch.cat([x, one, square], -1).mT
    scaled = weight / apart.clamp_(min=1e-12).sqrt_().add_(EPS)
    summed, total = (scaled @ torch.cat([x, one], -1)).split([3, 1], -1)
    directions = (x * total - summed) * length.unsqueeze(-1)
    return _mixed(block.attn_proj.weight, directions.flatten(2)).view_as(x)


def bond_refine(
    block: layers.BondRefine, x: Tensor, h: Tensor, mask: Tensor, edges: Tensor
) -> Tensor:
    """Compute `block.forward`."""
    first, last = _linear_layers(block.message_mlp)
    x = block.coord_norm(x.unsqueeze(1), mask).squeeze(1)
    square = (x.unsqueeze(2) - x.unsqueeze(1)).square().sum(-1)
    nodes, width = block.node_proj(block.node_norm(h)), block.node_proj.out_features
    for_node, for_other, for_two, for_edges = first.weight.split(
        [width, width, 2, edges.shape[-1]], 1
    )

    hidden = F.linear(torch.stack([square, x @ x.mT], -1), for_two)
    hidden += F.linear(block.edge_norm(edges), for_edges)
    hidden += F.linear(nodes, for_node, first.bias).unsqueeze(2)
    hidden += F.linear(nodes, for_other).unsqueeze(1)
    return last(F.silu(hidden, inplace=True))


def _linear_layers(mlp: nn.Sequential) -> tuple[nn.Linear, nn.Linear]:
    """Return the layers around the activation."""
    first, _, last = mlp
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    return first, last


def _mixed(weight: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return weight [O, C] times values [B, C, M], plus a bias [O]."""
    weight = weight.expand(len(values), -1, -1)
    if bias is None:
        return torch.bmm(weight, values)
    return torch.baddbmm(bias.view(1, -1, 1), weight, values)


def _centred(x: Tensor, mask: Tensor) -> Tensor:
    """Centre coordinate sets [B, S, N, 3] that are 0 at padding, and keep it at 0."""
    count = mask.sum(-1).clamp(min=1).view(-1, 1, 1, 1)
    return (x - x.sum(2, keepdim=True) / count) * mask[:, None, :, None]


def _scale(norm: layers.CoordNorm, centre: Tensor, mask: Tensor) -> Tensor:
    """Return what a CoordNorm multiplies the sets with, [B, S, 1, 1]."""
    count = mask.sum(-1).clamp(min=1).view(-1, 1)
    lengths = (centre.square().sum(-1) + EPS**2).sqrt() * mask[:, None]
    mean = lengths.sum(-1) / count + EPS
    return norm.set_weights / mean[..., None, None]
