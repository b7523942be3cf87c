"""Molecules: arrays and back, what files give, what is left out, what fails, what is refused."""

from __future__ import annotations

import os
import pickle
import random
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed import open_cache
from reed.build.shard import BadSample
from reed.cache import plan, reader, schema
from reed.chem import molecule, rdkit, rdkit_writing
from reed.chem.molecule import ATOMS, DEGREE, Molecule, to_lists, to_matrix
from reed.cli.cache import main
from reed.errors import ReedError
from reed.extras import pip_install
from reed.sources.molecule import entries, pickles, toy
from reed.sources.molecule.molecules import Molecules
from reed.sources.molecule.toy import MoleculesToy

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny_molecules.py")))


def unpacked(sample) -> Molecule:
    bonds = to_matrix(sample["partners"], sample["orders"])
    return Molecule(sample["coords"], sample["atoms"], sample["charges"], bonds)


def read_pickle(path):
    with open(path, "rb") as file:
        return pickles.read(file, path.name)


def canonical(text: str) -> str:
    return rdkit.library().CanonSmiles(text)


# ---- arrays


@pytest.mark.parametrize("text", TINY.SMILES)
def test_a_molecule_comes_back_from_its_arrays(text):
    mol = TINY.mol(text)
    found = rdkit.to_arrays(mol)
    again = rdkit.sanitised(found)
    assert rdkit.smiles(again) == canonical(text) == rdkit.smiles(mol)
    assert (found.bonds == found.bonds.T).all() and not found.bonds.diagonal().any()
    np.testing.assert_array_equal(rdkit.to_arrays(again).bonds, found.bonds)
    np.testing.assert_allclose(found.coords, mol.GetConformer().GetPositions(), atol=1e-6)
    assert [ATOMS[i] for i in found.atoms] == [atom.GetSymbol() for atom in mol.GetAtoms()]


def test_lists_of_neighbours_hold_every_bond():
    rng = np.random.default_rng(0)
    for size in (1, 2, 9):
        upper = np.triu(rng.integers(0, 5, (size, size)), 1)
        bonds = (upper + upper.T).astype(np.uint8)
        partners, orders = to_lists(bonds)
        assert partners.shape == orders.shape == (size, DEGREE)
        np.testing.assert_array_equal(to_matrix(partners, orders), bonds)
        assert ((partners >= 0) == (orders > 0)).all()
    with pytest.raises(ReedError, match="an atom has 9 neighbours, at most 8"):
        to_lists(np.ones((10, 10), np.uint8) - np.eye(10, dtype=np.uint8))


def test_the_vocabulary_is_that_of_the_public_checkpoints():
    assert len(ATOMS) == 18 and ATOMS[:4] == ("<PAD>", "<MASK>", "H", "C") and ATOMS[-1] == "Bi"
    assert molecule.CHARGES == (0, 1, 2, 3, -1, -2, -3)


def test_what_cannot_be_a_molecule_is_none():
    methane = rdkit.to_arrays(TINY.mol("C#N"))
    five = np.zeros((6, 6), np.uint8)
    five[0, 1:] = five[1:, 0] = 1
    atoms = np.array([3, 2, 2, 2, 2, 2], np.uint8)
    carbon = Molecule(np.zeros((6, 3), np.float32), atoms, np.zeros(6, np.int32), five)
    assert rdkit.sanitised(carbon) is None and rdkit.sanitised(methane) is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("CC", ""),
        ("[Na+].[Cl-]", "several fragments"),
        ("C[Se]C", "element Se"),
        ("C[CH2]", "radical"),
        ("", "no atoms"),
        ("[Fe+4]", "element Fe"),
        ("[C-4]", "charge -4"),
        ("C$C", "quadruple bond"),
    ],
)
def test_what_has_no_place_in_the_arrays(text, problem):
    assert rdkit.problem(rdkit.library().MolFromSmiles(text)) == problem


def test_a_conformer_is_a_function_of_its_seed():
    first, same, other = (
        rdkit.library().AddHs(rdkit.library().MolFromSmiles("CCO")) for _ in "abc"
    )
    for mol, seed in ((first, 5), (same, 5), (other, 6)):
        assert rdkit.conformer(mol, seed) == ""
    places = [mol.GetConformer().GetPositions() for mol in (first, same, other)]
    assert (places[0] == places[1]).all() and (places[0] != places[2]).any()


def test_what_has_no_conformer_is_told(monkeypatch):
    monkeypatch.setattr(rdkit, "EMBED_SECONDS", 1)
    mol = rdkit.library().AddHs(rdkit.library().MolFromSmiles("C1C[C@@]2(F)[C@@]1(F)CC2"))
    assert rdkit.conformer(mol, 0) in ("", "no conformer was found in 1 s")
    monkeypatch.setattr(rdkit.library("Chem.rdDistGeom"), "EmbedMolecule", lambda *a: -1)
    assert "no conformer was found in 1 s" == rdkit.conformer(mol, 0)


def test_rdkit_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rdkit.Chem.nothing", None)
    with pytest.raises(ReedError, match=re.escape(pip_install("molecules"))):
        rdkit.library("Chem.nothing")


# ---- SDF


def test_an_sdf_keeps_coordinates_bonds_and_stereo(tmp_path):
    TINY.sdf(tmp_path / "some.sdf")
    TINY.sdf(tmp_path / "more" / "packed.sdf.gz", TINY.SMILES[:2])
    source = Molecules(tmp_path)
    keys = list(source.listing())
    assert len(keys) == len(TINY.SMILES) + 2 and "more/packed.sdf.gz/000001" in keys
    for key in keys:
        place, _, number = key.rpartition("/")
        sample, text = source.read(key), TINY.SMILES[int(number)]
        mol = TINY.mol(text)
        assert sample["smiles"] == canonical(text)
        assert rdkit.smiles(rdkit.sanitised(unpacked(sample))) == sample["smiles"]
        np.testing.assert_allclose(sample["coords"], mol.GetConformer().GetPositions(), atol=1e-3)
    one = Molecules(tmp_path / "some.sdf")
    assert list(one.listing()) == [k for k in keys if k.startswith("some.sdf/")]
    assert pickle.loads(pickle.dumps(one)).read("some.sdf/000003")["smiles"] == "c1cc[nH]c1"


def test_hydrogens_that_a_file_lacks_are_added(tmp_path):
    bare = rdkit.library().RemoveHs(TINY.mol("CC(=O)Nc1ccc(O)cc1"))
    (tmp_path / "x.sdf").write_text(rdkit_writing.sdf([("x", bare)]))
    sample = Molecules(tmp_path / "x.sdf").read("x.sdf/000000")
    assert (sample["atoms"] == 2).sum() == 9 and len(sample["coords"]) == 20
    apart = np.linalg.norm(sample["coords"][:, None] - sample["coords"][None], axis=-1)
    assert apart[~np.eye(20, dtype=bool)].min() > 0.8  # none is left at the origin


def test_bad_entries_are_recorded_and_others_kept(tmp_path):
    flat = rdkit.library().MolFromSmiles("CCO")
    rdkit.library("Chem.rdDepictor").Compute2DCoords(flat)
    bad = "rubbish\n$$$$\n" + rdkit_writing.sdf([("flat", flat)])
    source = Molecules(TINY.sdf(tmp_path / "x.sdf", TINY.SMILES[:3], extra=bad))
    listing = source.listing()
    assert len(listing) == 4 and listing.counts == {"left out: impossible coordinates": 1}
    with pytest.raises(BadSample, match="no molecule that RDKit accepts"):
        source.read("x.sdf/000001")
    with pytest.raises(BadSample, match="lies in a plane, though atom 1"):
        source.read("x.sdf/000002")
    assert source.read("x.sdf/000003")["smiles"] == "c1ccccc1"


def test_the_last_entry_need_not_be_closed(tmp_path):
    path = TINY.sdf(tmp_path / "x.sdf", TINY.SMILES[:2])
    path.write_text(path.read_text().removesuffix("$$$$\n"))
    assert entries.count(path) == 2
    (tmp_path / "one.mol").write_text(TINY.block("CSC").removesuffix("$$$$\n"))
    assert Molecules(tmp_path / "one.mol").read("one.mol/000000")["smiles"] == "CSC"


def test_what_is_left_out_is_counted(tmp_path, capsys):
    listed = ["CCO", "[Na+].[Cl-]", "CC.O", "C[Se]C", "[H][H]", "C" * 100, "not a molecule"]
    listed += ["C([2H])O", "[HgH9]"]
    (tmp_path / "x.smi").write_text("\n".join(listed))
    source = Molecules(tmp_path, min_atoms=3)
    assert list(source.listing()) == ["x.smi/000000", "x.smi/000006"]
    said = capsys.readouterr().err
    assert "2 samples; left out: 1 element Se, 1 isotope, 1 over 8 neighbours, 1 over max" in said
    assert "1 under min_atoms" in said and "2 several fragments" in said
    with pytest.raises(BadSample, match="'not' is no SMILES"):
        source.read("x.smi/000006")
    with pytest.raises(BadSample, match="left out: several fragments"):
        source.read("x.smi/000001")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("x.smi/9", "has 1 entry, none"),
        ("gone.sdf/000000", "cannot read gone.sdf"),
        ("x.smi", "no molecule 'x.smi'"),
        ("x.smi/y", "no molecule"),
    ],
)
def test_there_is_no_other_molecule(tmp_path, key, reason):
    (tmp_path / "x.smi").write_text("CCO\n")
    with pytest.raises(BadSample, match=reason):
        Molecules(tmp_path).read(key)


def test_settings_that_cannot_be(tmp_path):
    for settings in ({"min_atoms": 0}, {"max_atoms": 1}, {"conformers": 0}):
        with pytest.raises(ReedError, match="they must be at least 1, min_atoms and 1"):
            Molecules(**settings)
    with pytest.raises(ReedError, match="name a file or folder with --data$"):
        Molecules().listing()
    with pytest.raises(ReedError, match="there is nothing at"):
        Molecules(tmp_path / "none").listing()
    with pytest.raises(ReedError, match="no file that ends in .sdf"):
        Molecules(tmp_path).listing()
    (tmp_path / "x.sdf.gz").write_bytes(b"\x1f\x8bnot packed")
    with pytest.raises(ReedError, match="cannot read .*x.sdf.gz"):
        Molecules(tmp_path).listing()


def test_qm9_without_what_it_calls_uncharacterized(tmp_path, capsys):
    TINY.sdf(tmp_path / "gdb9.sdf", TINY.SMILES[:5])
    (tmp_path / "gdb9.sdf.csv").write_text("mol_id,A\ngdb_1,157.7\n")
    head = "List of uncharacterized molecules\n   Index  InChI\n==\n"
    (tmp_path / "uncharacterized.txt").write_text(head + "    2  InChI=1/a  InChI=1/b\n\n")
    keys = list(Molecules(tmp_path).listing())
    assert keys == [f"gdb9.sdf/{i:06d}" for i in (0, 2, 3, 4)]
    assert "left out: 1 uncharacterized" in capsys.readouterr().err


# ---- SMILES


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("x.smi", "CCO ethanol\r\nc1ccccc1\tbenzene\n\n", ["CCO", "c1ccccc1"]),
        ("x.csv", 'id,canonical_smiles\n1,CCO\n2,"c1ccccc1"\n', ["CCO", "c1ccccc1"]),
        ("x.csv", '"CCO","a"\n"c1ccccc1","b"\n', ["CCO", "c1ccccc1"]),
    ],
)
def test_lists_of_smiles(tmp_path, name, text, want):
    (tmp_path / name).write_text(text)
    source = Molecules(tmp_path)
    found = [source.read(key) for key in source.listing()]
    assert [sample["smiles"] for sample in found] == want
    assert len(found[0]["coords"]) == 9 and np.ptp(found[0]["coords"][:, 2]) > 0.5
    again = Molecules(tmp_path).read(f"{name}/000000")["coords"]
    np.testing.assert_array_equal(found[0]["coords"], again)
    assert (Molecules(tmp_path, seed=1).read(f"{name}/000000")["coords"] != again).any()


def test_a_short_line_is_told(tmp_path):
    (tmp_path / "x.csv").write_text("id,smiles\n1\n")
    with pytest.raises(BadSample, match="has no SMILES: the line has 1 of 2 cells"):
        Molecules(tmp_path).read("x.csv/000000")


# ---- GEOM


@pytest.mark.parametrize("protocol", [2, 4])
def test_geom_gives_its_conformers_by_energy(tmp_path, protocol, capsys):
    source = Molecules(TINY.geom(tmp_path, protocol=protocol))
    keys = list(source.listing())
    assert len(keys) == 8 and keys[1] == "drugs/0000.pickle/01"
    assert "left out: 1 without conformers" in capsys.readouterr().err
    best = TINY.mol(TINY.SMILES[0], 1).GetConformer().GetPositions()
    np.testing.assert_allclose(source.read(keys[0])["coords"], best, atol=1e-3)
    assert source.read(keys[-1])["smiles"] == "c1cc[nH]c1"
    assert len(Molecules(tmp_path, conformers=1).listing()) == 4
    with pytest.raises(BadSample, match="has 2 conformers, none has the rank 7"):
        source.read("drugs/0000.pickle/07")
    for key in ("drugs/0000.pickle", "../x.pickle/00"):
        with pytest.raises(BadSample, match="no molecule"):
            source.read(key)


class Hostile:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, call, *args):
        self.reduced = (call, args)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "content",
    [
        Hostile(os.mkdir, "owned"),
        {"conformers": [Hostile(eval, "1")]},
        Hostile(getattr, "", "x"),
        {"conformers": [{"totalenergy": np.float64(1), "rd_mol": None}]},
        random.Random(0),
    ],
)
def test_a_pickle_that_would_run_code_is_refused(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(BadSample, match=r"asks for \S+, which is not run"):
        read_pickle(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1], "is no pickle of GEOM"),
        ({"conformers": [{}]}, "lacks 'totalenergy'"),
        ({"conformers": [{"totalenergy": 0, "rd_mol": "x"}]}, "an rd_mol is no molecule"),
    ],
)
def test_another_pickle_is_told(tmp_path, content, reason):
    TINY.geom(tmp_path)
    (tmp_path / "drugs/0000.pickle").write_bytes(pickle.dumps(content))
    with pytest.raises(BadSample, match=reason):
        Molecules(tmp_path).read("drugs/0000.pickle/00")


def test_damaged_geom_is_told(tmp_path):
    source = Molecules(TINY.geom(tmp_path))
    path = tmp_path / "drugs/0001.pickle"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadSample, match="no sound pickle"):
        source.read("drugs/0001.pickle/00")
    with pytest.raises(BadSample, match="cannot read 9.pickle"):
        source.read("drugs/9.pickle/00")
    escape = pickle.PERSID + b"x\n."
    path.write_bytes(escape)
    with pytest.raises(BadSample, match="refers to something outside"):
        source.read("drugs/0001.pickle/00")
    mol = b"crdkit.Chem.rdchem\nMol\n(I1\ntR."
    encode = b"c_codecs\nencode\n(Vx\nVutf8\ntR."
    for content, reason in ((mol, "a molecule that is no bytes"), (encode, "that is no bytes")):
        path.write_bytes(content)
        with pytest.raises(BadSample, match=reason):
            read_pickle(path)
    for text, reason in (("[1]", "holds list"), ("{", "cannot read")):
        (tmp_path / "summary_drugs.json").write_text(text)
        (tmp_path / "again").mkdir(exist_ok=True)
        os.utime(tmp_path / "summary_drugs.json")
        with pytest.raises(ReedError, match=reason):
            from reed.sources.molecule import geom

            geom._table.cache_clear()
            source.listing()


# ---- toy


def test_the_toy_molecules_are_drug_like_and_shipped():
    source = MoleculesToy(samples=6)
    assert len(toy.shipped()) > 9000
    found = [source.read(key) for key in source.listing()]
    for sample in found:
        mol = rdkit.sanitised(unpacked(sample))
        assert rdkit.smiles(mol) == sample["smiles"] and 10 < mol.GetNumHeavyAtoms() < 45
    again = MoleculesToy(samples=60).read("train-000003")
    np.testing.assert_array_equal(again["coords"], found[3]["coords"])


def test_splits_of_the_toy_share_nothing():
    sets = [set(MoleculesToy(samples=900, split=s).listing().values()) for s in toy.SPLITS]
    assert all(len(each) == 900 for each in sets) and len(set.union(*sets)) == 2700


@pytest.fixture
def unremembered():
    """What the toy source keeps in memory is forgotten, before and after."""
    kept = (toy._chosen, toy.shipped, toy.brics)
    for function in kept:
        function.cache_clear()
    yield
    for function in kept:
        function.cache_clear()


def test_the_toy_is_generated_where_rdkit_ships_none(unremembered, monkeypatch):
    monkeypatch.setattr(toy, "SHIPPED", Path("not/there.csv"))
    monkeypatch.setattr(toy, "GENERATED", 40)
    state = random.getstate()
    source = MoleculesToy(samples=30)
    texts = list(source.listing().values())
    assert random.getstate() == state and toy.shipped() == () and len(set(texts)) == 30
    found = rdkit.library().MolFromSmiles(source.read("train-000000")["smiles"])
    assert rdkit.library().MolToSmiles(found, isomericSmiles=False) == texts[0]
    toy.brics.cache_clear()
    assert set(texts) <= set(toy.brics())  # the same ones again


def test_toy_settings_that_cannot_be(tmp_path):
    with pytest.raises(ReedError, match="takes no --data"):
        MoleculesToy(tmp_path)
    for settings in ({"split": "all"}, {"samples": 0}):
        with pytest.raises(ReedError, match="must be one of"):
            MoleculesToy(**settings)
    with pytest.raises(ReedError, match="has 1000 molecules in 'valid', not 2000"):
        MoleculesToy(samples=2000, split="valid").listing()
    for key in ("test-000000", "train-001024", "train-x"):
        with pytest.raises(BadSample, match="no molecule .*there are 1024 in 'train'"):
            MoleculesToy().read(key)


# ---- the cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("molecules")
    TINY.sdf(folder / "data" / "some.sdf")
    (folder / "data" / "one.smi").write_text("CCO\nCCN(\n")
    command = ["build", "geom", "--data", str(folder / "data"), "--cache", str(folder / "cache")]
    command += ["--workers", "0"]
    codecs = ["--codec", "rdkit3d/sample=float32", "--codec", "rdkit3d/token=pca:16+int8"]
    new = ["--encoder", "rdkit3d", "--encoder", "conformer", "--encoder", "synthetic=rdkit3d"]
    more = ["--codec", "synthetic/sample=float32", "--codec", "synthetic/token=float16"]
    place = ["--set", "synthetic.coords=conformer/coords"]
    result = CliRunner().invoke(main, [*command, *new, *codecs, *more, *place])
    assert result.exit_code == 0, result.output
    return folder / "cache"


def test_a_cache_of_molecules_is_built_and_verified(cache):
    assert schema.columns(cache) == ["conformer", "molecule", "rdkit3d", "synthetic"]
    result = CliRunner().invoke(main, ["verify", str(cache)])
    assert result.exit_code == 0 and "0 problems" in result.output
    marker = schema.load_marker(cache, schema.load_column(cache, "molecule"), 0)
    (reason,) = marker.failed.values()
    assert list(marker.failed) == ["one.smi/000001"] and reason.startswith("'CCN(' is no SMILES: s")
    assert len(marker.keys) == len(TINY.SMILES) + 1


def test_molecules_survive_the_cache(cache):
    column = schema.load_column(cache, "molecule")
    state = reader.load_state(cache, column)
    for key, values in reader.records(cache, column, 0, column.fields, state):
        assert rdkit.smiles(rdkit.sanitised(unpacked(values))) == values["smiles"]
        assert plan.load(cache).keys.count(key) == 1


def test_all_columns_are_streamed_together(cache):
    places = {n: f"molecule/{n}" for n in ("coords", "atoms", "charges", "partners", "orders")}
    places |= {"token": "rdkit3d/token", "sample": "synthetic/sample"}
    stream = open_cache(cache).stream(places, tokens=64, threads=0)
    assert stream.samples == 21 and stream.left_out == 1
    stored = next(iter(stream.batches()))
    values, mask = stream.decode(stored), stored.mask()
    rows, length = mask.shape
    assert values["partners"].shape == (rows, length, DEGREE)
    assert values["token"].shape == (rows, length, 16) and values["sample"].shape == (rows, 1217)
    assert not values["charges"].is_floating_point() and values["atoms"][mask].min() >= 2


def test_another_conformer_is_described_apart(cache):
    def arrays(place):
        column, field = open_cache(cache).column_and_field(place)
        state = reader.load_state(cache, column)
        found = reader.records(cache, column, 0, [field], state)
        return {key: values[field.name] for key, values in found}

    moved, given = arrays("conformer/coords"), arrays("molecule/coords")
    assert moved.keys() == given.keys()
    assert all(np.linalg.norm(moved[k] - given[k]) > 0.1 for k in moved)
    assert all(np.isfinite(value).all() for value in arrays("synthetic/sample").values())
