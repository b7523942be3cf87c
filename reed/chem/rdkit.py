"""Conversion between molecules of RDKit and plain arrays; RDKit is imported when needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from reed.chem.molecule import AROMATIC, ATOMS, CHARGES, DEGREE, ELEMENTS, NONE, Molecule
from reed.errors import ReedError
from reed.extras import pip_install

EMBED_SECONDS, FORCE_STEPS = 10, 1000


def library(name: str = "Chem") -> Any:
    """Return a module of RDKit, with logging turned off.

    Raises:
        ReedError: RDKit is not installed.
    """
    try:
        module = import_module(f"rdkit.{name}")
        import_module("rdkit.RDLogger").DisableLog("rdApp.*")  # ty: ignore[missing-attribute]  # a C++ name
    except ImportError as error:
        raise ReedError(
            f"molecules need RDKit, which cannot be imported ({error}); "
            f"install it with: {pip_install('molecules')}"
        ) from error
    return module


def version() -> str:
    """Return the version of RDKit."""
    return str(library("rdBase").rdkitVersion)


def problem(mol: Any) -> str:
    """Return why our arrays cannot hold a sanitised molecule; empty if they can."""
    atoms = list(mol.GetAtoms())
    if not atoms:
        return "no atoms"
    if len(library().GetMolFrags(mol)) > 1:
        return "several fragments"
    if odd := sorted({atom.GetSymbol() for atom in atoms} - set(ELEMENTS)):
        return f"element {odd[0]}"
    if odd := sorted({atom.GetFormalCharge() for atom in atoms} - set(CHARGES)):
        return f"charge {odd[0]}"

    # The arrays have no place for these, so storing such a molecule would change it.
    if any(atom.GetNumRadicalElectrons() for atom in atoms):
        return "radical"
    if any(atom.GetIsotope() for atom in atoms):
        return "isotope"
    if any(atom.GetTotalDegree() > DEGREE for atom in atoms):
        return f"over {DEGREE} neighbours"
    kinds = _kinds().values()
    if odd := sorted(
        {str(b.GetBondType()) for b in mol.GetBonds() if b.GetBondType() not in kinds}
    ):
        return f"{odd[0].lower()} bond"
    if has_aromatic_bond_outside_rings(mol):
        return "aromatic bond outside a ring"
    return ""


def has_aromatic_bond_outside_rings(mol: Any) -> bool:
    """Return whether a sanitised molecule has a bond of type 4 that is in no aromatic ring."""
    kind = library().BondType.AROMATIC
    return any(b.GetBondType() == kind and not b.GetIsAromatic() for b in mol.GetBonds())


def to_arrays(mol: Any) -> Molecule:
    """Return the arrays of a molecule that has explicit hydrogens, a conformer and no problem."""
    assert not problem(mol) and mol.GetNumConformers(), problem(mol)
    return plain_arrays(mol)


def plain_arrays(mol: Any) -> Molecule:
    """Return the arrays of a molecule that has a conformer, sound or not; adds no hydrogens.

    Raises:
        ValueError: The arrays have no number for an element or a kind of bond.
    """
    numbers = {kind: number for number, kind in _kinds().items()}
    if odd := {atom.GetSymbol() for atom in mol.GetAtoms()} - set(ATOMS):
        raise ValueError(f"the element {min(odd)}, which the arrays have no number for")
    if kinds := {str(b.GetBondType()) for b in mol.GetBonds() if b.GetBondType() not in numbers}:
        raise ValueError(f"a bond of kind {min(kinds)}")
    bonds = np.zeros((mol.GetNumAtoms(),) * 2, np.uint8)
    for bond in mol.GetBonds():
        a, b = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        bonds[a, b] = bonds[b, a] = numbers[bond.GetBondType()]
    return Molecule(
        mol.GetConformer().GetPositions().astype(np.float32),
        np.array([ATOMS.index(atom.GetSymbol()) for atom in mol.GetAtoms()], np.uint8),
        np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()], np.int32),
        bonds,
    )


def to_mol(molecule: Molecule) -> Any:
    """Return a molecule of RDKit that is not sanitised, so that RDKit may not accept it."""
    chem = library()
    made = chem.RWMol()
    for number, charge in zip(molecule.atoms.tolist(), molecule.charges.tolist(), strict=True):
        atom = chem.Atom(ATOMS[number])
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(True)  # all hydrogens are there
        made.AddAtom(atom)

    # RDKit keeps aromaticity on atoms and bonds, the arrays on bonds alone.
    kinds = _kinds()
    for a, b in np.argwhere(np.triu(molecule.bonds, 1) != NONE).tolist():
        made.AddBond(a, b, kinds[int(molecule.bonds[a, b])])
        if molecule.bonds[a, b] == AROMATIC:
            made.GetBondBetweenAtoms(a, b).SetIsAromatic(True)
            for end in (a, b):
                made.GetAtomWithIdx(end).SetIsAromatic(True)

    conformer = chem.Conformer(len(molecule))
    conformer.SetPositions(np.ascontiguousarray(molecule.coords, np.float64))
    made.AddConformer(conformer, assignId=True)
    return made.GetMol()


def sanitised(molecule: Molecule) -> Any | None:
    """Return a sanitised molecule with stereo from its coordinates; None if it is unsound."""
    chem = library()
    mol = to_mol(molecule)
    try:
        chem.SanitizeMol(mol)
    except (ValueError, RuntimeError):
        return None
    chem.AssignStereochemistryFrom3D(mol)
    return mol


def smiles(mol: Any) -> str:
    """Return the canonical SMILES with stereo, without atom maps and needless hydrogens."""
    chem = library()
    return chem.MolToSmiles(chem.RemoveHs(_unmapped(mol)))


def flat(mol: Any) -> str:
    """Return a molecule's identity: its SMILES without stereo, maps, isotopes and hydrogens."""
    chem = library()
    plain = _unmapped(mol)
    for atom in plain.GetAtoms():
        atom.SetIsotope(0)
    chem.RemoveStereochemistry(plain)  # RemoveHs keeps hydrogens that define stereo
    return chem.MolToSmiles(chem.RemoveHs(plain), isomericSmiles=False)


def _unmapped(mol: Any) -> Any:
    """Return a copy without atom maps."""
    copy = library().Mol(mol)
    for atom in copy.GetAtoms():
        atom.SetAtomMapNum(0)
    return copy


def flattened(smiles: str) -> str:
    """Return the identity of a SMILES, or the SMILES if RDKit wrote it but cannot read it."""
    mol = library().MolFromSmiles(smiles)
    return smiles if mol is None else flat(mol)


def conformer(mol: Any, seed: int) -> str:
    """Give a molecule with explicit hydrogens a conformer, in place.

    The method is ETKDGv3, and again from random coordinates if that fails, followed by at most
    1,000 steps of MMFF94, or of UFF if MMFF94 lacks parameters; if both lack them, the embedding
    stays as it is. Embedding may take 10 seconds, twice.

    Args:
        mol: The molecule, which is changed.
        seed: Equal seeds give equal coordinates.

    Returns:
        What went wrong; empty if nothing did.
    """
    geometry, force = library("Chem.rdDistGeom"), library("Chem.rdForceFieldHelpers")
    settings = geometry.ETKDGv3()
    settings.randomSeed, settings.timeout = seed % (2**31 - 1), EMBED_SECONDS
    if geometry.EmbedMolecule(mol, settings) < 0:
        settings.useRandomCoords = True
        if geometry.EmbedMolecule(mol, settings) < 0:
            return f"no conformer was found in {EMBED_SECONDS} s"
    if force.MMFFHasAllMoleculeParams(mol):
        force.MMFFOptimizeMolecule(mol, maxIters=FORCE_STEPS)
    elif force.UFFHasAllMoleculeParams(mol):
        force.UFFOptimizeMolecule(mol, maxIters=FORCE_STEPS)
    return ""


def planar(molecule: Molecule) -> Any:
    """Lay out a molecule in two dimensions for drawing, without hydrogens that can be left out.

    The property ``place`` of an atom is its index in the arrays. A molecule that RDKit does not
    accept is laid out as it is.

    Raises:
        ValueError: RDKit cannot lay it out.
        RuntimeError: RDKit cannot lay it out.
    """
    chem, sound = library(), sanitised(molecule)
    mol = to_mol(molecule) if sound is None else sound
    for atom in mol.GetAtoms():
        atom.SetIntProp("place", atom.GetIdx())
    mol = chem.RemoveHs(mol, sanitize=sound is not None)
    library("Chem.rdDepictor").Compute2DCoords(mol)
    draw = library("Chem.Draw.rdMolDraw2D")
    return draw.PrepareMolForDrawing(mol, kekulize=sound is not None)


def drawing(molecule: Molecule, side: int) -> tuple[str, list[list[Any]]]:
    """Draw a molecule in two dimensions, without hydrogens.

    Args:
        molecule: The molecule, which need not be one that RDKit accepts.
        side: Width and height in pixels.

    Returns:
        The SVG, and [index in the arrays, x, y, 0] of each atom that is drawn.

    Raises:
        ReedError: RDKit cannot draw it.
    """
    draw = library("Chem.Draw.rdMolDraw2D")
    drawer = draw.MolDraw2DSVG(side, side)
    drawer.drawOptions().clearBackground = False
    try:
        plane = planar(molecule)
        drawer.DrawMolecule(plane)
    except (ValueError, RuntimeError) as error:
        raise ReedError(f"RDKit cannot draw it: {' '.join(str(error).split())}") from error
    drawer.FinishDrawing()

    # RDKit may add atoms of its own to a drawing; those without an index are not ours.
    places = [
        (atom.GetIntProp("place"), drawer.GetDrawCoords(atom.GetIdx()))
        for atom in plane.GetAtoms()
        if atom.HasProp("place")
    ]
    points = [[place, round(at.x, 1), round(at.y, 1), 0] for place, at in places]
    return drawer.GetDrawingText(), points


def _kinds() -> dict[int, Any]:
    kind = library().BondType
    return {1: kind.SINGLE, 2: kind.DOUBLE, 3: kind.TRIPLE, AROMATIC: kind.AROMATIC}
