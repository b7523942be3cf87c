"""How well a stored representation is preserved: cosines per token, and between tokens."""

from __future__ import annotations

import numpy as np


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of each vector of ``a`` with that of ``b``: [..., D] -> [...], float64.

    Two zero vectors have cosine 1; a zero vector has cosine 0 with any other.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1)
    product = norms[0] * norms[1]
    cosine = (a * b).sum(axis=-1) / np.where(product > 0, product, 1.0)
    return np.where((norms[0] == 0) & (norms[1] == 0), 1.0, cosine)


def similarities(tokens: np.ndarray) -> np.ndarray:
    """Return the cosines between all pairs of tokens: [T, D] -> [T (T - 1) / 2], float32."""
    tokens = np.asarray(tokens, np.float32)
    norms = np.linalg.norm(tokens, axis=-1, keepdims=True)
    unit = tokens / np.where(norms > 0, norms, np.float32(1))
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]
