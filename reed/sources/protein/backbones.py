"""Ideal protein backbones: helices, strands and loops, grown into compact chains.

Atoms are placed one after another from bond lengths, angles and torsions (NeRF, Parsons et al.,
2005) in the ideal geometry of Engh and Huber, 1991. All functions work on many candidates at once.
"""

from __future__ import annotations

import numpy as np

from reed.chem.protein import COIL, HELIX, IDEAL, STRAND

LOOPS = ((-70.0, 145.0), (-65.0, -35.0), (57.0, 42.0), (80.0, 5.0), (-95.0, 5.0))  # phi, psi
LOOP_ODDS = (0.35, 0.2, 0.15, 0.1, 0.2)
SPREAD = {COIL: 10.0, HELIX: 5.0, STRAND: 12.0}  # degrees, standard deviation of phi and psi
LENGTHS = {COIL: (2, 6), HELIX: (8, 19), STRAND: (4, 9)}  # residues, the end is excluded
OMEGA = 3.0  # degrees, standard deviation of omega from 180
CLASH = 3.8  # angstroms between CA atoms, below which they clash

_NCA, _CAC, _CN, _CO = 1.458, 1.525, 1.329, 1.231  # angstroms
_NCAC, _CACN, _CNCA, _CACO = np.radians([111.0, 116.6, 121.7, 120.1])


def place(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, bond: float, angle: float, torsion: np.ndarray
) -> np.ndarray:
    """Return the atom d that follows the atoms a, b and c, [..., 3].

    Args:
        a: First atom, [..., 3].
        b: Second atom, [..., 3].
        c: Third atom, [..., 3].
        bond: Distance from c to d.
        angle: Angle b-c-d in radians.
        torsion: Torsion a-b-c-d in radians, [...].
    """
    along = c - b
    along = along / _length(along)
    normal = _cross(b - a, along)
    normal = normal / _length(normal)
    across = _cross(normal, along)
    flat = np.cos(torsion)[..., None] * across + np.sin(torsion)[..., None] * normal
    return c + bond * (np.sin(angle) * flat - np.cos(angle) * along)


# np.cross and np.linalg.norm spend most of their time on arguments; the bits are the same.
_NEXT, _LAST = [1, 2, 0], [2, 0, 1]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cross product of vectors, [..., 3]."""
    return a[..., _NEXT] * b[..., _LAST] - a[..., _LAST] * b[..., _NEXT]


def _length(a: np.ndarray) -> np.ndarray:
    """Return the length of vectors, [..., 1]."""
    return np.sqrt(np.add.reduce(a * a, axis=-1, keepdims=True))


def extend(start: np.ndarray, psi: float, torsions: np.ndarray) -> np.ndarray:
    """Return N, CA and C of the residues that continue a chain, [tries, n, 3, 3].

    Args:
        start: N, CA and C of the last residue of the chain, [3, 3].
        psi: Psi of that residue in radians.
        torsions: Omega before each new residue, its phi and its psi in radians, [tries, n, 3].
    """
    tries, count, _ = torsions.shape
    atoms = [np.broadcast_to(atom, (tries, 3)) for atom in start]
    previous_psi = np.full(tries, psi)
    for i in range(count):
        omega, phi, next_psi = torsions[:, i].T
        steps = ((_CN, _CACN, previous_psi), (_NCA, _CNCA, omega), (_CAC, _NCAC, phi))
        for bond, angle, torsion in steps:
            atoms.append(place(*atoms[-3:], bond, angle, torsion))
        previous_psi = next_psi
    return np.stack(atoms[3:], 1).reshape(tries, count, 3, 3)


def segment(rng: np.random.Generator, kind: int, tries: int, count: int) -> np.ndarray:
    """Draw torsions of one secondary structure element, in radians, [tries, count, 3].

    Args:
        rng: Generator of random numbers.
        kind: COIL, HELIX or STRAND.
        tries: Number of candidates.
        count: Number of residues.
    """
    if kind == COIL:
        centres = np.array(LOOPS)[rng.choice(len(LOOPS), (tries, count), p=LOOP_ODDS)]
    else:
        centres = np.broadcast_to(IDEAL[kind], (tries, count, 2))
    angles = centres + rng.normal(0, SPREAD[kind], (tries, count, 2))
    omega = 180 + rng.normal(0, OMEGA, (tries, count, 1))
    return np.radians(np.concatenate([omega, angles], -1))


def backbone(rng: np.random.Generator, length: int, tries: int) -> np.ndarray:
    """Draw a chain of ``length`` residues.

    Loops alternate with helices or strands. Of ``tries`` candidates for a loop and the element
    after it, the one with the fewest clashes is taken; of several such, the most compact.

    Returns:
        N, CA, C and O in angstroms, float64 [length, 4, 3], with the mean of CA at the origin.
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

    # The last element may be too long. O lies opposite to the next N, so it follows from psi.
    atoms, psi = atoms[:length], angles[:length, 2]
    oxygen = place(*np.moveaxis(atoms, 1, 0), _CO, _CACO, psi + np.pi)
    atoms = np.concatenate([atoms, oxygen[:, None]], 1)
    return atoms - atoms[:, 1].mean(0)


def _element(rng: np.random.Generator) -> int:
    return int(rng.choice([HELIX, STRAND], p=[0.55, 0.45]))


def _badness(chain: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Score candidates by their clashes and then by the spread of the whole chain, [tries].

    Args:
        chain: CA of the chain so far, [n, 3].
        more: CA of the candidates that continue it, [tries, m, 3].
    """
    whole = np.concatenate([np.broadcast_to(chain, (len(more), *chain.shape)), more], 1)
    distances = np.linalg.norm(more[:, :, None] - whole[:, None], axis=-1)  # [tries, m, n + m]
    positions = np.arange(whole.shape[1])
    is_earlier = positions[len(chain) :, None] - positions > 2  # neighbours are always close
    clashes = ((distances < CLASH) & is_earlier).sum((1, 2))
    return 100.0 * clashes + whole.std(1).sum(-1)
