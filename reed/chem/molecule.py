"""Molecules in plain arrays: the vocabulary of atoms and charges, and two forms of the bonds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reed.errors import ReedError

# of SemlaFlow's GEOM-DRUGS checkpoints: the place of a symbol is its number
ATOMS = tuple("<PAD> <MASK> H C N O F P S Cl Br B Al Si As I Hg Bi".split())
HYDROGEN, ELEMENTS = 2, ATOMS[2:]
CHARGES = (0, 1, 2, 3, -1, -2, -3)  # likewise
NONE, AROMATIC = 0, 4  # bonds are 1, 2, 3 by their order, 4 if aromatic; 0: no bond
BONDS = 5  # kinds of bonds, "none" included
DEGREE = 8  # neighbours that an atom may have
COORD_SCALE = 2.407038688659668  # angstroms, of all centred coordinates; of GEOM-DRUGS


@dataclass(frozen=True)
class Molecule:
    """One conformer of a molecule, with hydrogens.

    Attributes:
        coords: Coordinates in angstroms, float32 [N, 3].
        atoms: Indices into ATOMS, small integers [N].
        charges: Formal charges, small integers [N].
        bonds: Kinds of bonds, small integers, symmetric [N, N], NONE on the diagonal.
    """

    coords: np.ndarray
    atoms: np.ndarray
    charges: np.ndarray
    bonds: np.ndarray

    def __len__(self) -> int:
        return len(self.atoms)


def to_lists(bonds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bonds [N, N] as lists of neighbours.

    Returns:
        The neighbours of each atom, ascending, int32 [N, DEGREE], padded with -1, and the kinds of
        the bonds to them, uint8 [N, DEGREE], padded with NONE.

    Raises:
        ReedError: An atom has more than DEGREE neighbours.
    """
    degree = (bonds != NONE).sum(1)
    if degree.size and degree.max() > DEGREE:
        raise ReedError(f"an atom has {degree.max()} neighbours, at most {DEGREE} can be stored")
    partners = np.full((len(bonds), DEGREE), -1, np.int32)
    orders = np.zeros((len(bonds), DEGREE), np.uint8)
    rows, columns = np.nonzero(bonds)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(degree) - degree, degree)
    partners[rows, places] = columns
    orders[rows, places] = bonds[rows, columns]
    return partners, orders


def to_matrix(partners: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Return the bonds, uint8 [N, N], of lists that ``to_lists`` made."""
    bonds = np.zeros((len(partners), len(partners)), np.uint8)
    rows, places = np.nonzero(partners >= 0)
    bonds[rows, partners[rows, places]] = orders[rows, places]
    return bonds
