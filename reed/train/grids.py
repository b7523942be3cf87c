"""What is done to a decoded target before it is compared: another grid, normalised tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from reed.nets.layers import masked_mean

EPS = 1e-6  # added to the standard deviation


@torch.no_grad()
def resized(tokens: Tensor, side: int, mode: str) -> Tensor:
    """Interpolate a square grid of tokens, [B, T, C] -> [B, side*side, C].

    Args:
        tokens: The tokens, row by row.
        side: Tokens per side of the result.
        mode: "area", the mean of what a new token covers, or "bicubic", which is smoothed where
            the grid becomes smaller.
    """
    old = math.isqrt(tokens.shape[1])
    grid = tokens.unflatten(1, (old, old)).permute(0, 3, 1, 2)  # [B, C, H, W]
    smooth = {"antialias": True, "align_corners": False} if mode == "bicubic" else {}
    return F.interpolate(grid, (side, side), mode=mode, **smooth).flatten(2).mT


@torch.no_grad()
def spatial_norm(tokens: Tensor, gamma: float, mask: Tensor | None) -> Tensor:
    """Normalise each channel over the tokens of a sample, [B, T, C] -> [B, T, C].

    The result is (z - gamma mean) / (std + 1e-6). Source: iREPA (arXiv 2512.10794), gamma = 1.

    Args:
        tokens: The tokens.
        gamma: Share of the mean that is subtracted.
        mask: Tokens that count, bool [B, T]; None if all do.
    """
    mean = masked_mean(tokens, mask)[:, None]
    if mask is None:
        std = tokens.std(1, correction=0, keepdim=True)
    else:
        std = masked_mean((tokens - mean).square(), mask)[:, None].sqrt()
    return (tokens - gamma * mean) / (std + EPS)
