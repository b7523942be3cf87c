"""Precision and recall of samples: the share of one set in the manifold of the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reed.errors import ReedError

VALUES = 25_000_000  # maximum number of distances in memory at a time


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

    Squared distances are computed in float64 from the features less the mean of both sets, because
    ``|x|^2 - 2 x y + |y|^2`` loses its digits where the features are far from zero. The mean alone
    does not help if the features are in groups that are far apart, or if one of them is far away.

    Source: Kynkäänniemi et al. (arXiv 1904.06991), equations 1 and 2.

    Args:
        samples: Features of samples, [N, D].
        real: Features of real images, [M, D].
        k: Neighbour that sets the radius of a ball.
        half: Whether to round as the ADM suite does, which computes squared distances in float16
            if they fit, and does not subtract a mean.

    Raises:
        ReedError: There are at most k features of either.
    """
    least = min(len(samples), len(real))
    if least <= k:
        raise ReedError(f"precision and recall need more than {k} images of each, got {least}")

    # One mean for all distances, so that equal pairs have equal ones.
    total = samples.sum(0, dtype=torch.float64) + real.sum(0, dtype=torch.float64)
    centre = total / (len(samples) + len(real))
    return PrecisionRecall(
        precision=_share_inside(samples, real, _radii(real, k, centre, half), centre, half),
        recall=_share_inside(real, samples, _radii(samples, k, centre, half), centre, half),
    )


def _radii(rows: Tensor, k: int, centre: Tensor, half: bool) -> Tensor:
    """Return the squared distance of each row to its k-th nearest neighbour, [N]."""
    distances = (_distances(part, rows, centre, half) for part in _parts(rows, rows))
    return torch.cat([part.kthvalue(k + 1).values for part in distances])


def _share_inside(
    points: Tensor, centres: Tensor, radii: Tensor, centre: Tensor, half: bool
) -> float:
    """Return the share of points that lie in the ball of any of the centres."""
    distances = (_distances(part, centres, centre, half) for part in _parts(points, centres))
    return float(torch.cat([(part <= radii).any(1) for part in distances]).double().mean())


def _parts(rows: Tensor, others: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(1, VALUES // len(others)))


def _distances(a: Tensor, b: Tensor, centre: Tensor, half: bool) -> Tensor:
    """Return squared distances, float32 [N, M]; except in float16, they are about a centre [D]."""
    if half:
        x, y = a.half(), b.half()
        # Products are added in float32 and rounded once, so that all devices agree.
        dots = (x.float() @ y.float().T).half()
        squares = (x.square().sum(1)[:, None] - 2 * dots + y.square().sum(1)).clamp(min=0)
        if squares.isfinite().all():
            return squares.float()
    x, y = (rows.double() - centre for rows in (a, b))
    squares = x.square().sum(1)[:, None] - 2 * x @ y.T + y.square().sum(1)
    return squares.clamp(min=0).float()
