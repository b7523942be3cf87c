"""The Fréchet distance between two sets of features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reed.errors import ReedError

ROWS = 16_384  # features that are fitted at once


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and covariance [D, D] of a set of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Gaussian:
        """Fit features [N, D].

        Raises:
            ReedError: There are fewer than two features, or a value is not finite.
        """
        moments = Moments()
        for first in range(0, len(features), ROWS) or [0]:  # a copy in float64 of a part alone
            moments.add(features[first : first + ROWS])
        return moments.gaussian()


class Moments:
    """Fits a Gaussian to features that arrive in parts.

    It keeps float64 sums about the mean of the first part, so that no digits are lost.
    """

    def __init__(self) -> None:
        self._count, self._shape = 0, (0,)

    def add(self, features: np.ndarray) -> None:
        """Add features [N, D].

        Raises:
            ReedError: The features have another shape, or a value is not finite.
        """
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2 or not len(features):
            raise ReedError(f"features have shape {features.shape}; at least [2, D] is needed")
        if not np.isfinite(features).all():
            bad = int((~np.isfinite(features).all(1)).sum())
            raise ReedError(f"{bad} of {len(features)} feature vectors are not finite")

        # Sums about a point among the features lose no digits to cancellation.
        if not self._count:
            self._origin = features.mean(0)
            self._sum, self._squares = 0.0, 0.0
        moved = features - self._origin
        self._count, self._shape = self._count + len(features), features.shape
        self._sum = self._sum + moved.sum(0)
        self._squares = self._squares + moved.T @ moved

    def gaussian(self) -> Gaussian:
        """Return the Gaussian of all features so far; the covariance is divided by N - 1.

        Raises:
            ReedError: There are fewer than two features.
        """
        if self._count < 2:
            raise ReedError(f"features have shape {self._shape}; at least [2, D] is needed")
        mean = self._sum / self._count
        squares = self._squares - self._count * np.outer(mean, mean)
        return Gaussian(self._origin + mean, squares / (self._count - 1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Compute ``|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2))``, at least 0.

    The trace of the square root is taken from the eigenvalues of A^(1/2) B A^(1/2), which is
    symmetric and positive, so that near-singular covariances give no imaginary part.

    Source: Heusel et al. (arXiv 1706.08500), equation 6.

    Raises:
        ReedError: The Gaussians differ in dimension.
    """
    if a.mean.shape != b.mean.shape:
        raise ReedError(f"features of width {len(a.mean)} and {len(b.mean)} cannot be compared")
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(cross.clip(min=0)).sum()
    return float(max(0.0, np.square(a.mean - b.mean).sum() + trace))
