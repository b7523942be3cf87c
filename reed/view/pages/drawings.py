"""Drawings of structures and molecules, with a point for each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reed.cache.schema import Column
from reed.chem import rdkit
from reed.chem.molecule import ATOMS, Molecule, to_matrix
from reed.chem.protein import ALPHABET
from reed.chem.protein import ATOMS as BACKBONE
from reed.errors import ReedError
from reed.view.pages import page

SIDE, MARGIN = 320, 12  # of a drawing, in its own units of length
MOLECULE = {"coords", "atoms", "charges", "partners", "orders"}


def drawings(column: Column, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the drawings of one sample of a column as plain data; empty if there are none.

    Returns:
        Tables with a title, a caption, total (the number of tokens) and names (of the tokens).
        A drawing has points [[token, x, y, group], ...] and lines [[a, b], ...] between tokens, in
        a square of SIDE, and may have src, a picture below them. Without a drawing, problem says
        why. A structure has its sequence of letters.
    """
    if values.keys() >= MOLECULE:
        return [{"title": f"{column.name}: molecule", **_molecule(values)}]
    shape = (None, len(BACKBONE), 3)
    names = [f.name for f in column.fields if f.kind == "data" and f.shape == shape]
    return [{"title": f"{column.name}/{name}", **_trace(values[name], values)} for name in names]


def _molecule(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a molecule as RDKit draws it; RDKit may be missing, or refuse the molecule."""
    atoms = np.asarray(values["atoms"])
    common = {
        "total": len(atoms),
        "names": [ATOMS[i] for i in atoms.tolist()],
        "points": [],
        "lines": [],
        "caption": f"{len(atoms)} atoms; hydrogens are left out of the drawing",
    }
    try:
        bonds = to_matrix(np.asarray(values["partners"]), np.asarray(values["orders"]))
        charges = np.asarray(values["charges"])
        src, points = rdkit.drawing(Molecule(values["coords"], atoms, charges, bonds), SIDE)
    except ReedError as error:
        return common | {"problem": f"not drawn: {error}"}
    return common | {"src": page.data_url(src.encode(), "image/svg+xml"), "points": points}


def _trace(coords: np.ndarray, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the CA atoms seen along their flattest direction, with consecutive residues joined."""
    count, ca = len(coords), np.asarray(coords, np.float64)[:, BACKBONE.index("CA")]
    chain = np.asarray(values.get("chain", np.zeros(count, int)))
    number = np.asarray(values.get("number", np.arange(count)))
    known = np.flatnonzero(np.isfinite(ca).all(1))
    lacking = f"; {count - len(known)} without coordinates" if len(known) < count else ""
    chains = len(np.unique(chain))
    caption = f"CA trace of {count} residues in {chains} chain{'s' * (chains != 1)}{lacking}"
    letters = [ALPHABET[i] for i in values.get("residue", ())]
    common = {"total": count, "caption": caption, "names": letters, "sequence": "".join(letters)}
    if not len(known):
        return common | {"points": [], "lines": [], "problem": "not drawn: no CA has coordinates"}

    seen = flattened(ca[known])
    groups = chain[known] - chain.min()
    follows = (np.diff(known) == 1) & (np.diff(groups) == 0) & (np.diff(number[known]) == 1)
    pairs = zip(known[:-1][follows].tolist(), known[1:][follows].tolist(), strict=True)

    # The nearest points come last, so that they are drawn over the others.
    order = np.argsort(seen[:, 2], kind="stable")
    points = [
        [int(known[i]), round(seen[i, 0], 1), round(seen[i, 1], 1), int(groups[i])] for i in order
    ]
    return common | {"points": points, "lines": [list(pair) for pair in pairs]}


def flattened(x: np.ndarray) -> np.ndarray:
    """Rotate points [N, 3] to their principal axes; the first two fill the square of SIDE."""
    x = x - x.mean(0)
    axes = np.linalg.svd(x, full_matrices=False)[2] if len(x) > 2 else np.eye(3)
    seen = x @ axes.T
    reach = np.abs(seen[:, :2]).max() or 1.0
    return SIDE / 2 + seen * ((SIDE / 2 - MARGIN) / reach)
