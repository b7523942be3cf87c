"""Comparison of two structures, residue by residue: TM-score and lDDT.

biotite's functions are no substitute. They compute in float32, so that a distance at a threshold of
lDDT may fall on the other side, and the TM-score expects a superposition instead of finding one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reed.chem.geometry import rotation, superpose
from reed.errors import ReedError

BLOCK = 1 << 16  # numbers in the weights of the fragments that are superposed together


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

    model, reference = (points - points.mean(0) for points in (model, reference))
    pairs = _Pairs(model.astype(np.float64), reference.astype(np.float64), scale)

    # From the whole chain down to fragments of 4 residues, each at overlapping positions.
    begins, sizes, size = [], [], length
    while True:
        firsts = range(0, length - size + 1, max(1, size // 4))
        begins += firsts
        sizes += [size] * len(firsts)
        if size <= 4:
            break
        size = max(4, size // 2)

    # A block holds as many fragments as fit into a processor's cache.
    best, block = (0.0, np.empty(0)), max(1, BLOCK // length)
    for first in range(0, len(begins), block):
        chosen = slice(first, first + block)
        best = max(best, pairs.best(begins[chosen], sizes[chosen]), key=lambda found: found[0])
    return max(best[0], pairs.climb(best[1][None], 1e-9, 1000)[0])


def _check(model: np.ndarray, reference: np.ndarray) -> None:
    superpose(model, reference)  # refuses shapes that differ
    if len(model) < 3:
        raise ReedError(f"{len(model)} residues are too few to compare; 3 or more are needed")


@dataclass
class _Pairs:
    """Pairs of corresponding residues, superposed by many sets of weights at once.

    Everything that a superposition needs is linear in products of the coordinates: so is its
    covariance, and so are the squared distances after it. One matrix product computes each for all
    sets of weights.

    Attributes:
        model: Centred positions, float64 [N, 3].
        reference: Centred positions of the reference, float64 [N, 3].
        scale: The distance in angstroms at which the term of a residue is one half.
    """

    model: np.ndarray
    reference: np.ndarray
    scale: float

    def __post_init__(self) -> None:
        model, reference, ones = self.model, self.reference, np.ones((len(self.model), 1))
        products = (model[:, :, None] * reference[:, None]).reshape(-1, 9)
        self._moments = np.concatenate([products, model, reference, ones], 1)  # [N, 16]
        self._lengths = (model**2 + reference**2).sum(1)

    def terms(self, weights: np.ndarray) -> np.ndarray:
        """Return the terms of the score after superpositions with weights, both [S, N]."""
        sums = weights @ self._moments
        sums /= sums[:, 15:]
        centre, target = sums[:, 9:12], sums[:, 12:15]
        turn = rotation(sums[:, :9].reshape(-1, 3, 3) - centre[:, :, None] * target[:, None])
        shift = target - np.einsum("si,sij->sj", centre, turn)

        # |x R + s - y|^2 = |x|^2 + |y|^2 - 2 x R y + 2 x R s - 2 y s + |s|^2
        turned = np.einsum("sij,sj->si", turn, shift)
        square = [-2 * turn.reshape(-1, 9), 2 * turned, -2 * shift, (shift**2).sum(1)[:, None]]
        terms = np.concatenate(square, 1) @ self._moments.T
        terms += self._lengths
        terms = terms.clip(min=0, out=terms)  # rounding may make a distance of 0 negative
        terms /= self.scale**2
        terms += 1
        return np.reciprocal(terms, out=terms)

    def best(self, begins: Sequence[int], sizes: Sequence[int]) -> tuple[float, np.ndarray]:
        """Return the best score that fragments lead to, and the weights that follow from it."""
        index, begin = np.arange(len(self.model)), np.array(begins)[:, None]
        inside = (index >= begin) & (index < begin + np.array(sizes)[:, None])
        return self.climb(inside.astype(np.float64), 0.9e-5, 40)

    def climb(self, weights: np.ndarray, least: float, rounds: int) -> tuple[float, np.ndarray]:
        """Ascend from sets of weights [S, N], each until a step gains less than ``least``.

        Returns:
            The best score, and the weights [N] of the next step there.
        """
        best, scores = (0.0, weights[0]), np.zeros(len(weights))
        for _ in range(rounds):
            terms = self.terms(weights)
            before, scores = scores, terms.mean(1)
            top = int(scores.argmax())
            if scores[top] > best[0]:
                best = float(scores[top]), terms[top] ** 2

            going = scores >= before + least
            if not going.any():
                break
            weights, scores = terms[going] ** 2, scores[going]
        return best


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
