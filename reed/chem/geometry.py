"""Superposition of point sets by the method of Kabsch."""

from __future__ import annotations

import numpy as np

from reed.errors import ReedError

# rotation [3, 3] and shift [3]; it moves points x to x @ rotation + shift
Motion = tuple[np.ndarray, np.ndarray]


def rotation(covariance: np.ndarray) -> np.ndarray:
    """Return the rotations R for which a @ R is nearest to b (least squares), [..., 3, 3].

    Source: Kabsch, Acta Cryst. A32 (1976) 922.

    Args:
        covariance: a.T @ b, [..., 3, 3].
    """
    u, _, vt = np.linalg.svd(covariance)
    # The product may be a reflection; flipping the axis of least variance makes it a rotation.
    u[..., -1] *= np.sign(np.linalg.det(u @ vt))[..., None]
    return u @ vt


def superpose(model: np.ndarray, reference: np.ndarray, weight: np.ndarray | None = None) -> Motion:
    """Return the motion that brings a model nearest to a reference (least squares).

    Args:
        model: Points to move, [N, 3].
        reference: Points to move them to, [N, 3].
        weight: Weights of the points, [N]; None for equal weights.

    Raises:
        ReedError: The shapes differ, or are not [N, 3].
    """
    if model.shape != reference.shape or model.ndim != 2 or model.shape[1] != 3 or not len(model):
        shapes = f"{model.shape} and {reference.shape}"
        raise ReedError(f"structures of shape {shapes} cannot be superposed: both must be [N, 3]")
    weight = np.ones(len(model)) if weight is None else weight
    centre, target = (np.average(points, axis=0, weights=weight) for points in (model, reference))
    turn = rotation((model - centre).T @ ((reference - target) * weight[:, None]))
    return turn, target - centre @ turn


def rmsd(model: np.ndarray, reference: np.ndarray) -> float:
    """Return the root mean square distance of points [N, 3] after the best superposition."""
    turn, shift = superpose(model, reference)
    return float(np.sqrt(np.square(model @ turn + shift - reference).sum(1).mean()))
