"""Points brought as near to others as a rotation and a shift can: the method of Kabsch."""

from __future__ import annotations

import numpy as np

from reed.errors import ReedError

Motion = tuple[np.ndarray, np.ndarray]  # rotation [3, 3] and shift [3]: x @ rotation + shift


def rotation(covariance: np.ndarray) -> np.ndarray:
    """The rotations R for which a @ R is nearest to b, from a.T @ b: [..., 3, 3] -> [..., 3, 3].

    Source: Kabsch, Acta Cryst. A32 (1976) 922; the sign of the last axis makes it a rotation.
    """
    u, _, vt = np.linalg.svd(covariance)
    u[..., -1] *= np.sign(np.linalg.det(u @ vt))[..., None]
    return u @ vt


def superpose(model: np.ndarray, reference: np.ndarray, weight: np.ndarray | None = None) -> Motion:
    """The motion of `model` [N, 3] that brings it nearest to `reference` [N, 3] (least squares).

    weight: [N] of the points, by default all alike.
    """
    if model.shape != reference.shape or model.ndim != 2 or model.shape[1] != 3 or not len(model):
        shapes = f"{model.shape} and {reference.shape}"
        raise ReedError(f"structures of shape {shapes} cannot be superposed: both must be [N, 3]")
    weight = np.ones(len(model)) if weight is None else weight
    centre, aim = (np.average(points, axis=0, weights=weight) for points in (model, reference))
    turn = rotation((model - centre).T @ ((reference - aim) * weight[:, None]))
    return turn, aim - centre @ turn


def rmsd(model: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square distance of points [N, 3] after the best superposition, in their unit."""
    turn, shift = superpose(model, reference)
    return float(np.sqrt(np.square(model @ turn + shift - reference).sum(1).mean()))
