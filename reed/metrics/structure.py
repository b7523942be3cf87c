"""Two structures compared, residue by residue: TM-score and lDDT.

biotite's functions are no substitute: they compute in float32, so that a distance at a limit of
lDDT may fall on the other side, and its TM-score takes a superposition instead of searching one.
"""

from __future__ import annotations

import numpy as np

from reed.chem.geometry import superpose
from reed.errors import ReedError


def tm_score(model: np.ndarray, reference: np.ndarray) -> float:
    """TM-score of CA positions [N, 3] in A with known correspondence: in (0, 1], 1 when equal.

    The largest score that is reached from superpositions of fragments of every size; normalised by
    the length of the reference. Source: Zhang and Skolnick, Proteins 57 (2004) 702, equations 1
    to 3. There a fragment grows by the residues within a cutoff; here each step weighs every
    residue by the slope of its term, which can only raise the score.
    """
    _check(model, reference)
    length = len(reference)
    scale = max(0.5, 1.24 * np.cbrt(length - 15) - 1.8) if length > 15 else 0.5
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
    """The TM-score at the end of an ascent from the superposition that `weight` gives."""
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
    """lDDT of CA positions [N, 3] in A: in [0, 1], needs no superposition.

    The share of the reference's distances below `reach` that the model keeps within 0.5, 1, 2 and
    4 A, averaged over the four. Source: Mariani et al., Bioinformatics 29 (2013) 2722.
    """
    _check(model, reference)
    ours, theirs = (np.linalg.norm(x[:, None] - x, axis=-1) for x in (model, reference))
    counted = (theirs < reach) & ~np.eye(len(reference), dtype=bool)
    if not counted.any():
        raise ReedError(f"no two CA of the reference lie within {reach} A: lDDT is undefined")
    error = np.abs(ours - theirs)[counted]
    return float(np.mean([(error < limit).mean() for limit in (0.5, 1.0, 2.0, 4.0)]))
