"""Measures of molecules, on real ones, on broken ones, and against numbers known beforehand."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from reed.chem import rdkit
from reed.chem.geometry import rmsd
from reed.chem.molecule import ATOMS
from reed.chem.rdkit import flat, flattened
from reed.errors import ReedError
from reed.metrics import molecule as metrics
from reed.metrics.molecule import measure, relax, stable_atoms

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny_molecules.py")))


@pytest.fixture(scope="module")
def real():
    return [rdkit.to_arrays(TINY.mol(text)) for text in TINY.SMILES]


def without(molecule, atom: int):
    """The molecule less one atom."""
    keep = np.delete(np.arange(len(molecule)), atom)
    rows = {name: getattr(molecule, name)[keep] for name in ("coords", "atoms", "charges")}
    return replace(molecule, **rows, bonds=molecule.bonds[np.ix_(keep, keep)])


def test_real_molecules_score_one(real):
    for molecule in real:
        assert stable_atoms(molecule).all()
    found = measure(real, frozenset())
    for name in (
        "atom_stability_strict",
        "molecule_stability_strict",
        "validity",
        "novelty",
        "connected_validity",
    ):
        assert found[name] == 1.0, name
    # the two enantiomers of alanine and the two isomers of fluorochloroethene are one each
    assert found["uniqueness"] == 18 / 20 and found["molecules"] == 20


def test_drug_like_molecules_score_one():
    """SMILES of the toy: what the strict table says must hold for real chemistry."""
    from reed.sources.molecule.toy import shipped

    wrong = []
    for text in shipped()[::100]:
        mol = rdkit.library().AddHs(rdkit.library().MolFromSmiles(text))
        mol.AddConformer(rdkit.library().Conformer(mol.GetNumAtoms()))
        if not stable_atoms(rdkit.to_arrays(mol)).all():
            wrong.append(text)
    assert not wrong


def test_the_released_count_and_its_fault():
    """A carbon of benzene counts 3 there, which the table has to allow; so a CH3 is stable too."""
    benzene = rdkit.to_arrays(TINY.mol("c1ccccc1"))
    assert stable_atoms(benzene, "semlaflow").all() and stable_atoms(benzene, "strict").all()
    methyl = without(rdkit.to_arrays(TINY.mol("C")), 1)
    assert (methyl.atoms == [3, 2, 2, 2]).all()
    assert stable_atoms(methyl, "semlaflow").tolist() == [True] * 4
    assert stable_atoms(methyl, "strict").tolist() == [False, True, True, True]
    # a fifth bond at a carbon of benzene: 1 + 1 + 1 + 1 in the released count
    extra = np.pad(benzene.bonds, (0, 1))
    extra[0, -1] = extra[-1, 0] = 1
    crowded = replace(
        benzene,
        bonds=extra,
        atoms=np.append(benzene.atoms, 2).astype(np.uint8),
        charges=np.append(benzene.charges, 0),
        coords=np.pad(benzene.coords, ((0, 1), (0, 0))),
    )
    assert stable_atoms(crowded, "semlaflow").all()
    assert not stable_atoms(crowded, "strict")[0]


def test_aromatic_bonds_that_cannot_be_kekulised_are_unstable():
    ring = rdkit.to_arrays(TINY.mol("c1ccccc1"))
    broken = without(ring, 0)
    assert not stable_atoms(broken, "strict").any() and rdkit.sanitised(broken) is None


def test_modes_are_named():
    with pytest.raises(ReedError, match="unknown kind of stability 'strikt'.*'strict'"):
        stable_atoms(rdkit.to_arrays(TINY.mol("C")), "strikt")
    known = {symbol for symbol, _ in metrics.STRICT}
    assert known == set(ATOMS[2:])


def test_one_minimisation_tells_all():
    mol = TINY.mol("CC(=O)Nc1ccc(O)cc1")
    pose = relax(mol)
    assert pose is not None and pose.converged
    assert pose.before - pose.after < 0.5 and pose.rmsd < 0.2  # it was minimised before
    shaken = rdkit.library().Mol(mol)
    places = shaken.GetConformer()
    rng = np.random.default_rng(0)
    places.SetPositions(places.GetPositions() + 0.1 * rng.standard_normal((20, 3)))
    strained = relax(shaken)
    assert strained is not None and strained.before - strained.after > 50
    field = rdkit.library("Chem.rdForceFieldHelpers")
    settings = field.MMFFGetMoleculeProperties(shaken, mmffVariant="MMFF94")
    energy = field.MMFFGetMoleculeForceField(shaken, settings).CalcEnergy()
    assert strained.before == pytest.approx(energy)
    moved = shaken.GetConformer().GetPositions()
    np.testing.assert_array_equal(moved, places.GetPositions())  # the molecule is not touched


@pytest.mark.parametrize("apart", [0.5, 50.0])
def test_fragments_that_clash_have_a_high_energy(apart):
    """Two benzenes, one above the other; RDKit's default leaves out what lies between them."""
    one = rdkit.to_arrays(TINY.mol("c1ccccc1"))
    size = len(one)
    bonds = np.zeros((2 * size, 2 * size), np.uint8)
    bonds[:size, :size] = bonds[size:, size:] = one.bonds
    normal = np.linalg.svd(one.coords - one.coords.mean(0))[2][2]
    both = replace(
        one,
        coords=np.concatenate([one.coords, one.coords + apart * normal]).astype(np.float32),
        atoms=np.tile(one.atoms, 2),
        charges=np.tile(one.charges, 2),
        bonds=bonds,
    )
    single, found = measure([one]), measure([both])
    assert found["validity"] == 1 and found["connected_validity"] == 0
    if apart < 1:
        assert found["energy_mean"] > 5e5 and found["strain_mean"] > 5e5
    else:
        assert found["energy_mean"] == pytest.approx(2 * single["energy_mean"], abs=0.1)


def test_no_parameters_and_no_number_are_none():
    assert relax(TINY.mol("OB(O)c1ccccc1")) is None
    mol = rdkit.library().Mol(TINY.mol("C"))
    mol.GetConformer().SetPositions(np.full((5, 3), np.nan))
    assert relax(mol) is None


def test_rmsd_after_superposition():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((9, 3))
    turned = Rotation.random(rng=rng).apply(a) + 5
    assert rmsd(a, turned) == pytest.approx(0, abs=1e-6)
    assert rmsd(a, -a) > 0.5  # a mirror image is none
    line = np.array([[0.0, 0, 0], [1, 0, 0]])
    assert rmsd(line, 3 * line) == pytest.approx(1.0)


def test_shares_of_a_mixed_set(real):
    broken = replace(real[1], bonds=real[1].bonds * 0 + 2 - 2 * np.eye(12, dtype=np.uint8))
    apart = replace(real[1], bonds=real[1].bonds * 0, charges=real[1].charges)
    known = frozenset([flattened("CC(=O)Nc1ccc(O)cc1")])
    found = measure([real[0], real[0], broken, apart], known)
    assert found["validity"] in (0.5, 0.75) and found["connected_validity"] == 0.5
    assert found["molecule_stability_strict"] == 0.5
    assert found["energy_validity"] >= 0.5 and found["relaxed_validity"] >= 0.5
    only = measure([real[0], real[0], broken], known)
    assert only["validity"] == pytest.approx(2 / 3)
    assert only["uniqueness"] == 0.5 and only["novelty"] == 0.0
    nothing = measure([broken])
    assert nothing["uniqueness"] is None and nothing["energy_mean"] is None
    assert "novelty" not in nothing
    with pytest.raises(ReedError, match="no molecules to measure"):
        measure([])


def test_the_page_names_every_measure(real):
    page = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text()
    section = page.partition("\n## Molecules\n")[2].partition("\nAn SDF")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = [name for cell in first for name in re.findall(r"`(.*?)`", cell)]
    assert len(set(named)) == len(named) and set(named) == set(measure(real[:2], frozenset()))


def test_stereo_makes_no_other_molecule():
    one, other = (TINY.mol(text) for text in ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"))
    assert flat(one) == flat(other) == flattened("C[C@H](N)C(=O)O") == "CC(N)C(=O)O"


def test_what_rdkit_writes_but_does_not_read_stays():
    """It must not end an evaluation after days of training."""
    assert flattened("c1ccc1(C)C") == "c1ccc1(C)C"
