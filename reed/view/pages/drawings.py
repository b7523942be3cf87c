"""Structures and molecules as drawings with a point for each token."""

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

SIDE, MARGIN = 320, 12  # of a drawing, in its own units
MOLECULE = {"coords", "atoms", "charges", "partners", "orders"}


def drawings(column: Column, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What can be drawn of one sample of a column, in plain values; empty where nothing can.

    Each has a title, a caption and total, the number of tokens; then either points [[token, x, y,
    group], ...] and lines [[a, b], ...] between tokens, in a square of SIDE, and src, a picture
    under them, if any; or problem, why it is not drawn. names: of the tokens; sequence: of letters.
    """
    if values.keys() >= MOLECULE:
        return [{"title": f"{column.name}: molecule", **_molecule(values)}]
    shape = (None, len(BACKBONE), 3)
    found = [f.name for f in column.fields if f.kind == "data" and f.shape == shape]
    return [{"title": f"{column.name}/{name}", **_trace(values[name], values)} for name in found]


def _molecule(values: Mapping[str, Any]) -> dict[str, Any]:
    """Its formula by RDKit, which may be absent or refuse."""
    atoms = np.asarray(values["atoms"])
    whole = {
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
        return whole | {"problem": f"not drawn: {error}"}
    return whole | {"src": page.data_url(src.encode(), "image/svg+xml"), "points": points}


def _trace(coords: np.ndarray, values: Mapping[str, Any]) -> dict[str, Any]:
    """The CA atoms seen along the flattest direction, joined where residues follow each other."""
    count, ca = len(coords), np.asarray(coords, np.float64)[:, BACKBONE.index("CA")]
    chain = np.asarray(values.get("chain", np.zeros(count, int)))
    number = np.asarray(values.get("number", np.arange(count)))
    there = np.flatnonzero(np.isfinite(ca).all(1))
    lacking = f"; {count - len(there)} without coordinates" if len(there) < count else ""
    chains = len(np.unique(chain))
    caption = f"CA trace of {count} residues in {chains} chain{'s' * (chains != 1)}{lacking}"
    letters = [ALPHABET[i] for i in values.get("residue", ())]
    whole = {"total": count, "caption": caption, "names": letters, "sequence": "".join(letters)}
    if not len(there):
        return whole | {"points": [], "lines": [], "problem": "not drawn: no CA has coordinates"}
    seen = flattened(ca[there])
    groups = chain[there] - chain.min()
    follows = (np.diff(there) == 1) & (np.diff(groups) == 0) & (np.diff(number[there]) == 1)
    pairs = zip(there[:-1][follows].tolist(), there[1:][follows].tolist(), strict=True)
    order = np.argsort(seen[:, 2], kind="stable")  # the nearest last, over the others
    points = [
        [int(there[i]), round(seen[i, 0], 1), round(seen[i, 1], 1), int(groups[i])] for i in order
    ]
    return whole | {"points": points, "lines": [list(pair) for pair in pairs]}


def flattened(x: np.ndarray) -> np.ndarray:
    """Points [N, 3] along their principal axes, the first two filling the square: [N, 3]."""
    x = x - x.mean(0)
    axes = np.linalg.svd(x, full_matrices=False)[2] if len(x) > 2 else np.eye(3)
    seen = x @ axes.T
    reach = np.abs(seen[:, :2]).max() or 1.0
    return SIDE / 2 + seen * ((SIDE / 2 - MARGIN) / reach)
