"""Molecules drawn, written, read back and measured: by function and by command."""

from __future__ import annotations

import gzip
import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed.chem import molecule_set, rdkit, rdkit_writing
from reed.chem.molecule import ATOMS, to_matrix
from reed.cli.evaluate import main as evaluate_main
from reed.cli.sample import main as sample_main
from reed.domains.base import DOMAINS
from reed.errors import ReedError
from reed.evaluate.base import Task
from reed.evaluate.molecule import MoleculeEvaluator
from reed.sample.outputs.molecule import unpadded
from reed.sources.molecule.molecules import Molecules
from reed.train.loop import train

HERE = Path(__file__).parent
TINY = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_molecules.py")))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TINY.build(tmp_path_factory.mktemp("molecules") / "cache")


@pytest.fixture(scope="module")
def run(cache):
    settings = TINY.settings(cache, cache.parent / "run", steps=2)
    train(settings, progress=False)
    return settings.run


@pytest.fixture(scope="module")
def real():
    return [rdkit.to_arrays(TINY.mol(text)) for text in TINY.SMILES]


def invoke(command, *words):
    result = CliRunner().invoke(command, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_molecules_come_back_from_a_file(tmp_path, real):
    path = tmp_path / "x.npz"
    molecule_set.write(path, real)
    assert molecule_set.is_set(path)
    found = molecule_set.load(path)
    for one, other in zip(real, found, strict=True):
        for name in ("coords", "atoms", "charges", "bonds"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    molecule_set.write(path, [replace(real[0], bonds=0 * real[0].bonds)])
    assert not molecule_set.load(path)[0].bonds.any()


def test_a_file_that_is_none_is_told(tmp_path, real):
    path = tmp_path / "x.npz"
    path.write_bytes(b"rubbish")
    assert not molecule_set.is_set(path) and not molecule_set.is_set(tmp_path / "gone")
    with pytest.raises(ReedError, match="cannot read molecules from"):
        molecule_set.load(path)
    molecule_set.write(path, real)
    with np.load(path) as arrays:
        good = dict(arrays)
    for name, value in (
        ("atoms", good["atoms"][:-1]),
        ("coords", good["coords"][:, :2]),
        ("bonds", good["bonds"] + [[0, 10_000, 0]]),
        ("atoms", good["atoms"] + 30),
        ("bonds", good["bonds"] * [[0, 1, 1]]),
        ("bonds", good["bonds"] - 5),
    ):
        np.savez(path, **good | {name: value})
        with pytest.raises(ReedError, match="do not fit together"):
            molecule_set.load(path)


def as_people_have_it(text: str, form: str) -> bytes:
    """The text of an SDF in another form."""
    if form == "cr":
        return text.replace("\n", "\r").encode()
    if form == "nodollar":
        return text.replace("$$$$\n", "").encode()
    if form == "latin1":
        return text.replace("M  END\n", "M  END\n> <who>\nM\xfcller\n\n").encode("latin-1")
    if form == "utf16":
        return text.encode("utf-16")
    return gzip.compress(text.encode()) if form == "gz" else text.encode()


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("x.sdf", "cr"),
        ("x.sdf", "nodollar"),
        ("x.sdf", "latin1"),
        ("x.sdf", "utf16"),
        ("x.sdf.gz", "gz"),
        ("x.sdf", "gz"),
        ("X.SDF", "plain"),
        ("x.sd", "plain"),
        ("x.mol", "plain"),
        ("x", "plain"),
    ],
)
def test_an_sdf_is_measured_as_a_build_reads_it(tmp_path, real, name, form):
    text = "".join(map(TINY.block, TINY.SMILES))
    path = tmp_path / name
    path.write_bytes(as_people_have_it(text, form))
    assert MoleculeEvaluator.reads(path)
    found, source = molecule_set.load(path), Molecules(path)
    keys = list(source.listing())
    assert len(found) == len(keys) == len(real)
    for molecule, key in zip(found, keys, strict=True):
        stored = source.read(key)
        np.testing.assert_array_equal(molecule.coords, stored["coords"])
        np.testing.assert_array_equal(molecule.atoms, stored["atoms"])
        np.testing.assert_array_equal(molecule.charges, stored["charges"])
        bonds = to_matrix(stored["partners"], stored["orders"])
        np.testing.assert_array_equal(molecule.bonds, bonds)


def test_hydrogens_are_added_where_a_file_writes_none(tmp_path):
    chem = rdkit.library()
    bare = rdkit_writing.sdf([("x", chem.RemoveHs(TINY.mol("CCN")))])
    (tmp_path / "x.sdf").write_text(bare)
    assert [len(each) for each in molecule_set.load(tmp_path / "x.sdf")] == [10]
    (tmp_path / "y.sdf").write_text(bare + TINY.block("CSC"))  # the first lacks its own
    assert [len(each) for each in molecule_set.load(tmp_path / "y.sdf")] == [3, 9]
    (tmp_path / "z.sdf").write_text("")
    with pytest.raises(ReedError, match="z.sdf holds no molecule"):
        molecule_set.load(tmp_path / "z.sdf")


@pytest.mark.parametrize(
    ("smiles", "said"), [("C[Na]", "the element Na, which"), ("N->[H]", "a bond of kind DATIVE")]
)
def test_what_the_arrays_cannot_hold_is_named(tmp_path, smiles, said):
    chem = rdkit.library()
    mol = chem.MolFromSmiles(smiles, sanitize=False)
    mol.AddConformer(chem.Conformer(mol.GetNumAtoms()))
    (tmp_path / "x.sdf").write_text(chem.MolToV3KMolBlock(mol, kekulize=False) + "\n$$$$\n")
    with pytest.raises(ReedError, match=f"entry 0 cannot be measured, it has {said}"):
        molecule_set.load(tmp_path / "x.sdf")


def test_a_thousand_words_make_an_sdf(run, cache):
    out = run / "drawn"
    words = ["--run", run, "--num", 5, "--steps", 3, "--batch", 3, "--device", "cpu", "--out", out]
    said = invoke(sample_main, *words)
    assert "drawn.sdf" in said
    mols = list(rdkit.library().SDMolSupplier(f"{out}.sdf", sanitize=False, removeHs=False))
    found = molecule_set.load(Path(f"{out}.npz"))
    assert len(mols) == len(found) == 5 and (run / "drawn.png").stat().st_size > 100
    for number, (mol, molecule) in enumerate(zip(mols, found, strict=True)):
        assert mol.GetProp("_Name") == f"{number:06d}" and mol.GetNumAtoms() == len(molecule)
        assert mol.GetNumBonds() == np.triu(molecule.bonds, 1).astype(bool).sum()
        places = mol.GetConformer().GetPositions()
        np.testing.assert_allclose(places, molecule.coords, atol=1e-3)
    more = [*words[:3], 7, *words[4:]]
    invoke(sample_main, *more)  # the first five stay
    again = molecule_set.load(Path(f"{out}.npz"))
    assert len(again) == 7
    np.testing.assert_array_equal(again[4].coords, found[4].coords)
    text = invoke(evaluate_main, f"{out}.npz", "--reference", cache, "--num", 7)
    assert "molecule_stability_strict" in text and "7 molecules of" in text
    record = json.loads((run / "drawn.eval.json").read_text())
    assert record["recipe"]["steps"] == 3 and "validity" in record["metrics"]


def test_a_molecule_that_rdkit_cannot_write_loses_no_other(run, cache, monkeypatch):
    """A hydrogen of charge +2 beside a bond ended the command, and every rerun."""
    cls = DOMAINS.get("molecule")
    generate = cls.generate

    def generate_odd_ones(self, *args):
        drawn = generate(self, *args)
        drawn["atoms"][1, :2] = [ATOMS.index("H"), ATOMS.index("C")]
        drawn["charges"][1, 0] = 2
        drawn["bonds"][1, 0, 1] = drawn["bonds"][1, 1, 0] = 4
        drawn["coords"][2, 0] = np.inf
        return drawn

    monkeypatch.setattr(cls, "generate", generate_odd_ones)
    out = run / "odd"
    words = ["--run", run, "--num", 4, "--steps", 2, "--device", "cpu", "--out", out]
    for _ in range(2):
        said = invoke(sample_main, *words)
        assert f"{out}: sample 000002: 'coords' is not finite; not in odd.sdf: " in said
    assert list(json.loads(Path(f"{out}.json").read_text())["problems"]) == ["000002"]

    drawn, written = (molecule_set.load(Path(f"{out}.{end}")) for end in ("npz", "sdf"))
    assert len(drawn) == 4 and not np.isfinite(drawn[2].coords).all()
    for one, other in zip([drawn[i] for i in (0, 1, 3)], written, strict=True):
        np.testing.assert_array_equal(one.atoms, other.atoms)
        np.testing.assert_array_equal(one.charges, other.charges)
    assert written[1].charges[0] == 2
    for end in ("npz", "sdf"):  # both are measured, with a warning
        text = invoke(evaluate_main, f"{out}.{end}", "--reference", cache)
        assert "1 samples are not sound (sample 000002: 'coords'" in text


def test_options_of_molecules_are_options_of_the_command(run):
    out = run / "sized"
    words = ["--run", run, "--num", 2, "--steps", 2, "--atoms", 6, "--grid", "linear"]
    invoke(sample_main, *words, "--noise", 0, "--device", "cpu", "--out", out)
    assert [len(each) for each in molecule_set.load(Path(f"{out}.npz"))] == [6, 6]


def test_the_molecules_of_the_cache_are_sound_and_not_novel(tmp_path, cache):
    path = tmp_path / "x.npz"
    molecule_set.write(path, molecule_set.of_cache(cache, 15))
    task = Task("molecule", path, cache, tmp_path / "x.eval.json")
    found = MoleculeEvaluator().measure(task)
    values = {name: each["value"] for name, each in found.metrics.items()}
    assert values["molecules"] == 15 and values["novelty"] == 0.0
    assert values["validity"] == values["molecule_stability_strict"] == 1.0
    assert values["strain_median"] < 1.0 and len(molecule_set.known(cache)) == 18
    with pytest.raises(ReedError, match="holds 15 samples, --num says 16"):
        MoleculeEvaluator().measure(replace(task, num=16))


def test_an_sdf_is_measured_as_the_arrays_beside_it(tmp_path, cache):
    """Today's fault: "File is not a zip file"."""
    molecules = molecule_set.of_cache(cache, 6)
    molecule_set.write(tmp_path / "x.npz", molecules)
    made = ((str(i), rdkit.sanitised(each)) for i, each in enumerate(molecules))
    (tmp_path / "y.sdf").write_text(rdkit_writing.sdf(made))
    found = []
    for name in ("x.npz", "y.sdf"):
        invoke(evaluate_main, tmp_path / name, "--reference", cache, "--num", 6)
        record = json.loads((tmp_path / f"{name[0]}.eval.json").read_text())
        found.append({name: each["value"] for name, each in record["metrics"].items()})
        assert record["kind"] == "molecule"
    ours, theirs = found
    assert ours.keys() == theirs.keys() and ours["validity"] == ours["novelty"] + 1 == 1
    for name, value in ours.items():  # an SDF keeps four decimals of a coordinate
        assert value == pytest.approx(theirs[name], abs=0.05), name


def test_an_sdf_that_arrays_cannot_hold_is_one_line(tmp_path, cache):
    for text, part in (
        ("no molecule\n$$$$\n", "cannot read entry 0 with coordinates"),
        (_gold(), "entry 0 cannot be measured, it has the element Au"),
    ):
        (tmp_path / "x.sdf").write_text(text)
        words = [str(tmp_path / "x.sdf"), "--reference", str(cache)]
        found = CliRunner().invoke(evaluate_main, words)
        assert found.exit_code == 2 and part in found.stderr, found.output
        assert "Traceback" not in found.stderr and "x.sdf" in found.stderr.splitlines()[-1]


def _gold():
    mol = rdkit.library().MolFromSmiles("[Au]")
    mol.AddConformer(rdkit.library().Conformer(1))
    return rdkit_writing.sdf([("gold", mol)])


def test_what_cannot_be_averaged_is_told(tmp_path, cache, real):
    path, out = tmp_path / "x.npz", tmp_path / "x.eval.json"
    bonds = 2 * (1 - np.eye(len(real[0]), dtype=np.uint8))
    molecule_set.write(path, [replace(real[0], bonds=bonds)])
    result = CliRunner().invoke(evaluate_main, [str(path), "--reference", str(cache)])
    assert result.exit_code == 0 and "uniqueness: there is nothing to average" in result.output
    assert "uniqueness" not in json.loads(out.read_text())["metrics"]


def test_padding_is_taken_off(real):
    size = max(map(len, real[:2]))
    part = {
        "coords": np.zeros((2, size, 3), np.float32),
        "atoms": np.zeros((2, size), np.int32),
        "charges": np.zeros((2, size), np.int32),
        "bonds": np.zeros((2, size, size), np.uint8),
    }
    for row, molecule in enumerate(real[:2]):
        count = len(molecule)
        for name in ("coords", "atoms", "charges"):
            part[name][row, :count] = getattr(molecule, name)
        part["bonds"][row, :count, :count] = molecule.bonds
    for one, other in zip(unpadded(part), real[:2], strict=True):
        assert rdkit.smiles(rdkit.sanitised(one)) == rdkit.smiles(rdkit.sanitised(other))


def test_kinds_that_cannot_be_kekulised_are_written_as_they_are(real):
    ring = real[1]
    broken = replace(ring, charges=ring.charges + (np.arange(12) == 0) * 1)
    text = rdkit_writing.sdf([("x", rdkit.to_mol(broken))])
    assert text.endswith("$$$$\n") and text.startswith("x\n")
