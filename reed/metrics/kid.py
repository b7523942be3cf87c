"""The kernel inception distance between two sets of features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reed.errors import ReedError
from reed.seeding import seed_for


@dataclass(frozen=True)
class Kid:
    """Mean and standard deviation over subsets, how many there were and of how many samples."""

    mean: float
    std: float
    subsets: int
    size: int


def kid(
    samples: np.ndarray, real: np.ndarray, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> Kid:
    """The unbiased squared MMD of features [N, D] and [M, D] with a cubic kernel; may be below 0.

    It is the mean over random subsets of `size` features of each, or of as many as there are.
    Source: Binkowski et al. (arXiv 1801.01401), equation 4; subsets as in torch-fidelity.
    ReedError for fewer than two of either.
    """
    size = min(size, len(samples), len(real))
    if size < 2:
        raise ReedError(f"KID needs at least 2 of each, got {len(samples)} and {len(real)}")
    values = []
    for subset in range(subsets):
        draws = np.random.default_rng(seed_for(seed, "kid", subset))
        x, y = (
            np.asarray(rows[draws.choice(len(rows), size, replace=False)], np.float64)
            for rows in (samples, real)
        )
        values.append(unbiased_mmd(x, y))
    return Kid(float(np.mean(values)), float(np.std(values)), subsets, size)


def unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased squared MMD of x [N, D] and y [M, D], kernel k(a, b) = (a . b / D + 1)^3."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())
