"""Discrete flows from uniform noise: a random category moves to the category of the data.

At time s (0 is noise, 1 is data) an entry equals the data with probability s and the noise
otherwise. Source: Campbell et al., Discrete flow models (arXiv 2402.04997), appendix F.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-5


def mixed(data: Tensor, noise: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """Mix data and noise at time s.

    Args:
        data: Categories of the data, [B, ...].
        noise: Categories of the noise, [B, ...].
        s: Time of each sample, [B]; 0 is noise and 1 is data.
        u: Uniform numbers, [B, ...].

    Returns:
        The data where u < s, and the noise elsewhere, [B, ...].
    """
    return torch.where(u < s.view(-1, *[1] * (data.ndim - 1)), data, noise)


def stepped(now: Tensor, odds: Tensor, s: float, step: float, noise: float, u: Tensor) -> Tensor:
    """Advance categories from time s to s + step.

    Args:
        now: Categories at time s, [B, ...].
        odds: Predicted probabilities of the categories of the data, [B, ..., K].
        s: Time before the step.
        step: Length of the step.
        noise: Rate at which categories are also resampled; the last step ignores it.
        u: Uniform numbers, [B, ...].

    Returns:
        Categories at time s + step, [B, ...].
    """
    kinds, s = odds.shape[-1], min(max(s, EPS), 1 - EPS)
    noise = noise if s + step < 1 - EPS else 0.0

    # The rate from the present category to every other one (eq. 29 there); staying is the rest.
    current = odds.gather(-1, now.unsqueeze(-1))
    rate = odds * (1 + noise + noise * (kinds - 1) * s) / (1 - s) + noise * current
    chance = (step * rate).scatter(-1, now.unsqueeze(-1), 0.0)
    total = chance.sum(-1, keepdim=True)
    chance = chance / total.clamp(min=1.0)
    return picked(chance.scatter(-1, now.unsqueeze(-1), (1 - total).clamp(min=0.0)), u)


def picked(chance: Tensor, u: Tensor) -> Tensor:
    """Draw categories [...] from probabilities [..., K] with uniform numbers [...]."""
    reached = chance.cumsum(-1) / chance.sum(-1, keepdim=True)
    return (reached < u.unsqueeze(-1)).sum(-1).clamp(max=chance.shape[-1] - 1)


def symmetric(u: Tensor) -> Tensor:
    """Mirror the numbers above the diagonal of [B, N, N] to below it; the diagonal is 0."""
    upper = u.triu(1)
    return upper + upper.mT


def anything(u: Tensor, kinds: int) -> Tensor:
    """Turn uniform numbers into uniformly drawn categories, int64."""
    return (u * kinds).long().clamp(max=kinds - 1)
