"""Molecules as others publish them: split files of MiDi and SemlaFlow, QM9's tables, splits."""

from __future__ import annotations

import mmap
import os
import pickle
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reed.build.shard import BadSample
from reed.chem import rdkit
from reed.errors import ReedError
from reed.sources.molecule import pickles
from reed.sources.molecule.molecules import SPLITS, Molecules

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny_molecules.py")))
TRAIN, VALID, TEST = TINY.SMILES[:3], TINY.SMILES[3:5], TINY.SMILES[5:6]


def canonical(text: str) -> str:
    return rdkit.library().CanonSmiles(text)


def outline(content, path: Path) -> list:
    """What reed.sources.molecule.pickles.items says of a pickle of something, or of bytes."""
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return list(pickles.items(mapped, path.name))


class Hostile:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, call=os.mkdir, *args):
        self.reduced = (call, args or ("owned",))

    def __reduce__(self):
        return self.reduced


# ---- the outline of a pickle


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_an_outline_says_where_everything_lies(tmp_path, protocol):
    big = os.urandom(70_000)  # lies outside the frames of protocol 4
    mols = [TINY.mol(text) for text in TINY.SMILES[:3]]
    same = "CCO"
    content = [(same, mols[:2]), [same, []], ("x", [mols[2]], None, 7), b"abc", big]
    # more than one batch of items
    content += [("many", [rdkit.library().Mol(mols[0])]) for _ in range(1500)]
    path = tmp_path / "x.pickle"
    found = outline(pickle.dumps(content, protocol), path)
    raw = path.read_bytes()
    assert [item[0] for item in found[:3]] == ["CCO", "CCO", "x"] and len(found) == 1505
    assert found[1][1] == [] and found[2][2:] == (None, 7)
    for span, text in zip([*found[0][1], *found[2][1]], TINY.SMILES, strict=False):
        assert span.molecule
        mol = pickles.Packed(raw[span.first : span.last]).mol()
        assert rdkit.smiles(mol) == canonical(text)
    assert [raw[span.first : span.last] for span in found[3:5]] == [b"abc", big]
    assert not found[3].molecule and found[-1][1][0].molecule


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([Hostile()], r"asks for (posix|nt).mkdir, which is not run"),
        ([("CCO", [Hostile(eval, "1")])], "asks for builtins.eval, which is not run"),
        ([np.float64(1)], "asks for numpy"),
        ({"a": 1}, "no list of molecules needs: "),
        ("text", "no pickle of a list"),
        (pickle.dumps([1])[:-3], "no sound pickle"),
        (pickle.dumps([b"a"], 2), "asks for _codecs.encode"),
        (b"crdkit.Chem.rdchem\nMol\nK\x01\x85R.", "a molecule that is no bytes"),
        (b"crdkit.Chem.rdchem\nMol\nC\x01a\x85RK\x01b.", "with more than its bytes"),
        (b"a.", "no sound pickle"),
        (pickle.PERSID + b"x\n.", "needs: PERSID"),
    ],
)
def test_an_outline_runs_nothing(tmp_path, monkeypatch, content, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadSample, match=reason):
        outline(content, tmp_path / "x.pickle")
    assert not (tmp_path / "owned").exists()


# ---- MiDi's pickles


def test_midis_files_are_its_splits(tmp_path, capsys):
    TINY.midi(tmp_path, train=TRAIN, val=VALID, test=TEST)
    sources = {split: Molecules(tmp_path, split=split) for split in ("all", *SPLITS)}
    keys = {split: list(source.listing()) for split, source in sources.items()}
    assert keys["all"] == keys["train"] + keys["valid"] + keys["test"]
    assert [len(keys[split]) for split in SPLITS] == [6, 4, 2]
    assert keys["valid"][1] == "val_data.pickle/000000/01"
    assert "4 samples of the split 'valid'" in capsys.readouterr().err
    for split, texts in zip(SPLITS, (TRAIN, VALID, TEST), strict=True):
        found = [sources[split].read(key)["smiles"] for key in keys[split]]
        assert found == [canonical(text) for text in texts for _ in range(2)]
    second = sources["all"].read(keys["valid"][1])["coords"]
    want = TINY.mol(VALID[0], 1).GetConformer().GetPositions()
    np.testing.assert_allclose(second, want, atol=1e-3)
    one = pickle.loads(pickle.dumps(Molecules(tmp_path / "val_data.pickle", conformers=1)))
    assert list(one.listing()) == ["val_data.pickle/000000/00", "val_data.pickle/000001/00"]
    assert one.read("val_data.pickle/000001/00")["smiles"] == canonical(VALID[1])


def test_bad_items_fail_alone(tmp_path, capsys):
    good, odd = [TINY.mol(text) for text in TRAIN], rdkit.library().MolFromSmiles("C[Se]C")
    rows = [(text, [mol]) for text, mol in zip(TRAIN, good, strict=True)]
    lost = rdkit.library().Mol(TINY.mol("CSC"))
    lost.GetConformer().SetPositions(np.full((lost.GetNumAtoms(), 3), np.nan))
    rows = [*rows, ("x", []), ("x", None), 5, ("x", [b"y"]), ("y", [odd]), ("z", [lost])]
    content = pickle.dumps(rows)
    broken = good[0].ToBinary()
    path = tmp_path / "train_data.pickle"
    path.write_bytes(content.replace(broken, b"\0" * len(broken)))
    source = Molecules(path)
    keys = list(source.listing())
    assert [int(key.split("/")[1]) for key in keys] == [0, 1, 2, 4, 5, 6, 8]
    assert "left out: 1 element Se, 1 without conformers" in capsys.readouterr().err
    assert [source.read(key)["smiles"] for key in keys[1:3]] == list(map(canonical, TRAIN[1:]))
    with pytest.raises(BadSample, match="no molecule that RDKit reads"):
        source.read(keys[0])
    with pytest.raises(BadSample, match="coordinates that are not finite"):
        source.read(keys[6])
    for key in keys[3:6]:
        with pytest.raises(BadSample, match="train_data.pickle is no SMILES with conformers"):
            source.read(key)


def test_a_hostile_set_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train_data.pickle").write_bytes(pickle.dumps([("CCO", [Hostile()])]))
    with pytest.raises(ReedError, match="cannot read .*train_data.pickle: .*mkdir, which is not"):
        Molecules(tmp_path).listing()
    (tmp_path / "train_data.pickle").write_bytes(b"")
    with pytest.raises(ReedError, match="cannot read .*train_data.pickle"):
        Molecules(tmp_path).listing()
    assert not (tmp_path / "owned").exists()


def test_what_split_files_lack_is_told(tmp_path):
    TINY.midi(tmp_path, train=TRAIN)
    with pytest.raises(ReedError, match="no split 'valid', which would be val_data.pickle or val"):
        Molecules(tmp_path, split="valid").listing()
    source = Molecules(tmp_path)
    for key, reason in (
        ("train_data.pickle/3/00", "no molecule 3 with 1 conformers"),
        ("train_data.pickle/0/02", "no molecule 0 with 3 conformers"),
        ("val_data.pickle/0/00", "keys are a file, a molecule and a conformer"),
        ("train_data.pickle/x/00", "keys are"),
        ("x", "keys are"),
    ):
        with pytest.raises(BadSample, match=reason):
            source.read(key)
    TINY.smol(tmp_path, test=[TINY.smol_entry("CCO")])
    with pytest.raises(ReedError, match="two sets: train_data.pickle, test.smol; put each into"):
        source.listing()


# ---- SemlaFlow's files


def test_semlaflows_files_are_read(tmp_path):
    old = TINY.smol_entry(TINY.SMILES[0])
    old["bonds"] = torch.cat([old.pop("bond_indices"), old.pop("bond_types")[:, None]], 1)
    TINY.smol(tmp_path, train=[TINY.smol_entry(text) for text in TINY.SMILES], val=[old])
    source = Molecules(tmp_path, split="train")
    keys = list(source.listing())
    assert keys[7] == "train.smol/000007/00" and len(keys) == len(TINY.SMILES)
    for key, text in zip(keys, TINY.SMILES, strict=True):
        sample = source.read(key)
        assert sample["smiles"] == canonical(text)
        places = TINY.mol(text).GetConformer().GetPositions()
        np.testing.assert_allclose(sample["coords"], places, atol=1e-4)
    assert Molecules(tmp_path).read("val.smol/000000/00")["smiles"] == canonical(TINY.SMILES[0])


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"coords": Hostile()}, "mkdir, which is not run"),
        ({"coords": [1.0]}, "of a .smol file"),
        ({"coords": torch.zeros(3, 3)}, "do not fit"),
        ({"charges": torch.zeros(2)}, "do not fit"),
        ({"atomics": torch.tensor([[0.5, 0.5]] * 9)}, "do not fit"),
        ({"bond_indices": torch.full((8, 2), 9)}, "do not fit"),
        ({"bond_types": torch.full((8,), 5)}, "do not fit"),
        ({"bond_types": torch.zeros(8).long()}, "left out: several fragments"),
        ({"bond_types": torch.full((8,), 2)}, "no molecule that RDKit accepts"),
        ({"atomics": torch.full((9,), 34)}, "an atom of the number 34, which is none of"),
    ],
)
def test_bad_entries_of_semlaflow_are_told(tmp_path, monkeypatch, other, reason):
    monkeypatch.chdir(tmp_path)
    source = Molecules(TINY.smol(tmp_path, train=[TINY.smol_entry("CCO", **other)]))
    assert len(source.listing()) == ("fragments" not in reason)
    with pytest.raises(BadSample, match=reason):
        source.read("train.smol/000000/00")
    assert not (tmp_path / "owned").exists()


def test_bytes_of_a_tensor_run_nothing(tmp_path, monkeypatch):
    """Within the entry lies another pickle, that of torch, which its own reader refuses."""
    monkeypatch.chdir(tmp_path)
    torch.save(Hostile(), tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    inner = (tmp_path / "x.pt").read_bytes()
    entry = TINY.smol_entry("CCO", coords=Hostile(torch.storage._load_from_bytes, inner))
    source = Molecules(TINY.smol(tmp_path, train=[entry]))
    with pytest.raises(BadSample, match="no sound pickle: UnpicklingError"):
        source.read("train.smol/000000/00")
    assert not (tmp_path / "owned").exists()


# ---- splits that follow from the molecules


def test_splits_share_no_molecule(tmp_path, capsys):
    from reed.sources.molecule.toy import shipped

    texts = [*shipped()[:400:2], *TINY.SMILES, "not a molecule"]
    (tmp_path / "x.smi").write_text("\n".join(texts))
    sets = {split: set(Molecules(tmp_path, split=split).listing()) for split in SPLITS}
    assert sum(map(len, sets.values())) == len(set.union(*sets.values()))
    assert set.union(*sets.values()) == set(Molecules(tmp_path).listing())
    assert len(sets["train"]) > 0.7 * len(texts) and all(len(each) > 8 for each in sets.values())
    said = capsys.readouterr().err
    assert f"{len(sets['test'])} of the split 'test', {len(sets['valid'])} of the" in said
    assert f"x.smi/{len(texts) - 1:06d}" in sets["train"]  # it fails once
    first = len(texts) - 1 - len(TINY.SMILES)
    alanines = [{s for s in SPLITS if f"x.smi/{first + i:06d}" in sets[s]} for i in (5, 6)]
    assert alanines[0] == alanines[1]  # the two enantiomers


def test_conformers_are_on_one_side_and_files_do_not_matter(tmp_path):
    """The split of a molecule is the same in GEOM's folder and in an SDF."""
    TINY.geom(tmp_path / "geom", TINY.SMILES)
    TINY.sdf(tmp_path / "x.sdf")
    for split in SPLITS:
        of_geom = Molecules(tmp_path / "geom", split=split).listing()
        pickled = {key.split("/")[1][:4] for key in of_geom}
        assert len(of_geom) == 2 * len(pickled)
        in_sdf = Molecules(tmp_path / "x.sdf", split=split).listing()
        assert pickled == {key[-4:] for key in in_sdf}


def test_qm9_is_split_by_midis_tables(tmp_path, capsys):
    TINY.sdf(tmp_path / "gdb9.sdf", TINY.SMILES[:6])
    for name, rows in (("train", (0, 3)), ("val", (1,)), ("test", (4, 5))):
        lines = [f"{row},gdb_{row + 1},157.7" for row in rows]
        (tmp_path / f"{name}.csv").write_text("\n".join([",mol_id,A", *lines]) + "\n")
    head = "Index  InChI\n==\n"
    (tmp_path / "uncharacterized.txt").write_text(head + "    5  InChI=1/a  InChI=1/b\n")
    numbers = {
        split: [int(key[-6:]) for key in Molecules(tmp_path, split=split).listing()]
        for split in ("all", *SPLITS)
    }
    assert numbers == {"all": [0, 1, 2, 3, 5], "train": [0, 3], "valid": [1], "test": [5]}
    said = capsys.readouterr().err
    assert "1 of the split 'none'" in said and "1 uncharacterized" in said
    (tmp_path / "val.csv").write_text("smiles\nCCO\n")
    with pytest.raises(ReedError, match=r"val.csv is no part of gdb9.sdf.csv: KeyError\('mol_id'"):
        Molecules(tmp_path).listing()


def test_a_split_that_is_none(tmp_path):
    with pytest.raises(ReedError, match="there is no split 'val'.*'valid'"):
        Molecules(tmp_path, split="val")


# ---- public files that cannot be read


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("drugs_crude.msgpack", "have no bonds; unpack its rdkit_folder.tar.gz"),
        ("drugs_featurized.msgpack", "have no bonds"),
        ("dsgdb9nsd_000001.xyz", "take the gdb9.sdf"),
        ("dsgdb9nsd.xyz.tar.bz2", "take the gdb9.sdf in MoleculeNet's qm9.zip"),
        ("rdkit_folder.tar.gz", "unpack it"),
        ("qm9.zip", "unpack it and name the folder"),
        ("drugs/x.pickle", "beside summary_drugs.json"),
    ],
)
def test_files_of_no_use_are_answered_with_those_of_use(tmp_path, name, advice):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    for data in (tmp_path, path):
        with pytest.raises(ReedError, match=f"cannot read .*{path.name}: .*{advice}"):
            Molecules(data).listing()
