"""Descriptors of a chain that follow from its backbone and letters: residues, and pairs of them."""

from __future__ import annotations

import numpy as np

from reed.chem.protein import (
    ALPHABET,
    COIL,
    HELIX,
    HYDROPATHY,
    STRAND,
    phi_psi,
    secondary,
    virtual_beta,
)

RADII = (6.0, 8.0, 10.0, 12.0, 14.0)  # angstroms between CB; neighbours are counted within each
CENTRES, WIDTH = np.linspace(2.0, 20.0, 12), 1.5  # of the radial functions of a pair, in angstroms
CHARGE = dict.fromkeys("DE", -1.0) | dict.fromkeys("KR", 1.0)
TOKEN, PAIR = 33, 22  # channels


class Described:
    """The parts from which descriptors are made, each an array over residues or over pairs.

    Args:
        coords: N, CA, C and O in angstroms, float64 [L, 4, 3].
        letters: Indices into ALPHABET, [L].
        breaks: Residues, [K], that are not bound to the one before; None for a whole chain.
    """

    def __init__(
        self, coords: np.ndarray, letters: np.ndarray, breaks: np.ndarray | None = None
    ) -> None:
        self._coords, self._length = coords, len(coords)
        self._beta = virtual_beta(coords)
        self._apart = np.linalg.norm(self._beta[:, None] - self._beta[None], axis=-1)  # [L, L]
        self._energy = bond_energies(coords)
        angles = phi_psi(coords)
        if breaks is not None:  # across them there is no torsion, and H has no defined position
            angles[breaks, 0] = angles[breaks - 1, 1] = np.nan
            self._energy[breaks] = 0
        waves = np.concatenate([np.sin(angles), np.cos(angles)], 1)
        self._waves = np.nan_to_num(waves)  # the ends of the chain have no angle
        self._kind = np.eye(3)[secondary(angles)][:, [COIL, HELIX, STRAND]]
        charge = np.array([CHARGE.get(letter, 0.0) for letter in ALPHABET[:20]])
        known = np.stack([np.array(HYDROPATHY) / 4.5, charge], 1)
        self._nature = np.pad(known, ((0, 1), (0, 0)))[letters]  # [L, 2]; X has neither

    def tokens(self) -> np.ndarray:
        """Describe residues: torsions, elements, burial, bonds, nearby residues: [L, TOKEN]."""
        # Burial, and the average properties of the residues nearby.
        counts = [(self._apart < radius).sum(1) - 1.0 for radius in RADII]
        burial = (counts[2] - counts[2].mean()) / (counts[2].std() + 1e-6)
        weight = np.exp(-np.square(self._apart / 8.0)) * (1 - np.eye(self._length))
        company = weight @ self._nature / (weight.sum(1, keepdims=True) + 1e-6)

        # Hydrogen bonds that the residue takes part in, torsions beside it, elements around it.
        bonded = np.stack([self._energy.min(0), self._energy.min(1)], 1).clip(-3, 0)
        turns = [self._at(k) for k in (-1, 1)]
        smooth = np.stack([self._kind[max(0, i - 3) : i + 4].mean(0) for i in range(self._length)])
        parts = [
            self._waves,
            *turns,
            self._kind,
            smooth,
            np.log1p(np.stack(counts, 1)),
            burial[:, None],
            bonded,
            company,
            self._bends(),
            self._nature[:, :1],
        ]
        return np.concatenate(parts, 1)

    def pairs(self) -> np.ndarray:
        """Describe pairs by distance, separation, direction, bonds and nature: [L, L, PAIR]."""
        radial = np.exp(-np.square((self._apart[..., None] - CENTRES) / WIDTH))
        separation = np.subtract.outer(*[np.arange(self._length)] * 2)

        # Directions are in the frame of the first residue, so that rotations do not change them.
        frames = _frames(self._coords)
        ca = self._coords[:, 1]
        toward = np.einsum("ixk,ijx->ijk", frames, ca[None] - ca[:, None])
        toward = toward / (np.linalg.norm(toward, axis=-1, keepdims=True) + 1e-6)
        side = self._beta - ca
        facing = np.einsum("ix,jx->ij", side, side) / 2.3  # |CB - CA|^2 is 1.53^2

        energy = self._energy.clip(-3, 0)
        nature = np.einsum("ic,jc->ijc", self._nature, self._nature)
        single = [np.sign(separation), np.log1p(np.abs(separation)), facing, energy, energy.T]
        return np.concatenate([radial, toward, nature, np.stack(single, -1)], -1)

    def _at(self, offset: int) -> np.ndarray:
        """Return the torsions of the residue at an offset, zero beyond the ends."""
        padded = np.pad(self._waves, ((1, 1), (0, 0)))
        return padded[1 + offset : 1 + offset + self._length]

    def _bends(self) -> np.ndarray:
        """Return the CA distance to residues 3 and 4 away on both sides, in nm, [L, 4]."""
        ca, indices = self._coords[:, 1], np.arange(self._length)
        ends = [np.clip(indices + k, 0, self._length - 1) for k in (-4, -3, 3, 4)]
        return np.stack([np.linalg.norm(ca[end] - ca, axis=1) / 10 for end in ends], 1)


def bond_energies(coords: np.ndarray) -> np.ndarray:
    """Compute the energy of a hydrogen bond between the NH and CO of residues, in kcal/mol.

    Source: Kabsch and Sander, 1983 (DSSP), 27.9 kcal/mol (1/ON + 1/CH - 1/OH - 1/CN).

    Args:
        coords: N, CA, C and O in angstroms, [L, 4, 3].

    Returns:
        Energies [L, L]; the first axis is the donor. They are zero for the first residue, whose H
        has no defined position, and between adjacent residues.
    """
    # H lies one angstrom from N, against the C=O of the residue before.
    n, _, c, o = np.moveaxis(coords, 1, 0)
    back = c[:-1] - o[:-1]
    hydrogen = n.copy()
    hydrogen[1:] += back / np.linalg.norm(back, axis=-1, keepdims=True)

    def inverse(donor: np.ndarray, acceptor: np.ndarray) -> np.ndarray:
        return 1 / np.linalg.norm(donor[:, None] - acceptor[None], axis=-1).clip(0.5)

    energy = 27.9 * (inverse(n, o) + inverse(hydrogen, c) - inverse(hydrogen, o) - inverse(n, c))
    adjacent = np.abs(np.subtract.outer(*[np.arange(len(coords))] * 2)) < 2
    energy[adjacent] = 0
    energy[0] = 0
    return energy


def _frames(coords: np.ndarray) -> np.ndarray:
    """Return an orthonormal frame at each CA, whose axes are the columns: [L, 3, 3]."""
    n, ca, c = np.moveaxis(coords[:, :3], 1, 0)
    first = (c - ca) / np.linalg.norm(c - ca, axis=-1, keepdims=True)
    other = (n - ca) - ((n - ca) * first).sum(-1, keepdims=True) * first
    second = other / np.linalg.norm(other, axis=-1, keepdims=True)
    return np.stack([first, second, np.cross(first, second)], -1)
