"""Whether the coordinates of a molecule can be those of a conformer: judged by geometry alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from reed.chem import rdkit

# A bond's length, in sums of its atoms' covalent radii; angstroms given as nanometres are at 0.1.
SHORTEST, LONGEST = 0.5, 1.6
SHORTEST_BOND = 0.7  # triple bonds are at 0.77; drawings with bonds of 0.825 Å at 0.54
FLAT = 0.05  # angstroms from the best plane, up to which a molecule is planar
SP3 = 3  # neighbours with which an sp3 atom lies in no plane with them


def implausible(mol: Any) -> str:
    """Return why the coordinates of a sanitised molecule are no conformer; empty if they may be.

    Atoms coincide or are nearer than half the sum of their covalent radii, a bond is shorter than
    0.7 or longer than 1.6 times that sum, or all atoms lie in a plane though an sp3 atom has three
    or more neighbours. Atoms are counted from 1, as in files. Flags such as "2D" of a file are not
    looked at.

    Source of the radii: Cordero et al., Dalton Trans. 2832 (2008), by RDKit.
    """
    coords = mol.GetConformer().GetPositions()
    if not np.isfinite(coords).all():
        return "has coordinates that are not finite"
    return _distances(mol, coords) or _planarity(mol, coords)


def _distances(mol: Any, coords: np.ndarray) -> str:
    """Return which two atoms are too near, or bonded and too near or too far apart."""
    radii = np.array([_radius(atom.GetAtomicNum()) for atom in mol.GetAtoms()])
    sums = radii[:, None] + radii[None]
    apart = np.linalg.norm(coords[:, None] - coords[None], axis=-1)

    near = np.triu(apart < SHORTEST * sums, 1)
    if near.any():
        a, b = np.argwhere(near)[0].tolist()
        return _told(mol, a, b, apart[a, b], f"under {SHORTEST}", sums[a, b])

    # Bonds have narrower limits than atoms that only come near one another.
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    a, b = np.array(ends, int).reshape(-1, 2).T
    lengths, radii = apart[a, b], sums[a, b]
    for wrong, limit in (
        (lengths < SHORTEST_BOND * radii, f"under {SHORTEST_BOND}"),
        (lengths > LONGEST * radii, f"over {LONGEST}"),
    ):
        if wrong.any():
            a, b = ends[int(wrong.argmax())]
            return _told(mol, a, b, apart[a, b], f"bonded, and {limit}", sums[a, b])
    return ""


def _told(mol: Any, a: int, b: int, apart: float, limit: str, radii: float) -> str:
    names = " and ".join(f"{i + 1} ({mol.GetAtomWithIdx(i).GetSymbol()})" for i in (a, b))
    what = f"atoms {names} are {apart:.3f} Å apart, {limit} of the {radii:.2f} Å"
    return f"has no conformer: {what} of their radii; coordinates must be in Å"


def _planarity(mol: Any, coords: np.ndarray) -> str:
    """Return which atom forbids that all lie in one plane, where they do."""
    if len(coords) <= SP3:
        is_drawing = not any(atom.GetAtomicNum() == 1 for atom in mol.GetAtoms())
        is_flat = len(coords) == SP3 and is_drawing and not coords[:, 2].any()
    else:
        centred = coords - coords.mean(0)
        normal = np.linalg.svd(centred, full_matrices=False)[2][-1]
        is_flat = np.abs(centred @ normal).max() < FLAT
    if not is_flat:
        return ""

    in_file_plane = not coords[:, 2].any()
    for atom in mol.GetAtoms():
        # Without hydrogens, a chain may lie in a plane, but in that of the page only if drawn.
        count = atom.GetTotalDegree() if in_file_plane else atom.GetDegree()
        if count >= SP3 and _is_pyramidal(atom):
            name = f"atom {atom.GetIdx() + 1} ({atom.GetSymbol()}, sp3)"
            return f"lies in a plane, though {name} has {count} neighbours: no conformer"
    return ""


def _is_pyramidal(atom: Any) -> bool:
    """Return whether no plane holds an atom and all its neighbours.

    One with three neighbours may be planar by conjugation that RDKit does not count, as in H2NBH2.
    """
    kinds = rdkit.library().HybridizationType
    if atom.GetHybridization() != kinds.SP3:
        return False
    flat = (kinds.SP, kinds.SP2)
    beside = any(other.GetHybridization() in flat for other in atom.GetNeighbors())
    return atom.GetTotalDegree() > SP3 or not beside


@lru_cache(maxsize=128)
def _radius(number: int) -> float:
    return float(rdkit.library().GetPeriodicTable().GetRcovalent(number))
