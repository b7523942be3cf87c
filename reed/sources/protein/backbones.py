"""Ideal protein backbones: torsions of helices, strands and loops, grown into compact chains.

Atoms are placed one after another from bond lengths, angles and torsions (Parsons et al., 2005,
NeRF; ideal geometry of Engh and Huber, 1991). Everything is numpy, over candidates at once.
"""

from __future__ import annotations

import numpy as np

from reed.chem.protein import COIL, HELIX, IDEAL, STRAND

LOOPS = ((-70.0, 145.0), (-65.0, -35.0), (57.0, 42.0), (80.0, 5.0), (-95.0, 5.0))  # phi, psi
LOOP_ODDS = (0.35, 0.2, 0.15, 0.1, 0.2)
SPREAD = {COIL: 10.0, HELIX: 5.0, STRAND: 12.0}  # degrees, the deviation of phi and psi
LENGTHS = {COIL: (2, 6), HELIX: (8, 19), STRAND: (4, 9)}  # residues, from and below
OMEGA = 3.0  # degrees, its deviation from 180
CLASH = 3.8  # angstroms between CA

_NCA, _CAC, _CN, _CO = 1.458, 1.525, 1.329, 1.231  # angstroms
_NCAC, _CACN, _CNCA, _CACO = np.radians([111.0, 116.6, 121.7, 120.1])


def place(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, bond: float, angle: float, torsion: np.ndarray
) -> np.ndarray:
    """The atom d at `bond` from c with the angle b-c-d and the torsion a-b-c-d, in radians.

    a, b, c: [..., 3]; torsion: [...].
    """
    along = c - b
    along = along / np.linalg.norm(along, axis=-1, keepdims=True)
    normal = np.cross(b - a, along)
    normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    across = np.cross(normal, along)
    flat = np.cos(torsion)[..., None] * across + np.sin(torsion)[..., None] * normal
    return c + bond * (np.sin(angle) * flat - np.cos(angle) * along)


def extend(start: np.ndarray, psi: float, torsions: np.ndarray) -> np.ndarray:
    """N, CA, C of further residues: [tries, n, 3, 3].

    start: N, CA, C of the last residue [3, 3]; psi: its own; torsions: omega before each residue,
    its phi and its psi, in radians [tries, n, 3].
    """
    tries, count, _ = torsions.shape
    atoms = [np.broadcast_to(atom, (tries, 3)) for atom in start]
    before = np.full(tries, psi)
    for i in range(count):
        omega, phi, after = torsions[:, i].T
        for bond, angle, turn in ((_CN, _CACN, before), (_NCA, _CNCA, omega), (_CAC, _NCAC, phi)):
            atoms.append(place(*atoms[-3:], bond, angle, turn))
        before = after
    return np.stack(atoms[3:], 1).reshape(tries, count, 3, 3)


def segment(rng: np.random.Generator, kind: int, tries: int, count: int) -> np.ndarray:
    """Random torsions of one element of structure, in radians [tries, count, 3]."""
    if kind == COIL:
        centres = np.array(LOOPS)[rng.choice(len(LOOPS), (tries, count), p=LOOP_ODDS)]
    else:
        centres = np.broadcast_to(IDEAL[kind], (tries, count, 2))
    angles = centres + rng.normal(0, SPREAD[kind], (tries, count, 2))
    omega = 180 + rng.normal(0, OMEGA, (tries, count, 1))
    return np.radians(np.concatenate([omega, angles], -1))


def backbone(rng: np.random.Generator, length: int, tries: int) -> np.ndarray:
    """A chain of `length` residues: N, CA, C, O in angstroms, float64 [L, 4, 3], centred.

    Helices and strands alternate with loops. Each is the one of `tries` candidates (with the loop
    before it) that clashes least and then is the most compact.
    """
    first = np.array([[0, 0, 0], [_NCA, 0, 0], [_NCA - _CAC * np.cos(_NCAC), 0, 0]])
    first[2, 1] = _CAC * np.sin(_NCAC)
    atoms, angles = first[None], segment(rng, COIL, 1, 1)[0]
    while len(atoms) < length:
        parts = [(kind, int(rng.integers(*LENGTHS[kind]))) for kind in (COIL, _element(rng))]
        drawn = [segment(rng, kind, tries, count) for kind, count in parts]
        torsions = np.concatenate(drawn, 1)
        more = extend(atoms[-1], float(angles[-1, 2]), torsions)
        best = int(np.argmin(_badness(atoms[:, 1], more[:, :, 1])))
        atoms, angles = (
            np.concatenate([atoms, more[best]]),
            np.concatenate([angles, torsions[best]]),
        )
    atoms, psi = atoms[:length], angles[:length, 2]
    oxygen = place(*np.moveaxis(atoms, 1, 0), _CO, _CACO, psi + np.pi)
    atoms = np.concatenate([atoms, oxygen[:, None]], 1)
    return atoms - atoms[:, 1].mean(0)


def _element(rng: np.random.Generator) -> int:
    return int(rng.choice([HELIX, STRAND], p=[0.55, 0.45]))


def _badness(there: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Clashes, then the spread of the whole chain: CA [n, 3] and [tries, m, 3] -> [tries]."""
    whole = np.concatenate([np.broadcast_to(there, (len(more), *there.shape)), more], 1)
    apart = np.linalg.norm(more[:, :, None] - whole[:, None], axis=-1)  # [tries, m, n + m]
    places = np.arange(whole.shape[1])
    later = places[len(there) :, None] - places > 2
    clashes = ((apart < CLASH) & later).sum((1, 2))
    return 100.0 * clashes + whole.std(1).sum(-1)
