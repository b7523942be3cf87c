"""Principal components of a column's channels, or the channels, scaled to unit variance.

RARE aligns to 128 whitened components of DINOv2 and finds no loss against all 768 channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reed.cache.codecs import batch
from reed.errors import ReedError

# Smallest variance of a component, as a share of the mean over all channels. A direction in which
# the calibration records do not vary (after a LayerNorm there is one) must not be amplified.
FLOOR = 1e-4
_USED = {"mean", "basis", "std"}  # entries of the calibration


def fit(arrays: Sequence[np.ndarray], components: int) -> dict[str, np.ndarray]:
    """Fit the leading principal components to some records.

    The sums and the decomposition are computed in float64.

    Args:
        arrays: Records, each [..., D].
        components: Number of components.

    Returns:
        Float32 arrays: ``mean`` [D]; ``basis`` [components, D], orthonormal rows by falling
        variance, the largest entry of each positive; ``std`` [components], the square root of the
        variance along each row, floored.

    Raises:
        ReedError: There are fewer than ``components`` channels, not more vectors than components,
            or values that are not finite.
    """
    flat = [np.reshape(a, (-1, np.shape(a)[-1])) for a in arrays]
    rows, channels = sum(len(a) for a in flat), flat[0].shape[1]
    if components > channels or components >= rows:
        raise ReedError(
            f"cannot fit {components} components to {rows} vectors of {channels} channels: "
            "that takes as many channels and more vectors; keep fewer: --codec COLUMN/FIELD=pca:K"
        )
    if not all(np.isfinite(a).all() for a in flat):
        raise ReedError(f"cannot fit {components} components: some values are not finite")

    mean = (sum(a.sum(axis=0, dtype=np.float64) for a in flat) / rows).astype(np.float32)
    covariance = np.zeros((channels, channels))
    for a in flat:
        centred = a.astype(np.float64) - mean
        covariance += centred.T @ centred
    covariance /= rows

    # eigh sorts by rising variance; the sign of a vector is arbitrary, so it is fixed here.
    variances, vectors = np.linalg.eigh(covariance)
    basis = vectors[:, ::-1][:, :components].T
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=1)[:, None], axis=1)
    floor = FLOOR * np.trace(covariance) / channels or 1.0
    std = np.sqrt(np.maximum(variances[::-1][:components], floor))
    state = {"mean": mean, "basis": basis * np.sign(largest), "std": std}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in state.items()}


def standard(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the mean and the standard deviation of every channel of some records.

    Args:
        arrays: Records, each [..., D].

    Returns:
        ``mean`` and ``std``, [D] float32; ``std`` is floored as in `fit`.

    Raises:
        ReedError: There are no values, or some are not finite.
    """
    flat = np.concatenate([np.reshape(a, (-1, np.shape(a)[-1])) for a in arrays])
    if not len(flat) or not np.isfinite(flat).all():
        raise ReedError("cannot standardise the channels: there are no values, or not all finite")
    mean = flat.mean(axis=0, dtype=np.float64)
    variance = np.square(flat - mean).mean(axis=0)
    std = np.sqrt(np.maximum(variance, FLOOR * variance.mean() or 1.0))
    return {"mean": mean.astype(np.float32), "std": std.astype(np.float32)}


def whiten(x: np.ndarray, state: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the components of vectors in units of std: [..., D] -> [..., components], float64.

    The computation is in float64, so that what is stored depends neither on the BLAS nor on its
    number of threads. Without a basis in the state the components are the channels.
    """
    centred = np.array(x, np.float64)
    centred -= state["mean"].astype(np.float64)
    if "basis" in state:
        centred = centred @ state["basis"].astype(np.float64).T
    centred /= state["std"]
    return centred


def whiten_all(values: Any, state: Mapping[str, np.ndarray]) -> Any:
    """Return `whiten` of records [records, ..., D]: one product of matrices for each.

    A tensor is whitened where it is.
    """
    if not batch.is_tensor(values):
        if values.ndim == 2:  # a vector a record
            return whiten(values[:, None], state)[:, 0]
        return _each(values, state)
    on = {
        name: batch.tensor_of(state[name]).to(values.device).double() for name in _USED & set(state)
    }
    centred = values.double() - on["mean"]
    return (centred @ on["basis"].T if "basis" in on else centred) / on["std"]


def _each(values: np.ndarray, state: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return `whiten` of records, one at a time: what is computed of one stays in the cache."""
    if "basis" not in state:
        return whiten(values, state)
    mean, std = state["mean"].astype(np.float64), state["std"]
    basis = state["basis"].astype(np.float64).T
    out, centred = np.empty((*values.shape[:-1], len(std))), np.empty(values.shape[1:])
    for record, found in zip(values, out, strict=True):
        centred[...] = record
        centred -= mean
        np.matmul(centred, basis, out=found)
        found /= std
    return out


def unwhiten(z: np.ndarray, state: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the vectors with these components: [..., components] -> [..., D], float64."""
    scaled = np.asarray(z, np.float64) * state["std"]
    if "basis" in state:
        scaled = scaled @ state["basis"].astype(np.float64)
    return scaled + state["mean"]
