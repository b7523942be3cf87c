"""Proteins as plain arrays: the alphabet, torsions, secondary structure and virtual CB atoms."""

from __future__ import annotations

import numpy as np

ALPHABET = "ACDEFGHIKLMNPQRSTVWYX"  # ProteinMPNN's; X is a residue without one of the 20 letters
ATOMS = ("N", "CA", "C", "O")  # the order of coordinates
# Neighbours of each residue for which pair representations are kept; ProteinMPNN's largest k.
NEIGHBOURS = 48
# In the order of the first 20 letters; Kyte and Doolittle, 1982.
HYDROPATHY = (
    1.8,
    2.5,
    -3.5,
    -3.5,
    2.8,
    -0.4,
    -3.2,
    4.5,
    -3.9,
    3.8,
    1.9,
    -3.5,
    -1.6,
    -3.5,
    -4.5,
    -0.8,
    -0.7,
    4.2,
    -0.9,
    -1.3,
)

COIL, HELIX, STRAND = range(3)
IDEAL = {HELIX: (-62.0, -42.0), STRAND: (-118.0, 130.0)}  # phi and psi in degrees
NEAR = {HELIX: 30.0, STRAND: 50.0}  # degrees, the largest deviation of phi and of psi


def torsion(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Return the torsion a-b-c-d of points [..., 3] in radians, [...]."""
    along = (c - b) / np.linalg.norm(c - b, axis=-1, keepdims=True)
    left, right = np.cross(b - a, along), np.cross(along, d - c)
    return np.arctan2((np.cross(left, right) * along).sum(-1), (left * right).sum(-1))


def phi_psi(coords: np.ndarray) -> np.ndarray:
    """Return phi and psi in radians, [L, 2]; NaN at the ends and where atoms are missing."""
    n, ca, c = np.moveaxis(coords[:, :3].astype(np.float64), 1, 0)
    angles = np.full((len(coords), 2), np.nan)
    angles[1:, 0] = torsion(c[:-1], n[1:], ca[1:], c[1:])
    angles[:-1, 1] = torsion(n[:-1], ca[:-1], c[:-1], n[1:])
    return angles


def secondary(angles: np.ndarray) -> np.ndarray:
    """Return COIL, HELIX or STRAND per residue, [L].

    A residue belongs to an element if it and both its neighbours have torsions near the ideal.

    Args:
        angles: Phi and psi in radians, [L, 2].
    """
    kinds = np.full(len(angles), COIL)
    for kind, ideal in IDEAL.items():
        deviation = np.abs((np.degrees(angles) - ideal + 180) % 360 - 180)
        near = np.pad((deviation < NEAR[kind]).all(1), 1)  # NaN is not near
        kinds[near[:-2] & near[1:-1] & near[2:]] = kind
    return kinds


def virtual_beta(coords: np.ndarray) -> np.ndarray:
    """Return the positions of CB by ideal geometry with ProteinMPNN's constants, [L, 3]."""
    n, ca, c = np.moveaxis(coords[:, :3].astype(np.float64), 1, 0)
    b, d = ca - n, c - ca
    return ca - 0.58273431 * np.cross(b, d) + 0.56802827 * b - 0.54067466 * d
