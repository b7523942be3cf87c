"""Sets of molecules: in one .npz file, in an SDF file, and in a cache."""

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
from reed.chem import rdkit, rdkit_reading, sdf_files
from reed.chem.molecule import ATOMS, Molecule, to_matrix
from reed.errors import ReedError

ROWS = {"coords": (3,), "atoms": (), "charges": (), "bonds": (3,)}


def write(path: Path, molecules: Iterable[Molecule]) -> None:
    """Write molecules to an .npz file, all of them or none.

    The arrays are ``sizes``, the number of atoms of each molecule [M]; ``coords`` [sum, 3],
    ``atoms`` and ``charges`` [sum], of one molecule after another; and ``bonds``, int32
    [bonds, 3]: two atoms, counted over all molecules, and the kind.
    """
    kept = list(molecules)
    sizes = np.array([len(molecule) for molecule in kept], np.int32)
    bonds = []
    for molecule, first in zip(kept, np.cumsum(sizes) - sizes, strict=True):
        a, b = np.nonzero(np.triu(molecule.bonds, 1))
        bonds.append(np.stack([a + first, b + first, molecule.bonds[a, b]], 1).astype(np.int32))
    parts = {
        "coords": [np.asarray(molecule.coords, np.float32) for molecule in kept],
        "atoms": [np.asarray(molecule.atoms, np.uint8) for molecule in kept],
        "charges": [np.asarray(molecule.charges, np.int32) for molecule in kept],
        "bonds": bonds,
    }
    arrays: dict[str, Any] = {name: np.concatenate(rows) for name, rows in parts.items()}
    with files.open_new(path) as file:
        np.savez(file, sizes=sizes, **arrays)


def is_set(path: Path) -> bool:
    """Return whether a file is an .npz file of molecules."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {"sizes", *ROWS} <= set(arrays.files)
    except (OSError, EOFError, ValueError, AttributeError, BadZipFile):
        return False


def load(path: Path) -> list[Molecule]:
    """Return the molecules of an .npz or SDF file.

    Raises:
        ReedError: The file holds no molecules, or its arrays do not fit together.
    """
    if not is_set(path) and sdf_files.is_sdf(path):
        return list(rdkit_reading.read_sdf(path))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            sizes = arrays["sizes"]
            rows = {name: arrays[name] for name in ROWS}
    except (OSError, EOFError, KeyError, ValueError, AttributeError, BadZipFile) as error:
        raise ReedError(f"cannot read molecules from {path}: {error}") from error

    # A bond must join two atoms of one molecule.
    atoms, edges = int(sizes.sum()), rows["bonds"]
    fit = all(rows[name].shape[1:] == shape for name, shape in ROWS.items())
    fit = fit and all(len(rows[name]) == atoms for name in ("coords", "atoms", "charges"))
    owner = np.repeat(np.arange(len(sizes)), sizes)
    if fit and len(edges):
        fit = edges.min() >= 0 and edges[:, :2].max() < atoms
        fit = fit and bool((owner[edges[:, 0]] == owner[edges[:, 1]]).all())
    if not fit or (atoms and rows["atoms"].max() >= len(ATOMS)):
        raise ReedError(f"{path} holds molecules whose arrays do not fit together")

    molecules = []
    for number, (first, size) in enumerate(zip(np.cumsum(sizes) - sizes, sizes, strict=True)):
        own = edges[owner[edges[:, 0]] == number] if len(edges) else edges
        bonds = np.zeros((size, size), np.uint8)
        bonds[own[:, 0] - first, own[:, 1] - first] = own[:, 2]
        own_atoms = slice(first, first + size)
        parts = [rows[name][own_atoms] for name in ("coords", "atoms", "charges")]
        molecules.append(Molecule(*parts, bonds | bonds.T))
    return molecules


def known(cache: Path, *, progress: bool = False) -> frozenset[str]:
    """Return the identities of the molecules in a cache.

    Raises:
        ReedError: The cache holds no SMILES.
    """
    with open_cache(cache) as opened:
        records, total = opened.records("molecule/smiles"), opened.manifest.samples
        bar = tqdm(records, "known", total, disable=not progress, dynamic_ncols=True)
        return frozenset(rdkit.flattened(text) for text in {text for _, text in bar})


def of_cache(cache: Path, num: int) -> list[Molecule]:
    """Return the first molecules of a cache."""
    molecules = []
    with open_cache(cache) as opened:
        for _, values in islice(opened.records("molecule"), num):
            bonds = to_matrix(values["partners"], values["orders"])
            parts = [values[name] for name in ("coords", "atoms", "charges")]
            molecules.append(Molecule(*parts, bonds))
    return molecules
