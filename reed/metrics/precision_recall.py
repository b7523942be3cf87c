"""Precision and recall of samples: how much of one set lies in the manifold of the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reed.errors import ReedError

VALUES = 50_000_000  # distances in memory at a time


@dataclass(frozen=True)
class PrecisionRecall:
    """precision: the share of samples in the real manifold; recall: of real in the samples'."""

    precision: float
    recall: float


def precision_recall(
    samples: Tensor, real: Tensor, k: int = 3, *, half: bool = False
) -> PrecisionRecall:
    """Of features [N, D] and [M, D]; a manifold is the balls up to the k-th nearest neighbour.

    half: round as the ADM suite does, which takes squared distances in float16 where they fit.
    Source: Kynkäänniemi et al. (arXiv 1904.06991), equations 1 and 2. ReedError for k or fewer.
    """
    least = min(len(samples), len(real))
    if least <= k:
        raise ReedError(f"precision and recall need more than {k} images of each, got {least}")
    return PrecisionRecall(
        precision=_share_inside(samples, real, _radii(real, k, half), half),
        recall=_share_inside(real, samples, _radii(samples, k, half), half),
    )


def _radii(rows: Tensor, k: int, half: bool) -> Tensor:
    """The squared distance [N] of each row to its k-th nearest neighbour."""
    parts = [_distances(part, rows, half).kthvalue(k + 1).values for part in _parts(rows, rows)]
    return torch.cat(parts)


def _share_inside(points: Tensor, centres: Tensor, radii: Tensor, half: bool) -> float:
    """The share of points that lie in the ball of any centre."""
    inside = [(_distances(part, centres, half) <= radii).any(1) for part in _parts(points, centres)]
    return float(torch.cat(inside).double().mean())


def _parts(rows: Tensor, others: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(1, VALUES // len(others)))


def _distances(a: Tensor, b: Tensor, half: bool) -> Tensor:
    """Squared distances [N, M], float32."""
    if half:
        x, y = a.half(), b.half()
        # products are added in float32 and rounded once, on every device
        dots = (x.float() @ y.float().T).half()
        found = (x.square().sum(1)[:, None] - 2 * dots + y.square().sum(1)).clamp(min=0)
        if found.isfinite().all():
            return found.float()
    x, y = a.float(), b.float()
    return (x.square().sum(1)[:, None] - 2 * x @ y.T + y.square().sum(1)).clamp(min=0)
