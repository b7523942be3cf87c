"""How much of a representation is left: cosines per token, and between the tokens."""

from __future__ import annotations

import numpy as np


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosine of each vector in `a` with the same one in `b`: [..., D] twice -> [...], float64.

    Two zero vectors agree (1); a zero vector agrees with no other (0).
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1)
    product = norms[0] * norms[1]
    found = (a * b).sum(axis=-1) / np.where(product > 0, product, 1.0)
    return np.where((norms[0] == 0) & (norms[1] == 0), 1.0, found)


def similarities(tokens: np.ndarray) -> np.ndarray:
    """The cosines between all pairs of different tokens, [T, D] -> [T (T - 1) / 2], float32."""
    tokens = np.asarray(tokens, np.float32)
    norms = np.linalg.norm(tokens, axis=-1, keepdims=True)
    unit = tokens / np.where(norms > 0, norms, np.float32(1))
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]
