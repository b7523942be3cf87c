"""CMMD: the maximum mean discrepancy between two sets of embeddings, Gaussian kernel."""

from __future__ import annotations

import torch
from torch import Tensor

SIGMA, SCALE = 10.0, 1000.0
ROWS = 512  # rows of the kernel in memory at a time


def cmmd(samples: Tensor, real: Tensor) -> float:
    """Compute 1000 times the squared MMD of embeddings at unit length; it is 0 for equal sets.

    The kernel is ``exp(-|a - b|^2 / (2 * 10^2))``. The estimator is that of minimum variance, which
    also compares a sample with itself.

    Source: Jayasumana et al. (arXiv 2401.09603), section 4; estimator, sigma and scale as in its
    public code.

    Args:
        samples: Embeddings of samples, [N, D].
        real: Embeddings of real images, [M, D].
    """
    x, y = (torch.nn.functional.normalize(rows.double(), dim=1) for rows in (samples, real))
    return SCALE * (_mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y))


def _mean_kernel(a: Tensor, b: Tensor) -> float:
    total = 0.0
    for rows in a.split(ROWS):
        distances = 2 - 2 * rows @ b.T  # of unit vectors, squared
        total += float(torch.exp(-distances / (2 * SIGMA**2)).sum())
    return total / (len(a) * len(b))
