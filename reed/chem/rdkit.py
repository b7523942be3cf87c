"""Between RDKit's molecules and plain arrays; RDKit is imported where it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from reed.chem.molecule import AROMATIC, ATOMS, CHARGES, DEGREE, ELEMENTS, NONE, Molecule
from reed.errors import ReedError
from reed.extras import pip_install

EMBED_SECONDS, FORCE_STEPS = 10, 1000


def library(name: str = "Chem") -> Any:
    """A module of RDKit, silenced; ReedError where it is not installed."""
    try:
        found = import_module(f"rdkit.{name}")
        import_module("rdkit.RDLogger").DisableLog("rdApp.*")  # ty: ignore[missing-attribute]  # a C++ name
    except ImportError as error:
        raise ReedError(
            f"molecules need RDKit, which cannot be imported ({error}); "
            f"install it with: {pip_install('molecules')}"
        ) from error
    return found


def version() -> str:
    """RDKit's own."""
    return str(library("rdBase").rdkitVersion)


def problem(mol: Any) -> str:
    """What keeps a sanitised molecule out of our arrays, in short; empty where nothing does."""
    atoms = list(mol.GetAtoms())
    if not atoms:
        return "no atoms"
    if len(library().GetMolFrags(mol)) > 1:
        return "several fragments"
    if odd := sorted({atom.GetSymbol() for atom in atoms} - set(ELEMENTS)):
        return f"element {odd[0]}"
    if odd := sorted({atom.GetFormalCharge() for atom in atoms} - set(CHARGES)):
        return f"charge {odd[0]}"
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
    """Whether a sanitised molecule has a bond of that kind that is in no aromatic ring."""
    kind = library().BondType.AROMATIC
    return any(b.GetBondType() == kind and not b.GetIsAromatic() for b in mol.GetBonds())


def to_arrays(mol: Any) -> Molecule:
    """A molecule with explicit hydrogens and a conformer, for which `problem` finds nothing."""
    assert not problem(mol) and mol.GetNumConformers(), problem(mol)
    return _arrays(mol)


def read_sdf(path: Path) -> Iterator[Molecule]:
    """The molecules of an SDF as they are written, all hydrogens explicit, sound or not.

    Raises ReedError naming an entry that RDKit cannot read, or that our arrays cannot hold.
    """
    chem = library()
    try:
        entries = chem.SDMolSupplier(str(path), sanitize=False, removeHs=False)
    except OSError as error:
        raise ReedError(f"cannot read molecules from {path}: {error}") from error
    for number, mol in enumerate(entries):
        if mol is None or not mol.GetNumConformers():
            arrays = path.with_suffix(".npz")
            hint = f"; measure {arrays}, which holds all" if arrays.is_file() else ""
            raise ReedError(f"{path}: RDKit cannot read entry {number} with coordinates{hint}")
        sound = chem.Mol(mol)
        try:
            chem.SanitizeMol(sound)  # finds what is aromatic, which an SDF writes as two kinds
        except (ValueError, RuntimeError):
            sound = mol
        try:
            yield _arrays(sound)
        except (ValueError, KeyError) as error:
            raise ReedError(f"{path}: entry {number} has what no array holds: {error}") from error


def _arrays(mol: Any) -> Molecule:
    """Plain arrays; ValueError or KeyError for an element or a bond that they do not know."""
    numbers = {kind: number for number, kind in _kinds().items()}
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
    """The same as a molecule of RDKit, not sanitised: whether it is one that RDKit accepts."""
    chem = library()
    made = chem.RWMol()
    for number, charge in zip(molecule.atoms.tolist(), molecule.charges.tolist(), strict=True):
        atom = chem.Atom(ATOMS[number])
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(True)  # all hydrogens are there
        made.AddAtom(atom)
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
    """The same as a sound molecule of RDKit, stereo from its coordinates; None if it is none."""
    chem = library()
    mol = to_mol(molecule)
    try:
        chem.SanitizeMol(mol)
    except (ValueError, RuntimeError):
        return None
    chem.AssignStereochemistryFrom3D(mol)
    return mol


def smiles(mol: Any) -> str:
    """Canonical SMILES with stereo, without atom maps and hydrogens that need not be named."""
    chem = library()
    return chem.MolToSmiles(chem.RemoveHs(_unmapped(mol)))


def flat(mol: Any) -> str:
    """The key of a molecule's identity, for splits, uniqueness and novelty: canonical SMILES.

    Stereo, atom maps, isotopes and explicit hydrogens are left out of it.
    """
    chem = library()
    plain = _unmapped(mol)
    for atom in plain.GetAtoms():
        atom.SetIsotope(0)
    chem.RemoveStereochemistry(plain)  # RemoveHs keeps a hydrogen that stereo is told by
    return chem.MolToSmiles(chem.RemoveHs(plain), isomericSmiles=False)


def _unmapped(mol: Any) -> Any:
    """A copy without atom maps."""
    copy = library().Mol(mol)
    for atom in copy.GetAtoms():
        atom.SetAtomMapNum(0)
    return copy


def flattened(smiles: str) -> str:
    """The same of a SMILES; itself where it is one that RDKit writes but does not read."""
    mol = library().MolFromSmiles(smiles)
    return smiles if mol is None else flat(mol)


def conformer(mol: Any, seed: int) -> str:
    """Give a molecule with explicit hydrogens a conformer, in place; what went wrong, or nothing.

    ETKDGv3, once more from random coordinates where that fails, then at most 1,000 steps of MMFF94
    or, where that lacks parameters, UFF; where both lack them, the embedding stays as it is. Two
    calls with one seed give the same coordinates. Embedding may take 10 seconds, twice.
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


def sdf(mols: Iterable[tuple[str, Any]]) -> str:
    """Named molecules as an SDF, bonds kekulised where they can be."""
    chem = library()
    entries = []
    for name, mol in mols:
        copy = chem.Mol(mol)
        copy.SetProp("_Name", name)
        try:
            block = chem.MolToMolBlock(copy)
        except (ValueError, RuntimeError):  # it cannot be kekulised
            block = chem.MolToMolBlock(copy, kekulize=False)
        entries.append(f"{block}$$$$\n")
    return "".join(entries)


def planar(molecule: Molecule) -> Any:
    """A molecule laid out in two dimensions to be drawn, hydrogens left out where they can be.

    The property `place` of an atom is its place in the arrays. What is no molecule by RDKit's
    rules is drawn as it is; ValueError or RuntimeError where RDKit cannot.
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
    """A molecule in two dimensions, hydrogens left out, as SVG, and where its atoms are.

    side: width and height. The atoms are [number, x, y, 0], those drawn, by their places in the
    arrays. What is no molecule by RDKit's rules is drawn as it is; ReedError where RDKit cannot.
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
