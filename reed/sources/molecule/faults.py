"""Entries of files as molecules, and the faults for which a listing leaves them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reed.build.shard import BadSample
from reed.chem import rdkit_reading, sdf_text
from reed.chem.delocalised import UnclearBonds
from reed.chem.molecule_geometry import implausible
from reed.sources.molecule import entries

# Faults of entries, whose first keys are named; other reasons follow from settings.
MISPLACED, UNCLEAR = "impossible coordinates", "unclear bonds of type 4"
NO_SMILES = "without SMILES"
FAULTS = (MISPLACED, UNCLEAR, NO_SMILES)


def parsed(path: Path, number: int, smiles: str = "") -> Any:
    """Return an entry of a file as a sanitised molecule of RDKit.

    Args:
        path: The file.
        number: Number of the entry, from 0.
        smiles: Column of a list that holds the SMILES (see reed.sources.molecule.entries).

    Raises:
        BadSample: The entry is not a molecule that RDKit accepts; the message has its reason.
    """
    if entries.is_sdf(path):
        return rdkit_reading.from_block(sdf_text.mol_block(entries.entry(path, number)))
    return rdkit_reading.from_smiles(entries.smiles_of(path, number, smiles))


def readable(path: Path, number: int, smiles: str) -> tuple[Any | None, str]:
    """Return an entry as a molecule, None if it cannot be read, and a fault that leaves it out.

    A molecule that cannot be read is listed, so that it fails with its reason, unless the fault is
    a known habit of programs that write such files.
    """
    try:
        return parsed(path, number, smiles), ""
    except UnclearBonds:
        return None, UNCLEAR
    except entries.NoSmiles:
        return None, NO_SMILES
    except BadSample:
        return None, ""


def misplaced(mol: Any | None) -> str:
    """Return that the coordinates of a molecule, if it has some, are impossible; else nothing."""
    if mol is None or not mol.GetNumConformers() or not implausible(mol):
        return ""
    return MISPLACED
