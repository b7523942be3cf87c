"""Molecules that go wrong: delocalised groups, coordinates of no conformer, RDKit's reasons."""

from __future__ import annotations

import logging
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from reed.build.shard import BadSample
from reed.chem import rdkit, rdkit_reading
from reed.chem.delocalised import UnclearBonds
from reed.chem.molecule_geometry import implausible
from reed.sources.molecule import entries
from reed.sources.molecule.molecules import Molecules

DATA = Path(__file__).with_name("data") / "molecules"
TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_molecules.py"))))


def read(path: Path) -> list[str]:
    """The SMILES of every molecule of a file, or why there is none."""
    source, found = Molecules(path), []
    for key in (f"{path.name}/{number:06d}" for number in range(entries.count(path))):
        try:
            found.append(source.read(key)["smiles"])
        except BadSample as error:
            found.append(str(error))
    return found


# ---- bonds of type 4 outside rings


def delocalised(text: str, hydrogens: bool = True, charges: bool = False) -> str:
    """A mol block that calls aromatic all bonds of groups such as carboxylate.

    charges: state the charges, too, as they are when single and double bonds are written.
    """
    chem = rdkit.library()
    mol = chem.RWMol(TINY.mol(text) if hydrogens else chem.RemoveHs(TINY.mol(text)))
    chem.Kekulize(mol, clearAromaticFlags=True)
    double = chem.MolFromSmarts("[C,N,S,P]=!@[O,N,S]")
    centres = {pair[0] for pair in mol.GetSubstructMatches(double)}
    centres |= {pair[0] for pair in mol.GetSubstructMatches(chem.MolFromSmarts("[N+](=*)=,-[*-]"))}
    for bond in mol.GetBonds():
        a, b = bond.GetBeginAtom(), bond.GetEndAtom()
        for centre, other in ((a, b), (b, a)):
            is_part = centre.GetIdx() in centres and other.GetSymbol() in "NOS"
            if is_part and not bond.IsInRing():
                bond.SetBondType(chem.BondType.AROMATIC)
                if not charges:
                    centre.SetFormalCharge(0)
                    other.SetFormalCharge(0)
    return chem.MolToMolBlock(mol, kekulize=False)


@pytest.mark.parametrize("charges", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "CCC(=O)[O-]",
        "[O-]C(=O)c1ccccc1",
        "CC(=O)O",
        "CC(=O)OC",
        "[O-]C(=O)[O-]",
        "C[N+](=O)[O-]",
        "O=[N+]([O-])c1ccsc1",
        "O=[N+]([O-])[O-]",
        "NC(=[NH2+])NC",
        "NC(=[NH2+])N",
        "CNC(N)=N",
        "CC(N)=[NH2+]",
        "CC(N)=N",
        "CC(=O)NC",
        "NC(N)=O",
        "CC(N)=S",
        "CC(=O)[S-]",
        "CS(=O)(=O)[O-]",
        "CS(C)(=O)=O",
        "CS(N)(=O)=O",
        "COP(=O)([O-])[O-]",
        "CP(=O)(O)[O-]",
        "CN=[N+]=[N-]",
        "[NH3+]CC(=O)[O-]",
        "[O-]C(=O)CC(=O)[O-]",
    ],
)
def test_delocalised_groups_are_single_and_double_bonds(text, charges):
    block = delocalised(text, charges=charges)
    assert any(line[6:9] == "  4" and len(line) < 22 for line in block.split("\n"))
    found = rdkit_reading.from_block(block)
    assert rdkit.flat(found) == rdkit.flattened(text)
    assert rdkit.problem(found) == ""


@pytest.mark.parametrize(
    "text",
    ["CCC(=O)[O-]", "C[N+](=O)[O-]", "CC(=O)NC", "CS(=O)(=O)[O-]", "COP(=O)([O-])[O-]"],
)
def test_oxygens_tell_where_hydrogens_are_not_written(text):
    found = rdkit_reading.from_block(delocalised(text, hydrogens=False))
    assert rdkit.flat(found) == rdkit.flattened(text)


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("CC(=O)/C=C(/C)[O-]", "O~C~C~C~O"),
        ("CC(=O)CC(C)=O", "O~C~C~C~O"),
        ("CC(=O)NO", "O~C~N~O"),
        ("CC(C)=NO", "C~N~O"),
    ],
)
def test_enolates_hydroxamates_and_oximes_need_their_hydrogens(text, group):
    """As far as heavy atoms tell, these may be a diketone and nitroso groups."""
    chem = rdkit.library()
    for has_hydrogens in (True, False):
        mol = chem.RWMol(TINY.mol(text) if has_hydrogens else chem.RemoveHs(TINY.mol(text)))
        query = chem.MolFromSmarts(group)
        match = mol.GetSubstructMatch(query)
        assert match
        for bond in query.GetBonds():
            ends = match[bond.GetBeginAtomIdx()], match[bond.GetEndAtomIdx()]
            mol.GetBondBetweenAtoms(*ends).SetBondType(chem.BondType.AROMATIC)
        for atom in mol.GetAtoms():
            atom.SetFormalCharge(0)
        block = chem.MolToMolBlock(mol, kekulize=False)
        if has_hydrogens:
            assert rdkit.flat(rdkit_reading.from_block(block)) == rdkit.flattened(text)
        else:
            with pytest.raises(UnclearBonds, match="several molecules: the file lacks hydrogens"):
                rdkit_reading.from_block(block)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (
            (DATA / "bond4.sdf").read_text(),
            "type 4 outside rings, at atoms 1, 2, that fit no singl",
        ),
        (delocalised("CNC(N)=N", hydrogens=False), "fit several molecules: the file lacks hydrog"),
    ],
)
def test_what_a_delocalised_group_may_not_be(block, reason):
    with pytest.raises(BadSample, match=reason):
        rdkit_reading.from_block(block)


def test_delocalised_groups_of_files():
    assert read(DATA / "ar_amide.sdf") == ["CNC(C)=O"]
    assert read(DATA / "ar_carboxylate.sdf") == ["CCC(=O)[O-]"]
    assert "bonds of type 4 outside rings" in read(DATA / "bond4.sdf")[0]


def test_type_4_in_a_ring_is_aromatic_and_beside_one_is_told():
    text = "c1ccc(-c2ccccc2)cc1"
    block = rdkit.library().MolToMolBlock(TINY.mol(text), kekulize=False)
    assert rdkit.smiles(rdkit_reading.from_block(block)) == text
    between = block.replace("  4  5  1  0", "  4  5  4  0")
    assert between != block and rdkit.smiles(rdkit_reading.from_block(between)) == text

    oxide = rdkit.library().MolToMolBlock(TINY.mol("[O-][n+]1ccccc1"), kekulize=False)
    lines = oxide.replace("  1  2  1  0", "  1  2  4  0").split("\n")
    found = "\n".join(line for line in lines if "CHG" not in line)
    with pytest.raises(BadSample, match="at atoms 1, 2, that cannot be told from aromatic ones"):
        rdkit_reading.from_block(found)


def test_an_aromatic_bond_outside_a_ring_has_no_place_in_the_arrays():
    mol = rdkit.library().MolFromMolBlock(delocalised("CC(=O)NC"), removeHs=False)
    assert rdkit.problem(mol) == "aromatic bond outside a ring"


# ---- geometry


def moved(text: str, change) -> object:
    """A molecule whose coordinates are changed."""
    mol = rdkit.library().Mol(TINY.mol(text))
    mol.GetConformer().SetPositions(change(mol.GetConformer().GetPositions()))
    return mol


def flattened(text: str, hydrogens: bool) -> object:
    """A molecule as it is drawn, turned out of the plane of the page."""
    chem = rdkit.library()
    mol = chem.MolFromSmiles(text)
    mol = chem.AddHs(mol) if hydrogens else mol
    rdkit.library("Chem.rdDepictor").Compute2DCoords(mol)
    return mol


@pytest.mark.parametrize(
    "text", [*TINY.SMILES, "O", "N", "C#C", "[H][H]", "II", "C[Hg]C", "CS(C)(C)C"]
)
def test_conformers_are_plausible(text):
    mol = rdkit.library().MolFromSmiles(text)
    if mol is None or rdkit.problem(mol):
        pytest.skip("no molecule of the arrays")
    assert implausible(TINY.mol(text)) == ""


@pytest.mark.parametrize("flag", ["2D", "3D"])
def test_flags_of_files_do_not_matter(tmp_path, flag):
    sound = TINY.block("CCO").replace("3D", flag)
    flat = (DATA / "flat_flag3.sdf").read_text().replace("3D", flag)
    planar = (DATA / "benzene_noflag.sdf").read_text()
    (tmp_path / "x.sdf").write_text(sound + flat + planar)
    found = read(tmp_path / "x.sdf")
    assert found[::2] == ["CCO", "c1ccccc1"]
    assert found[1] == "lies in a plane, though atom 1 (C, sp3) has 4 neighbours: no conformer"


def test_coordinates_that_are_zero_or_twice_the_same():
    found = read(DATA / "zero3d.sdf")
    assert found[0].startswith(
        "has no conformer: atoms 1 (C) and 2 (C) are 0.000 Å apart, under 0.5"
    )
    assert found[1].startswith(
        "has no conformer: atoms 6 (H) and 7 (H) are 0.000 Å apart, under 0.5"
    )
    assert found[2:] == ["CCO", "CC(N)=O", "Oc1cccnc1", "C1CCOC1", "NCC(=O)O"]


@pytest.mark.parametrize(
    ("scale", "reason"),
    [
        (0.1, r"0\.1\d\d Å apart, under 0.5 of the .* must be in Å"),  # nm
        (1 / 0.529177, r"bonded, and over 1.6 of the .* must be in Å"),  # bohr
        (100, "bonded, and over 1.6"),  # pm
        (1.1, ""),
        (0.9, ""),
    ],
)
def test_units_are_told_by_the_lengths_of_bonds(scale, reason):
    found = implausible(moved("CCO", lambda coords: coords * scale))
    assert (reason == "") == (found == "") and re.search(reason, found)


def test_a_drawing_with_short_bonds_is_no_conformer():
    mol = rdkit.library().AddHs(rdkit.library().MolFromSmiles("c1ccccc1-c1ccccc1"))
    rdkit.library("Chem.rdDepictor").Compute2DCoords(mol)
    conformer = mol.GetConformer()
    conformer.SetPositions(conformer.GetPositions() * 0.825 / 1.5)
    assert "bonded, and under 0.7" in implausible(mol)


@pytest.mark.parametrize("text", ["[O-]c1ccccc1", "[S-]c1ccccc1"])
def test_an_anion_beside_a_ring_does_not_gain_a_hydrogen(text):
    lines = rdkit.library().MolToMolBlock(TINY.mol(text)).split("\n")
    lines = [line.replace("  1  2  1  0", "  1  2  4  0") for line in lines]
    block = "\n".join(line for line in lines if "CHG" not in line)
    assert "  1  2  4  0" in block
    with pytest.raises(BadSample, match="bonds of type 4 outside rings"):
        rdkit_reading.from_block(block)


def test_limits_are_those_of_the_radii():
    """Two atoms of carbon, whose radii sum up to 1.52 Å."""
    for length, is_sound in ((1.06, False), (1.07, True), (2.43, True), (2.44, False)):
        mol = rdkit.library().MolFromMolBlock(
            "\n\n\n  2  1  0  0  0  0  0  0  0  0999 V2000\n"
            "    0.0000    0.0000    0.0000 C   0  0\n"
            f"{length:10.4f}    0.0000    0.0000 C   0  0\n  1  2  3  0\nM  END\n"
        )
        assert (implausible(mol) == "") == is_sound


@pytest.mark.parametrize("tilt", [0.0, 0.7])
@pytest.mark.parametrize(
    ("text", "hydrogens", "is_sound"),
    [
        ("CCO", True, False),
        ("c1ccccc1", True, True),
        ("C=O", True, True),
        ("NC=O", True, True),
        ("NB", True, True),
        ("[CH2-][N+]#N", True, True),
        ("CC(C)C", False, False),
        ("c1ccccc1", False, True),
        ("c1ccccc1C", False, None),  # a drawing in the plane of the page, else perhaps none
        ("CCO", False, None),
        ("CCCC", False, None),
    ],
)
def test_what_may_lie_in_a_plane(text, hydrogens, is_sound, tilt):
    mol = flattened(text, hydrogens)
    place = mol.GetConformer().GetPositions()
    turn = [[np.cos(tilt), 0, -np.sin(tilt)], [0, 1, 0], [np.sin(tilt), 0, np.cos(tilt)]]
    mol.GetConformer().SetPositions(place @ np.array(turn))
    want = bool(tilt) if is_sound is None else is_sound
    assert (implausible(mol) == "") == want


# ---- RDKit's reasons


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "CCO>>CC=O",
            "syntax error while parsing: CCO>>CC=O; check for mistakes around position 4",
        ),
        ("C(C)(C)(C)(C)C", "Explicit valence for atom # 0 C, 5, is greater than permitted"),
        ("c1cccc1", "Can't kekulize mol. Unkekulized atoms: 0 1 2 3 4"),
        ("C1CC", "unclosed ring for input: 'C1CC'"),
        ("", "'' is no SMILES: it is empty"),
    ],
)
def test_rdkits_reason_is_told_in_one_line(text, reason, capfd):
    with pytest.raises(BadSample) as told:
        rdkit_reading.from_smiles(text)
    message = str(told.value)
    assert message.endswith(reason) and message.startswith(f"{text!r} is no SMILES: ")
    assert "\n" not in message and capfd.readouterr().err == ""


def test_rdkits_log_is_as_it_was():
    log = logging.getLogger("rdkit")
    before = list(log.handlers), log.propagate, rdkit.library("rdBase").LogStatus()
    for text in ("xx", "C" * 1000 + "("):
        with pytest.raises(BadSample) as told:
            rdkit_reading.from_smiles(text)
        assert len(str(told.value)) < 320
    assert before == (list(log.handlers), log.propagate, rdkit.library("rdBase").LogStatus())


def test_reasons_of_blocks_and_arrays():
    with pytest.raises(BadSample, match="that RDKit accepts: Counts line too short: '' on line4"):
        rdkit_reading.from_block("rubbish\n")
    five = TINY.block("CC").replace("  1  2  1", "  1  2  3")
    with pytest.raises(BadSample, match="accepts: Explicit valence for atom # 0 C, 6, is greater"):
        rdkit_reading.from_block(five)
    odd = rdkit.to_arrays(TINY.mol("CC"))
    odd.bonds[0, 1] = odd.bonds[1, 0] = 3
    assert rdkit_reading.why_unsound(odd).startswith("Explicit valence for atom # 0 C, 6")
    assert rdkit_reading.why_unsound(rdkit.to_arrays(TINY.mol("CC"))) == ""
