"""Precision and recall of samples: the share of one set in the manifold of the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reed.errors import ReedError

VALUES = 50_000_000  # maximum number of distances in memory at a time


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall.

    Attributes:
        precision: Share of samples in the manifold of real images.
        recall: Share of real images in the manifold of samples.
    """

    precision: float
    recall: float


def precision_recall(
    samples: Tensor, real: Tensor, k: int = 3, *, half: bool = False
) -> PrecisionRecall:
    """Compute precision and recall; a manifold is the balls up to the k-th nearest neighbour.

    Source: Kynkäänniemi et al. (arXiv 1904.06991), equations 1 and 2.

    Args:
        samples: Features of samples, [N, D].
        real: Features of real images, [M, D].
        k: Neighbour that sets the radius of a ball.
        half: Whether to round as the ADM suite does, which computes squared distances in float16
            if they fit.

    Raises:
        ReedError: There are at most k features of either.
    """
    least = min(len(samples), len(real))
    if least <= k:
        raise ReedError(f"precision and recall need more than {k} images of each, got {least}")
    return PrecisionRecall(
        precision=_share_inside(samples, real, _radii(real, k, half), half),
        recall=_share_inside(real, samples, _radii(samples, k, half), half),
    )


def _radii(rows: Tensor, k: int, half: bool) -> Tensor:
    """Return the squared distance of each row to its k-th nearest neighbour, [N]."""
    parts = [_distances(part, rows, half).kthvalue(k + 1).values for part in _parts(rows, rows)]
    return torch.cat(parts)


def _share_inside(points: Tensor, centres: Tensor, radii: Tensor, half: bool) -> float:
    """Return the share of points that lie in the ball of any centre."""
    inside = [(_distances(part, centres, half) <= radii).any(1) for part in _parts(points, centres)]
    return float(torch.cat(inside).double().mean())


def _parts(rows: Tensor, others: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(1, VALUES // len(others)))


def _distances(a: Tensor, b: Tensor, half: bool) -> Tensor:
    """Return squared distances, float32 [N, M]."""
    if half:
        x, y = a.half(), b.half()
        # Products are added in float32 and rounded once, so that all devices agree.
        dots = (x.float() @ y.float().T).half()
        squares = (x.square().sum(1)[:, None] - 2 * dots + y.square().sum(1)).clamp(min=0)
        if squares.isfinite().all():
            return squares.float()
    x, y = a.float(), b.float()
    return (x.square().sum(1)[:, None] - 2 * x @ y.T + y.square().sum(1)).clamp(min=0)
