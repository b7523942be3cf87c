"""Comparison of two structures, residue by residue: TM-score and lDDT.

biotite's functions are no substitute. They compute in float32, so that a distance at a threshold of
lDDT may fall on the other side, and the TM-score expects a superposition instead of finding one.
"""

from __future__ import annotations

import numpy as np

from reed.chem.geometry import superpose
from reed.errors import ReedError


def tm_score(model: np.ndarray, reference: np.ndarray) -> float:
    """Compute the TM-score of CA positions with known correspondence, in (0, 1]; 1 if equal.

    It is the largest score reached from superpositions of fragments of every size, normalised by
    the length of the reference.

    Source: Zhang and Skolnick, Proteins 57 (2004) 702, equations 1 to 3. There a fragment grows by
    the residues within a cutoff; here each step weighs every residue by the slope of its term,
    which can only raise the score.

    Args:
        model: CA positions in angstroms, [N, 3].
        reference: CA positions of the reference in angstroms, [N, 3].

    Raises:
        ReedError: The shapes differ, or there are fewer than 3 residues.
    """
    _check(model, reference)
    length = len(reference)
    scale = max(0.5, 1.24 * np.cbrt(length - 15) - 1.8) if length > 15 else 0.5

    # From the whole chain down to fragments of 4 residues, each at overlapping positions.
    best, size = 0.0, length
    while True:
        for first in range(0, length - size + 1, max(1, size // 4)):
            weight = np.zeros(length)
            weight[first : first + size] = 1
            best = max(best, _climbed(model, reference, weight, scale))
        if size <= 4:
            return best
        size = max(4, size // 2)


def _check(model: np.ndarray, reference: np.ndarray) -> None:
    superpose(model, reference)  # refuses shapes that differ
    if len(model) < 3:
        raise ReedError(f"{len(model)} residues are too few to compare; 3 or more are needed")


def _climbed(model: np.ndarray, reference: np.ndarray, weight: np.ndarray, scale: float) -> float:
    """Return the TM-score after an ascent from the superposition with weights ``weight``."""
    score = 0.0
    for _ in range(40):
        turn, shift = superpose(model, reference, weight)
        square = np.square(model @ turn + shift - reference).sum(1)
        terms = 1 / (1 + square / scale**2)
        before, score = score, float(terms.mean())
        if score < before + 1e-5:
            break
        weight = terms**2
    return score


def lddt(model: np.ndarray, reference: np.ndarray, reach: float = 15.0) -> float:
    """Compute the lDDT of CA positions, in [0, 1]; it needs no superposition.

    It is the share of the reference's distances below ``reach`` that the model preserves within
    0.5, 1, 2 and 4 angstroms, averaged over the four.

    Source: Mariani et al., Bioinformatics 29 (2013) 2722.

    Args:
        model: CA positions in angstroms, [N, 3].
        reference: CA positions of the reference in angstroms, [N, 3].
        reach: Upper limit of the distances to compare, in angstroms.

    Raises:
        ReedError: The shapes differ, or no two CA of the reference lie within ``reach``.
    """
    _check(model, reference)
    distances, expected = (np.linalg.norm(x[:, None] - x, axis=-1) for x in (model, reference))
    counted = (expected < reach) & ~np.eye(len(reference), dtype=bool)
    if not counted.any():
        raise ReedError(f"no two CA of the reference lie within {reach} A: lDDT is undefined")
    error = np.abs(distances - expected)[counted]
    return float(np.mean([(error < limit).mean() for limit in (0.5, 1.0, 2.0, 4.0)]))
