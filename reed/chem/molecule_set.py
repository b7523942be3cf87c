"""Molecules in one .npz, atom after atom, and what they are measured against."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from tqdm import tqdm

from reed.cache import files
from reed.cache.opened import open_cache
from reed.chem.molecule import ATOMS, Molecule, to_matrix
from reed.chem.rdkit import flattened
from reed.errors import ReedError

ROWS = {"coords": (3,), "atoms": (), "charges": (), "bonds": (3,)}


def write(path: Path, molecules: Iterable[Molecule]) -> None:
    """Write molecules: whole or not at all.

    sizes: atoms of each [M]; coords [sum, 3], atoms and charges [sum], of all molecules one after
    the other; bonds: the two atoms, counted over all molecules, and the kind, int32 [bonds, 3].
    """
    kept = list(molecules)
    sizes = np.array([len(molecule) for molecule in kept], np.int32)
    bonds = []
    for molecule, first in zip(kept, np.cumsum(sizes) - sizes, strict=True):
        a, b = np.nonzero(np.triu(molecule.bonds, 1))
        bonds.append(np.stack([a + first, b + first, molecule.bonds[a, b]], 1).astype(np.int32))
    parts = {
        "coords": [np.asarray(each.coords, np.float32) for each in kept],
        "atoms": [np.asarray(each.atoms, np.uint8) for each in kept],
        "charges": [np.asarray(each.charges, np.int32) for each in kept],
        "bonds": bonds,
    }
    arrays: dict[str, Any] = {name: np.concatenate(rows) for name, rows in parts.items()}
    with files.open_new(path) as file:
        np.savez(file, sizes=sizes, **arrays)


def is_set(path: Path) -> bool:
    """Whether a file is an .npz of molecules."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {"sizes", *ROWS} <= set(arrays.files)
    except (OSError, EOFError, ValueError, AttributeError, BadZipFile):
        return False


def load(path: Path) -> list[Molecule]:
    """The molecules of a file; ReedError where it is none or its parts do not fit together."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            sizes = arrays["sizes"]
            found = {name: arrays[name] for name in ROWS}
    except (OSError, EOFError, KeyError, ValueError, AttributeError, BadZipFile) as error:
        raise ReedError(f"cannot read molecules from {path}: {error}") from error
    atoms, edges = int(sizes.sum()), found["bonds"]
    fit = all(found[name].shape[1:] == shape for name, shape in ROWS.items())
    fit = fit and all(len(found[name]) == atoms for name in ("coords", "atoms", "charges"))
    owner = np.repeat(np.arange(len(sizes)), sizes)
    if fit and len(edges):
        fit = edges.min() >= 0 and edges[:, :2].max() < atoms
        fit = fit and bool((owner[edges[:, 0]] == owner[edges[:, 1]]).all())
    if not fit or (atoms and found["atoms"].max() >= len(ATOMS)):
        raise ReedError(f"{path} holds molecules whose arrays do not fit together")
    made = []
    for number, (first, size) in enumerate(zip(np.cumsum(sizes) - sizes, sizes, strict=True)):
        own = edges[owner[edges[:, 0]] == number] if len(edges) else edges
        bonds = np.zeros((size, size), np.uint8)
        bonds[own[:, 0] - first, own[:, 1] - first] = own[:, 2]
        rows = slice(first, first + size)
        parts = [found[name][rows] for name in ("coords", "atoms", "charges")]
        made.append(Molecule(*parts, bonds | bonds.T))
    return made


def known(cache: Path, *, progress: bool = False) -> frozenset[str]:
    """The SMILES of a cache of molecules, without stereo; ReedError where it has none."""
    with open_cache(cache) as opened:
        records, total = opened.records("molecule/smiles"), opened.manifest.samples
        bar = tqdm(records, "known", total, disable=not progress, dynamic_ncols=True)
        found = {flattened(text) for text in {text for _, text in bar}}
    return frozenset(found)


def of_cache(cache: Path, num: int) -> list[Molecule]:
    """The first molecules of a cache."""
    found = []
    with open_cache(cache) as opened:
        for _, values in islice(opened.records("molecule"), num):
            bonds = to_matrix(values["partners"], values["orders"])
            parts = [values[name] for name in ("coords", "atoms", "charges")]
            found.append(Molecule(*parts, bonds))
    return found
