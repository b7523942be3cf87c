"""Comparison of projected hidden states with a representation, by the kind of its field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reed.domains.base import Batch
from reed.errors import ReedError
from reed.guides.guide import pooled
from reed.nets import GraphState, State, nodes_of
from reed.nets.layers import masked_mean

LEAST, MOST = 0.25, 4.0  # weights of tokens are clipped to this range (RARE)


@dataclass(frozen=True)
class Pair:
    """Vectors to compare.

    Attributes:
        ours: Projected hidden states, [B, ..., C].
        theirs: The representation of the same entries, [B, ..., C].
        counts: Entries that count, bool [B, ...]; None if all do.
    """

    ours: Tensor
    theirs: Tensor
    counts: Tensor | None


def _tokens(head: nn.Module, hidden: State, target: Tensor, batch: Batch) -> Pair:
    """Pair each token [B, T, D] with the same token of the target [B, T, C]."""
    return Pair(head(nodes_of(hidden)), target, batch.mask)


def _pooled(head: nn.Module, hidden: State, target: Tensor, batch: Batch) -> Pair:
    """Pair the projected mean over real tokens with the target [B, C].

    As in REED, the hidden states are pooled first, then projected.
    """
    return Pair(head(pooled(hidden, batch.mask)), target, None)


def _edges(head: nn.Module, hidden: State, target: Tensor, batch: Batch) -> Pair:
    """Pair each edge [B, T, K, E] with the target's pair [B, T, N, C] of the same two tokens.

    The pairs are stored for the tokens in `batch.neighbours`. An edge to any other token has no
    target and does not count. Nor does an edge of which either token does not count.
    """
    assert isinstance(hidden, GraphState) and batch.neighbours is not None
    if target.shape[2] != batch.neighbours.shape[2]:
        raise ReedError(
            f"a pair representation is stored for {target.shape[2]} neighbours of a token, but "
            f"the cache lists {batch.neighbours.shape[2]}; build it again from this cache"
        )
    same = hidden.index.unsqueeze(-1) == batch.neighbours.unsqueeze(-2)  # [B, T, K, N]
    stored = same.int().argmax(-1, keepdim=True).expand(-1, -1, -1, target.shape[-1])
    counts = hidden.real & same.any(-1)
    if batch.mask is not None:
        ends = batch.mask.gather(1, hidden.index.flatten(1)).view_as(counts)
        counts = counts & ends & batch.mask.unsqueeze(-1)
    return Pair(head(hidden.edges), target.gather(2, stored), counts)


# head, hidden states, target, batch -> what is compared
Match = Callable[[nn.Module, State, Tensor, Batch], Pair]
MATCH: dict[str, Match] = {"token": _tokens, "sample": _pooled, "pair": _edges}


def cosines(pair: Pair) -> Tensor:
    """Return the cosine of every entry, [B, N] or [B], in float32 despite autocast."""
    a, b = pair.ours, pair.theirs
    with torch.autocast(a.device.type, enabled=False):
        cos = (F.normalize(a.float(), dim=-1) * F.normalize(b.float(), dim=-1)).sum(-1)
        return cos if cos.ndim == 1 else cos.flatten(1)


def over_entries(values: Tensor, pair: Pair) -> Tensor:
    """Return the mean per sample over the entries that count, [B, N] or [B] -> [B]."""
    if values.ndim == 1:
        return values
    with torch.autocast(values.device.type, enabled=False):
        return masked_mean(values, None if pair.counts is None else pair.counts.flatten(1))


@torch.no_grad()
def token_weights(cos: Tensor, pair: Pair) -> Tensor:
    """Return the weight of every token by how far it still is from its target, [B, T].

    With eta = (1 - cos) / 2, a weight is eta over its mean in the sample, clipped to [1/4, 4] and
    divided by the mean of the weights. Source: RARE.

    Args:
        cos: Cosines of the tokens, [B, T].
        pair: What they are the cosines of.
    """
    eta = (1 - cos.detach()) / 2
    mean = over_entries(eta, pair).clamp(min=torch.finfo(eta.dtype).tiny)
    weights = (eta / mean[:, None]).clamp(LEAST, MOST)
    return weights / over_entries(weights, pair).clamp(min=LEAST)[:, None]


def gram(pair: Pair) -> Tensor:
    """Return the mean squared difference of two Gram matrices, [B], in float32 despite autocast.

    The matrices hold the cosine of every two tokens of a sample, [B, T, T]. They compare relations
    alone: a rotation of all vectors changes nothing. After sREPA (arXiv 2605.16949).
    """
    with torch.autocast(pair.ours.device.type, enabled=False):
        a, b = (F.normalize(x.float(), dim=-1) for x in (pair.ours, pair.theirs))
        squares = (a @ a.mT - b @ b.mT).square().flatten(1)
        if pair.counts is None:
            return squares.mean(1)
        both = pair.counts[:, :, None] & pair.counts[:, None, :]
        return masked_mean(squares, both.flatten(1))
