"""Flows of categories whose noise is uniform: from a random category to that of the data.

At time s (0 is noise, 1 is data) a category is the data's with probability s, else what the noise
had. Source: Campbell et al., Discrete flow models (arXiv 2402.04997), appendix F.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-5


def mixed(data: Tensor, noise: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """The data's category where the uniform number u is below s [B], else the noise's: [B, ...]."""
    return torch.where(u < s.view(-1, *[1] * (data.ndim - 1)), data, noise)


def stepped(now: Tensor, odds: Tensor, s: float, step: float, noise: float, u: Tensor) -> Tensor:
    """The categories a step later, from s to s + step: [B, ...].

    now: categories; odds: probabilities of the data's, [B, ..., K]; noise: how often a category
    is drawn anew besides, none in the last step; u: uniform, [B, ...].
    """
    kinds, s = odds.shape[-1], min(max(s, EPS), 1 - EPS)
    noise = noise if s + step < 1 - EPS else 0.0
    here = odds.gather(-1, now.unsqueeze(-1))
    rate = odds * (1 + noise + noise * (kinds - 1) * s) / (1 - s) + noise * here
    chance = (step * rate).scatter(-1, now.unsqueeze(-1), 0.0)
    total = chance.sum(-1, keepdim=True)
    chance = chance / total.clamp(min=1.0)
    return picked(chance.scatter(-1, now.unsqueeze(-1), (1 - total).clamp(min=0.0)), u)


def picked(chance: Tensor, u: Tensor) -> Tensor:
    """A category per row of probabilities [..., K], by a uniform number [...]."""
    reached = chance.cumsum(-1) / chance.sum(-1, keepdim=True)
    return (reached < u.unsqueeze(-1)).sum(-1).clamp(max=chance.shape[-1] - 1)


def symmetric(u: Tensor) -> Tensor:
    """Numbers of pairs [B, N, N], those above the diagonal also below it."""
    upper = u.triu(1)
    return upper + upper.mT


def anything(u: Tensor, kinds: int) -> Tensor:
    """Uniform numbers as categories, int64."""
    return (u * kinds).long().clamp(max=kinds - 1)
