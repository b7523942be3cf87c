"""The kernel inception distance between two sets of features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reed.errors import ReedError
from reed.seeding import seed_for


@dataclass(frozen=True)
class Kid:
    """The kernel inception distance.

    Attributes:
        mean: Mean over the subsets.
        std: Standard deviation over the subsets.
        subsets: Number of subsets.
        size: Samples per subset.
    """

    mean: float
    std: float
    subsets: int
    size: int


def kid(
    samples: np.ndarray, real: np.ndarray, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> Kid:
    """Compute the unbiased squared MMD of features with a cubic kernel; it may be below 0.

    Source: Binkowski et al. (arXiv 1801.01401), equation 4; subsets as in torch-fidelity.

    Args:
        samples: Features of samples, [N, D].
        real: Features of real images, [M, D].
        subsets: Number of random subsets to average over.
        size: Features per subset, or fewer if there are fewer.
        seed: Seed of the subsets.

    Raises:
        ReedError: There are fewer than two features of either.
    """
    size = min(size, len(samples), len(real))
    if size < 2:
        raise ReedError(f"KID needs at least 2 of each, got {len(samples)} and {len(real)}")

    # Each subset has a seed of its own, so that more subsets leave the first ones unchanged.
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
    """Compute the unbiased squared MMD of x [N, D] and y [M, D], for (a . b / D + 1)^3."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())
