"""The key of a molecule: one for all ways to write it, in splits, uniqueness and novelty."""

from __future__ import annotations

import random
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reed.chem import rdkit
from reed.metrics.molecule import measure
from reed.sources.molecule.molecules import SPLITS, Molecules
from reed.sources.molecule.toy import PARENTS

DATA = Path(__file__).with_name("data") / "molecules"
TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_molecules.py"))))
SALTS = ("[Na+].C1CC1C(=O)[O-]", "Cl.CC(N)=O.O", "[NH4+].[NH4+].[O-]S(=O)(=O)[O-]", "[H]Cl.C[NH3+]")
HYDROGENS = ("[H][H]", "[H]/N=C(/C)N", "[H-].[Na+]", "[H+]", "[2H]C", "F/C([2H])=C/[H]", "O")
KNOWN = (*TINY.SMILES, *SALTS, *HYDROGENS, *PARENTS)


def rewritten(text: str, seed: int, maps: bool, isotopes: bool, hydrogens: bool) -> str:
    """Another SMILES of the same molecule: atoms and parts in another order, and with more."""
    chem, draw = rdkit.library(), random.Random(seed)
    mol = chem.MolFromSmiles(text)
    mol = chem.AddHs(mol) if hydrogens else mol
    order = list(range(mol.GetNumAtoms()))
    draw.shuffle(order)
    mol = chem.RenumberAtoms(mol, order)
    for atom in mol.GetAtoms():
        if maps and draw.random() < 0.7:
            atom.SetAtomMapNum(draw.randrange(1, 999))
        if isotopes and draw.random() < 0.3:
            atom.SetIsotope(draw.randrange(1, 4) if atom.GetAtomicNum() == 1 else 13)
    parts = chem.MolToSmiles(mol, canonical=False, allHsExplicit=hydrogens).split(".")
    draw.shuffle(parts)
    return ".".join(parts)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KNOWN), st.integers(0, 2**32), st.booleans(), st.booleans(), st.booleans())
def test_the_key_of_a_molecule_is_one(text, seed, maps, isotopes, hydrogens):
    key = rdkit.flattened(text)
    other = rewritten(text, seed, maps, isotopes, hydrogens)
    mol = rdkit.library().MolFromSmiles(other)
    assert rdkit.flat(mol) == key == rdkit.flattened(key) == rdkit.flattened(rdkit.smiles(mol))
    assert rdkit.flat(rdkit.library().AddHs(mol)) == key
    assert ":" not in rdkit.smiles(mol)


def test_keys_of_different_molecules_differ():
    assert len({rdkit.flattened(text) for text in TINY.SMILES}) == len(TINY.SMILES) - 2  # isomers
    assert rdkit.flattened("[H]/N=C(/C)N") == rdkit.flattened("N=C(C)N") == "CC(=N)N"
    assert rdkit.flattened("[2H]C") == "C" and rdkit.flattened("[H][H]") == "[H][H]"


def test_one_molecule_written_in_four_ways_is_on_one_side(tmp_path):
    shutil.copy(DATA / "mapped.smi", tmp_path / "x.smi")
    same = {f"x.smi/{number:06d}" for number in range(4)}
    sides = [set(Molecules(tmp_path, split=split).listing()) & same for split in SPLITS]
    assert sorted(map(len, sides)) == [0, 0, 4]
    source = Molecules(tmp_path)
    assert {source.read(key)["smiles"] for key in same} == {"CO"}


def test_novelty_and_uniqueness_know_a_molecule_by_its_key():
    texts = ("[H]/N=C(/C)N", "[H]/N=C(\\C)N", "[CH3:1][OH:2]")
    molecules = [rdkit.to_arrays(TINY.mol(text)) for text in texts]
    found = measure(molecules, frozenset({rdkit.flattened("[H:3][O:1][CH3:2]")}))
    assert found["uniqueness"] == pytest.approx(2 / 3)
    assert found["novelty"] == pytest.approx(2 / 3)
