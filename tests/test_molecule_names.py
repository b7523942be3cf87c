"""Names of molecules become keys in new plans; plans of earlier versions keep their numbers."""

from __future__ import annotations

import gzip
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed import open_cache
from reed.build.shard import BadSample
from reed.cache import plan, schema
from reed.cli.cache import main
from reed.errors import ReedError
from reed.sources.molecule import naming
from reed.sources.molecule.molecules import Molecules

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_molecules.py"))))


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def done(*words):
    found = run(*words)
    assert found.exit_code == 0, (found.output, found.exception)
    return found


def block(smiles, title):
    """The entry of an SDF with a title."""
    return "\n".join([title, *TINY.block(smiles).split("\n")[1:]])


def keys(path, names="auto"):
    """The last parts of the keys, each of which reads the molecule that it names."""
    source = Molecules(path, names=names)
    return [key.rpartition("/")[2] for key in source.listing()]


def smiles(path, names="auto"):
    source = Molecules(path, names=names)
    return {key.rpartition("/")[2]: source.read(key)["smiles"] for key in source.listing()}


def test_the_title_lines_of_an_sdf_are_keys(tmp_path):
    path = tmp_path / "x.sdf"
    path.write_text(block("CSC", "sulphide") + block("C#N", "  prussic acid ") + block("CCO", ""))
    assert smiles(path) == {"sulphide": "CSC", "prussic acid": "C#N", "000002": "CCO"}
    assert list(Molecules(path, names="auto").listing())[0] == "x.sdf/sulphide"
    assert keys(path, "none") == ["000000", "000001", "000002"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("latin-1"),
        lambda text: gzip.compress(text.encode()),
        lambda text: text.replace("$$$$\n", "").encode(),
        lambda text: text.replace("$$$$\n", "$$$$\n\n").encode(),
    ],
)
def test_titles_are_read_as_the_molecules_are(tmp_path, change):
    text = block("CSC", "sulfid-größe") + block("C#N", "blau")
    path = tmp_path / "x.sdf"
    path.write_bytes(change(text))
    assert smiles(path) == {"sulfid-größe": "CSC", "blau": "C#N"}


def test_a_header_without_its_blank_lines_has_no_title(tmp_path):
    whole = block("CSC", "")
    path = tmp_path / "x.sdf"
    path.write_text("\n".join(whole.split("\n")[1:]))  # begins with the line of the program
    assert keys(path) == ["000000"]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("x.smi", "CCO ethanol\nCN amine 12\nCO\n", ["ethanol", "amine", "000002"]),
        ("x.smi", "CCO\tacetic acid\t7\nCN\t\nCO\tNaN\n", ["acetic acid", "000001", "000002"]),
        ("x.smi", "smiles zinc_id\nCCO ZINC1\nCN ZINC2\n", ["ZINC1", "ZINC2"]),
        ("x.cxsmiles", "CCO |a:1,b| ethanol\nCN amine\n", ["ethanol", "amine"]),
        ("x.csv", "CCO,ethanol\nCN,amine\n", ["ethanol", "amine"]),
        ("x.csv", 'name,smiles\nethanol,CCO\n"a, b",CN\n', ["ethanol", "a, b"]),
        ("x.csv", "Compound ID;smiles;logp\nE1;CCO;2\nE2;CN;3\n", ["E1", "E2"]),
        ("x.csv", "title,id,smiles\na,1,CCO\nb,2,CN\n", ["a", "b"]),
        ("x.csv", "smiles,logp\nCCO,1.5\nCN,2.5\n", ["000000", "000001"]),
        ("x.csv", "a_id,b_id,smiles\n1,2,CCO\n", ["000000"]),  # which of them is not certain
        ("x.tsv", "smiles\tname\nCCO\tethanol\n", ["ethanol"]),
    ],
)
def test_names_in_lists(tmp_path, name, text, found):
    path = tmp_path / name
    path.write_text(text)
    assert keys(path) == found
    first = Molecules(path, names="auto").read(f"{name}/{found[0]}")
    assert first["smiles"] == "CCO"


def test_the_column_of_names_can_be_chosen(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a_id,B_id,smiles\n1,2,CCO\n")
    assert keys(path, "b_id") == ["2"] and keys(path, "a_id") == ["1"]
    with pytest.raises(ReedError, match="x.csv has no column 'c_id' of names; its first line") as e:
        keys(path, "c_id")
    assert "--set source.names=NAME" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("names", "tails", "shared"),
    [
        (["a", "b"], ["a", "b"], ()),
        (["a", "", "a", "b", "a"], ["000000", "000001", "000002", "b", "000004"], (0, 2, 4)),
        # names that look like the number of an entry that needs it; then the chain that follows
        (["000001", "", "000000"], ["000000", "000001", "000002"], ()),
        (["000002", "000001", "x"], ["000002", "000001", "x"], ()),
        (["123456", "", "7"], ["123456", "000001", "7"], ()),
        ([], [], ()),
    ],
)
def test_keys_are_unique_whatever_the_names_are(names, tails, shared):
    made = naming.made(names)
    assert (list(made.tails), made.shared) == (tails, shared)
    assert made.numbers == {tail: number for number, tail in enumerate(tails)}


def test_characters_that_keys_cannot_hold_follow_one_rule(tmp_path):
    assert naming.as_key(" a/b\tc\x00d\u202ee\ud800 ") == "a_b_c_d_e_"
    assert naming.as_key("β-Carotin, (6'R)") == "β-Carotin, (6'R)"
    path = tmp_path / "x.sdf"
    path.write_text(block("CSC", "a/b") + block("C#N", "a_b") + block("CCO", "../x\ty"))
    assert keys(path) == ["000000", "000001", ".._x_y"]  # the first two are equal by the rule


def test_what_is_shared_is_said_and_counted(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.smi").write_text("CCO x\nCN x\nCO y\nC(C x\n")
    (folder / "b.smi").write_text("CCCO x\n")  # unique in its own file
    said = done("plan", "molecules", "--data", folder, "--cache", tmp_path / "c", "--json")
    line = "molecules: 3 names are not unique in their file, so the keys of these molecules are "
    assert f"{line}numbers: a.smi/000000, a.smi/000001, a.smi/000003" in said.stderr.splitlines()
    told = json.loads(said.stdout)
    assert told["counted"] == {naming.SHARED: 3}
    assert told["examples"][naming.SHARED] == ["a.smi/000000", "a.smi/000001", "a.smi/000003"]
    assert list(Molecules(folder, names="auto").listing())[-1] == "b.smi/x"


def test_a_key_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "x.smi"
    path.write_text("CCO x\n")
    source = Molecules(path, names="auto")
    for key in ("x.smi/000000", "x.smi/y", "x.smi/", "x"):
        with pytest.raises(BadSample, match="no molecule .*: keys are the file and a number or"):
            source.read(key)
    with pytest.raises(BadSample, match="cannot read gone.smi"):
        source.read("gone.smi/x")


# ---- plans


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "x.smi"
    path.write_text("CCO ethanol\nCN amine\nCO methanol\nCCC propane\n")
    return path


WORDS = ("--encoder", "molecule", "--device", "cpu")
NAMES = ["amine", "ethanol", "methanol", "propane"]


def test_a_new_plan_has_names_and_every_later_command_finds_them(data, tmp_path):
    cache = tmp_path / "c"
    words = ("build", "geom", "--data", data, "--cache", cache, "--set", "source.min_atoms=3")
    done(*words, *WORDS)
    frozen = plan.load(cache)
    assert sorted(frozen.keys) == [f"x.smi/{name}" for name in NAMES]
    assert set(frozen.stamps) == {f"{data.stat().st_size}-2-names1"}
    assert frozen.manifest.options == {"min_atoms": 3, "names": "auto"}
    with open_cache(cache) as opened:
        assert opened["molecule/smiles"]["x.smi/amine"] == "CN"
    done(*words, "--encoder", "conformer", "--device", "cpu")  # says the setting again
    done("build", "geom", "--data", data, "--cache", cache, "--encoder", "conformer")  # does not
    (cache / "molecule" / "000000.tar").write_bytes(b"damaged")
    assert "1 shard was bad" in done("repair", cache, "--data", data, "--device", "cpu").output
    done("peek", cache, "x.smi/amine", "--out", tmp_path / "amine.png")


def test_a_plan_of_an_earlier_version_keeps_its_keys(data, tmp_path):
    """Its options lack the setting, and its stamps are those that it was planned with."""
    cache = tmp_path / "c"
    source = Molecules(data)
    size = data.stat().st_size
    assert dict(source.listing()) == {f"x.smi/{i:06d}": f"{size}-2" for i in range(4)}
    settings = {"pipeline": "geom", "domain": "molecule", "source": "molecules"}
    frozen = plan.freeze(cache, source.listing(), shard_size=1024, options={}, **settings)
    before = (cache / "manifest.json").read_bytes()

    words = ("build", "geom", "--data", data, "--cache", cache, *WORDS)
    done(*words, "--set", "source.names=none", "--cache", tmp_path / "like")
    for name in ("column.json", "000000.tar", "000000.json"):
        (cache / "molecule").mkdir(exist_ok=True)
        (cache / "molecule" / name).write_bytes(
            (tmp_path / "like" / "molecule" / name).read_bytes()
        )
    assert plan.load(tmp_path / "like").keys == frozen.keys
    done(*words)
    done(*words, "--encoder", "conformer")
    assert plan.load(cache) == frozen and (cache / "manifest.json").read_bytes() == before
    (cache / "molecule" / "000000.tar").write_bytes(b"damaged")
    assert "1 shard was bad" in done("repair", cache, "--data", data, "--device", "cpu").output
    assert not run("verify", cache, "--deep").exit_code
    marker = schema.load_marker(cache, schema.load_column(cache, "conformer"), 0)
    assert sorted(marker.keys) == [f"x.smi/{i:06d}" for i in range(4)]

    # With the setting it would be another plan, which is told.
    asked = run(*words, "--set", "source.names=auto")
    assert asked.exit_code == 2 and "was built with source.names = " in asked.stderr
    done(*words, "--rebuild")
    assert sorted(plan.load(cache).keys) == [f"x.smi/{name}" for name in NAMES]


def test_an_extension_of_a_folder_keeps_the_names(tmp_path):
    folder, cache = tmp_path / "data", tmp_path / "c"
    folder.mkdir()
    (folder / "b.smi").write_text("CCO x\nCN y\n")
    words = ("build", "geom", "--data", folder, "--cache", cache, *WORDS)
    done(*words)
    (folder / "a.smi").write_text("CCCO x\n")  # the same name in another file, which comes first
    done(*words, "--extend")
    assert sorted(plan.load(cache).keys) == ["a.smi/x", "b.smi/x", "b.smi/y"]
    with open_cache(cache) as opened:
        assert opened["molecule/smiles"]["b.smi/x"] == "CCO"


def test_arrays_of_ones_own_are_given_by_name(data, tmp_path):
    arrays = {f"x.smi/{name}": np.full(2, i, np.float32) for i, name in enumerate(NAMES)}
    np.savez(tmp_path / "mine.npz", **arrays)
    words = ("--encoder", "mine=array-file", "--set", f"mine.file={tmp_path / 'mine.npz'}")
    words += ("--set", "mine.channels=2")
    done("build", "geom", "--data", data, "--cache", tmp_path / "c", *words, "--device", "cpu")
    with open_cache(tmp_path / "c") as opened:
        assert opened["mine/array"]["x.smi/methanol"].tolist() == [2, 2]
