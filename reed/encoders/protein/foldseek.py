"""3Di, the structural alphabet of Foldseek: one letter per residue, from the backbone.

Source: van Kempen et al., 2024, Nature Biotechnology 42:243; biotite's port of Foldseek's encoder.
"""

from __future__ import annotations

from importlib import metadata

import numpy as np

ALPHABET = "acdefghiklmnpqrstvwy"
UNKNOWN = "#"
ATOMS = ("N", "CA", "C")


def states(coords: np.ndarray) -> str:
    """Return the 3Di letter of each residue of one chain.

    A residue without N, CA or C has `UNKNOWN`. As in Foldseek, "d" is also the letter of the first
    and last residue and of those beside a gap. CB is placed from N, CA and C, as Foldseek does if a
    structure has none; with the true CB a letter may differ.

    Args:
        coords: N, CA, C and O in angstroms, [L, 4, 3]; NaN where not observed.
    """
    from biotite.structure import AtomArray
    from biotite.structure.alphabet import to_3di

    # Three atoms per residue, in one chain; the name of the residue does not matter.
    length = len(coords)
    atoms = AtomArray(3 * length)
    atoms.coord = np.asarray(coords[:, :3], np.float32).reshape(-1, 3)
    atoms.res_id = np.repeat(np.arange(1, length + 1), 3)
    atoms.res_name = np.full(3 * length, "ALA")
    atoms.atom_name = np.tile(ATOMS, length)
    atoms.chain_id = np.full(3 * length, "A")

    with np.errstate(invalid="ignore"):  # of atoms that are not observed
        (sequence,), _ = to_3di(atoms)
    is_known = [np.isfinite(residue[:3]).all() for residue in coords]
    letters = zip(str(sequence), is_known, strict=True)
    return "".join(letter if known else UNKNOWN for letter, known in letters)


def version() -> str:
    """Return the version of the library that computes the letters, for a revision."""
    return f"biotite-{metadata.version('biotite')}"
