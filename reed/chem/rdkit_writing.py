"""Molecules of RDKit as text for files; RDKit is imported when needed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from reed.chem.rdkit import library


def sdf(mols: Iterable[tuple[str, Any]]) -> str:
    """Return named molecules as the text of an SDF file, with kekulised bonds if possible."""
    chem = library()
    entries = []
    for name, mol in mols:
        copy = chem.Mol(mol)
        copy.SetProp("_Name", name)
        try:
            block = chem.MolToMolBlock(copy)
        except (ValueError, RuntimeError):  # it cannot be kekulised
            block = _block(copy)
        entries.append(f"{block}$$$$\n")
    return "".join(entries)


def _block(mol: Any) -> str:
    """Return the mol block of a molecule that RDKit does not accept.

    RDKit fails for a charge that no number of electrons allows, such as +2 of a hydrogen, so such
    charges are written here.
    """
    chem, bare = library(), library().Mol(mol)
    try:
        return chem.MolToMolBlock(bare, kekulize=False)
    except (ValueError, RuntimeError):
        charges = [(a.GetIdx() + 1, a.GetFormalCharge()) for a in mol.GetAtoms()]
        for atom in bare.GetAtoms():
            atom.SetFormalCharge(0)
        block = chem.MolToMolBlock(bare, kekulize=False)

    # A line of the property block has up to eight atoms and their charges.
    charges = [(index, charge) for index, charge in charges if charge]
    lines = ""
    for start in range(0, len(charges), 8):
        part = charges[start : start + 8]
        lines += f"M  CHG{len(part):3d}" + "".join(f" {i:3d} {q:3d}" for i, q in part) + "\n"
    return block.replace("M  END", f"{lines}M  END")
