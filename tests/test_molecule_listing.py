"""Files of molecules as people have them: endings, line ends, separators, encodings, headers."""

from __future__ import annotations

import gzip
import json
import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from reed.build.shard import BadSample
from reed.chem import sdf_text
from reed.cli.cache import main
from reed.errors import ReedError
from reed.sources.molecule import entries
from reed.sources.molecule.molecules import Molecules

DATA = Path(__file__).with_name("data") / "molecules"
TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_molecules.py"))))
FIVE = ["CCO", "CC(N)=O", "Oc1cccnc1", "C1CCOC1", "NCC(=O)O"]
DRUGS = [
    "CC(C)(C)c1ccc2occ(CC(=O)Nc3ccccc3F)c2c1",
    "C[C@@H]1CC(Nc2cncc(-c3nncn3C)c2)C[C@@H](C)C1",
    "N#Cc1ccc(-c2ccc(O[C@@H](C(=O)N3CCCC3)c3ccccc3)cc2)cc1",
    "CCO",
]


def texts(path: Path, **settings) -> list[str]:
    """The SMILES of the entries of a list, as they are written."""
    smiles = settings.get("smiles", "")
    return [entries.smiles_of(path, i, smiles) for i in range(entries.count(path, smiles))]


def of_sdf(path: Path) -> list[str]:
    source = Molecules(path)
    return [source.read(key)["smiles"] for key in source.listing()]


# ---- SDF


@pytest.mark.parametrize("name", ["nodollar", "cr", "latin1"])
def test_an_sdf_is_cut_by_its_content(name):
    assert of_sdf(DATA / f"{name}.sdf") == FIVE


@pytest.mark.parametrize(
    "name", ["A.SDF", "a.Sdf", "a.SD", "a.MOL", "a.mol.gz", "A.SD.GZ", "a.sdf"]
)
def test_endings_are_compared_in_lower_case(tmp_path, name):
    content = TINY.sdf(tmp_path / "x.sdf", TINY.SMILES[:2]).read_bytes()
    packed = name.lower().endswith(".gz")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(gzip.compress(content) if packed else content)
    for data in (tmp_path / "data", tmp_path / "data" / name):
        listing = Molecules(data).listing()
        assert list(listing) == [f"{name}/000000", f"{name}/000001"] and not listing.passed


def test_gzip_is_told_by_content(tmp_path):
    """A browser may have unpacked a .gz, and a packed file may have lost its ending."""
    content = TINY.sdf(tmp_path / "x.sdf", TINY.SMILES[:2]).read_bytes()
    (tmp_path / "x.sdf").write_bytes(gzip.compress(content))
    (tmp_path / "y.sdf.gz").write_bytes(content)
    assert entries.count(tmp_path / "x.sdf") == entries.count(tmp_path / "y.sdf.gz") == 2


def test_data_between_blocks_without_dollars(tmp_path):
    """A property may follow a mol block that is not closed, and may itself be a mol block."""
    first, second = (TINY.block(text).removesuffix("$$$$\n") for text in ("CSC", "C#N"))
    (tmp_path / "x.sdf").write_text(f"{first}> <logP>\n1.5\n\n{second}$$$$\n")
    assert of_sdf(tmp_path / "x.sdf") == ["CSC", "C#N"]
    (tmp_path / "y.sdf").write_text(f"{first}> <other form>\n{second}\n$$$$\n{second}$$$$\n")
    assert of_sdf(tmp_path / "y.sdf") == ["CSC", "C#N"]


@pytest.mark.parametrize(
    "change", [str.lstrip, lambda text: "\n" + text, lambda text: "\n\n" + text]
)
def test_a_header_that_lost_or_gained_blank_lines(tmp_path, change):
    block = TINY.block("CSC").split("\n", 1)[1]  # without its name: the first line is blank
    (tmp_path / "x.sdf").write_text(change("\n" + block) + TINY.block("C#N"))
    assert of_sdf(tmp_path / "x.sdf") == ["CSC", "C#N"]


def test_a_mol_block_ends_at_its_end():
    block = TINY.block("CSC").removesuffix("$$$$\n")
    for ends in ("\n", "\r\n", "\r"):
        text = (block + "> <x>\nV2000\n\n$$$$\n").replace("\n", ends)
        assert sdf_text.mol_block(text) == block
        assert sdf_text.spans(text.encode() * 2) == [(0, len(text)), (len(text), 2 * len(text))]
    assert sdf_text.spans(b"") == sdf_text.spans(b"\n \r\n") == []
    assert sdf_text.spans(b"a$$$$\nV2000\n$$$$") == [(0, 16)]


# ---- lists


@pytest.mark.parametrize("name", ["zinc.csv", "semi.csv", "smihead.smi"])
def test_lists_as_databases_write_them(tmp_path, name):
    assert texts(DATA / name) == DRUGS
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress((DATA / name).read_bytes()))
    assert texts(tmp_path / f"{name}.gz") == DRUGS
    assert len(Molecules(tmp_path).listing()) == 4


def test_the_column_that_is_called_smiles_is_read():
    assert texts(DATA / "twocol.csv") == ["Cc1ccccc1O", "NC1CCCCC1"]
    assert texts(DATA / "twocol.csv", smiles="scaffold_smiles") == ["c1ccccc1", "C1CCCCC1"]
    assert texts(DATA / "tsv.csv") == ["CCO", "CCN"]


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("x.csv", "CCO;ethanol\nCCN;x,y\n", ["CCO", "CCN"]),
        ("x.tsv", 'name\tSMILES\n"a\tb"\tCCO\n5" x\tCCN\n"\tCCC\n', ["CCO", "CCN", "CCC"]),
        ("x.csv", "\ufeffSmiles\r\nCCO\r\n\r\nCCN", ["CCO", "CCN"]),
        ("x.csv", 'a,smiles\n"x\n""y""\nz",CCO\n,CCN\n', ["CCO", "CCN"]),
        ("x.csv", 'id, smiles\r1, CCO\r2, "CCN"\r', ["CCO", "CCN"]),
        ("x.csv", "isomeric_smiles|id\nC/C=C/C|1\n", ["C/C=C/C"]),
        ("x.smi", "zinc_id smiles\nZ1 CCO\n", ["CCO"]),
        ("x.smi", "my id\tcanonical SMILES\nZ 1\tCCO\n", ["CCO"]),
        ("x.smi", "SMILES\nCCO\n", ["CCO"]),
        ("x.smi", "CCO my smiles\nCCN |$;;$|\n", ["CCO", "CCN"]),
        ("x.smi", "CCO\tyour smiles\nCCN\t2\n", ["CCO", "CCN"]),
        ("x.SMI", " \t\nCCO a,b smiles\n", ["CCO"]),
        ("x.ism", "CCO 1\n", ["CCO"]),
        ("x.smi", "CCO,ethanol\nCCN,my amine\n", ["CCO", "CCN"]),
        ("x.smi", "CCO,my smiles\nCCN,2\n", ["CCO", "CCN"]),
        ("x.smi", "CCO, ethanol\nnonsense(, 2\n", ["CCO", "nonsense("]),
        ("x.smi", "CCO;ethanol\nCCN;2\n", ["CCO", "CCN"]),
        ("x.csv", "sep=;\nname;smiles\na,b;CCO\n", ["CCO"]),
        ("x.csv", '"sep=,"\r\nCCO,1;2;3\r\n', ["CCO"]),
        ("x.csv", "\ufeffSEP=\t\nsmiles\tid\nCCO\t1\n", ["CCO"]),
        ("x.smi", "sep=:\nCCO:1\nCCN:2\n", ["CCO", "CCN"]),
    ],
)
def test_what_separates_cells_is_told_by_content(tmp_path, name, text, want):
    (tmp_path / name).write_bytes(text.encode())
    assert texts(tmp_path / name) == want
    (tmp_path / name).write_bytes(text.removeprefix("\ufeff").encode("utf-16"))
    assert texts(tmp_path / name) == want
    assert len(Molecules(tmp_path).listing()) == len(want)


def test_names_in_latin_1_lose_no_molecule(tmp_path):
    (tmp_path / "x.csv").write_bytes("name,smiles\nMüller,CCO\n".encode("latin-1"))
    (tmp_path / "y.smi").write_bytes("CCN Müller\n".encode("latin-1"))
    assert texts(tmp_path / "x.csv") == ["CCO"] and texts(tmp_path / "y.smi") == ["CCN"]


def test_several_columns_of_smiles_are_refused_by_name(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("cid,Canonical_SMILES,isomeric_smiles,mol\n1,CC=CC,C/C=C/C,CCO\n")
    names = "columns 'Canonical_SMILES', 'isomeric_smiles' may all"
    with pytest.raises(ReedError, match=f"{names}.*--set source.smiles=Canonical_SMILES"):
        Molecules(path).listing()
    chosen = Molecules(path, smiles="isomeric_smiles")
    assert [chosen.read(key)["smiles"] for key in chosen.listing()] == ["C/C=C/C"]
    assert texts(path, smiles="MOL") == ["CCO"]
    with pytest.raises(ReedError, match="no column 'drug'; its first line is 'cid, Canonical_S"):
        Molecules(path, smiles="drug").listing()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("product,reactant_smiles\nCC(=O)OC,CC(=O)O\nCCOC,\n", "'product', 'reactant_smiles'"),
        ("core_smiles\tname\tdrug\nc1ccccc1\ta\tCc1ccccc1\n", "'core_smiles', 'drug'"),
    ],
)
def test_another_column_that_holds_molecules_is_named(tmp_path, text, names):
    path = tmp_path / "x.csv"
    path.write_text(text)
    chosen = next(name for name in names.replace("'", "").split(", ") if "smiles" in name)
    with pytest.raises(ReedError, match=f"columns {names} may all.*source.smiles={chosen}"):
        Molecules(path).listing()
    assert len(Molecules(path, smiles=chosen).listing())


@pytest.mark.parametrize("other", ["formula,C2H6O", "atom,C", "code,CN", "note,ethanol"])
def test_a_column_of_other_words_is_no_rival(tmp_path, other):
    name, value = other.split(",", 1)
    (tmp_path / "x.csv").write_text(f"{name},canonical_smiles\n{value},CCO\n")
    assert len(Molecules(tmp_path).listing()) == 1


def test_a_row_of_more_cells_than_the_header_is_not_guessed(tmp_path):
    """A comma in a name that is not quoted moved the cells: CN would be stored for CCO."""
    (tmp_path / "x.csv").write_text("name,smiles\nb,CN,CCO\nc,CCN,,\n")
    source = Molecules(tmp_path)
    assert source.read("x.csv/000001")["smiles"] == "CCN" and len(source.listing()) == 2
    with pytest.raises(BadSample, match="has 3 cells, the first line names 2 columns; quote"):
        source.read("x.csv/000000")


def test_comments_and_zero_characters(tmp_path):
    (tmp_path / "x.smi").write_text("# my list\nCCO a\n#CCN b\n\nCCC c\nCC\0N\n")
    source = Molecules(tmp_path)
    listing = source.listing()
    assert list(listing) == ["x.smi/000001", "x.smi/000003", "x.smi/000004"]
    assert listing.counts == {"left out: without SMILES": 2}
    with pytest.raises(BadSample, match="it holds a zero character"):
        source.read("x.smi/000004")
    (tmp_path / "x.smi").write_text("#SMILES id\nCCO a\n")
    assert texts(tmp_path / "x.smi") == ["CCO"]


@pytest.mark.parametrize("text", ["ethanol CCO\namine CCN\n", "1,CCO\n2,CCN\n", "7\tCCO\n"])
def test_a_list_that_begins_with_names_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "x.smi").write_text(text)
    first = re.escape(repr(text.split("\n")[0]))
    with pytest.raises(ReedError, match=f"its first line is {first}: SMILES come first in a li"):
        Molecules(tmp_path).listing()
    (tmp_path / "y.smi").write_text("CCO\n")
    assert Molecules(tmp_path).listing().passed == {"no column of SMILES": ("x.smi",)}


# ---- what is passed over


def test_every_file_is_accounted_for(tmp_path):
    TINY.sdf(tmp_path / "gdb9.sdf", TINY.SMILES[:3])
    TINY.sdf(tmp_path / "more" / "B.SDF", TINY.SMILES[:1])
    (tmp_path / "gdb9.sdf.csv").write_text("mol_id,A\ngdb_1,157.7\n")
    (tmp_path / "uncharacterized.txt").write_text("    2  InChI=1/a  InChI=1/b\n")
    for name in ("a.mol2", "more/b.MOL2", "README", ".x.sdf", ".git/y.sdf", "more/list.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "folder.sdf").mkdir()
    listing = Molecules(tmp_path).listing()
    assert len(listing) == 3
    assert listing.passed == {
        "ending .mol2": ("a.mol2", "more/b.MOL2"),
        "no ending": ("README",),
        "hidden": (".git/y.sdf", ".x.sdf"),
        "ending .txt": ("more/list.txt",),
    }
    assert listing.counts == {"left out: uncharacterized": 1}
    assert listing.line.startswith("passed over 6 files: 2 .mol2 (a.mol2, more/b.MOL2), 2 hidden")


def test_a_list_beside_a_file_without_ending_is_no_companion(tmp_path):
    (tmp_path / "set").write_text("x")
    (tmp_path / "set.csv").write_text("smiles\nCCO\n")
    assert list(Molecules(tmp_path).listing()) == ["set.csv/000000"]


def test_files_beside_sets_with_a_layout_are_named(tmp_path):
    TINY.geom(tmp_path / "geom")
    shutil.copy(tmp_path / "geom/drugs/0000.pickle", tmp_path / "geom/drugs/9.pickle")
    TINY.sdf(tmp_path / "geom" / "x.sdf", TINY.SMILES[:1])
    passed = {"beside files of another layout": ("x.sdf",), "ending .pickle": ("drugs/9.pickle",)}
    assert Molecules(tmp_path / "geom").listing().passed == passed
    TINY.midi(tmp_path / "midi", train=TINY.SMILES[:1], val=TINY.SMILES[1:2])
    (tmp_path / "midi" / "notes.md").write_text("x")
    for split in ("all", "train"):
        listing = Molecules(tmp_path / "midi", split=split).listing()
        assert listing.passed == {"ending .md": ("notes.md",)}
    assert not Molecules(tmp_path / "midi" / "val_data.pickle").listing().passed


def test_build_and_info_count_what_is_passed_over_and_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    shutil.copy(DATA / "nodollar.sdf", tmp_path / "data" / "A.SDF")
    (tmp_path / "data" / "notes.txt").write_text("x")
    (tmp_path / "data" / "x.smi").write_text("C[Se]C\n")
    words = ["build", "geom", "--data", "data", "--cache", "c", "--set", "source.min_atoms=9"]
    built = CliRunner().invoke(main, [*words, "--encoder", "molecule", "--json"])
    assert built.exit_code == 0, built.output
    account = json.loads(built.stdout)
    assert account["samples"] == account["stored"] == 5
    assert account["passed_over"] == {"ending .txt": {"count": 1, "names": ["notes.txt"]}}
    assert account["counted"] == {"left out: element Se": 1}
    assert "left out: 1 element Se" in built.stderr
    told = CliRunner().invoke(main, ["info", "c"])
    assert "passed over 1 file: 1 .txt (notes.txt)" in told.stdout
    assert "left out: 1 element Se" in told.stdout


def test_a_list_whose_smiles_is_not_there(tmp_path):
    (tmp_path / "x.csv").write_text("id,smiles\n1\n2,\n3,NaN\n4,CCO\n5,N\n6,N/A\n")
    source = Molecules(tmp_path)
    listing = source.listing()
    assert list(listing) == ["x.csv/000003", "x.csv/000004"]
    assert listing.counts == {"left out: without SMILES": 4}
    lost = ("x.csv/000000", "x.csv/000001", "x.csv/000002", "x.csv/000005")
    assert listing.examples == {"left out: without SMILES": lost}
    with pytest.raises(BadSample, match="has no SMILES: the line has 1 of 2 cells"):
        source.read("x.csv/000000")
    with pytest.raises(BadSample, match="has no SMILES$"):
        source.read("x.csv/000001")


# ---- what a listing leaves out, and what it finds by content


def test_impossible_coordinates_and_unclear_bonds_are_left_out_and_counted():
    listing = Molecules(DATA / "zero3d.sdf").listing()
    assert list(listing) == [f"zero3d.sdf/{number:06d}" for number in range(2, 7)]
    assert listing.counts == {"left out: impossible coordinates": 2}
    first = ("zero3d.sdf/000000", "zero3d.sdf/000001")
    assert listing.examples == {"left out: impossible coordinates": first}
    unclear = Molecules(DATA / "bond4.sdf").listing()
    assert not unclear and unclear.counts == {"left out: unclear bonds of type 4": 1}


def test_what_is_impossible_is_named_in_the_line_in_info_and_in_json(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    shutil.copy(DATA / "zero3d.sdf", tmp_path / "data")
    (tmp_path / "data" / "x.csv").write_text("smiles\n" + "nan\n" * 4 + "CCO\n")
    words = ["build", "geom", "--data", "data", "--cache", "c", "--encoder", "molecule", "--json"]
    built = CliRunner().invoke(main, words)
    assert built.exit_code == 0, built.output
    what = "left out: impossible coordinates", "left out: without SMILES"
    lost = [f"zero3d.sdf/{i:06d}" for i in range(2)], [f"x.csv/{i:06d}" for i in range(4)]
    examples = json.loads(built.stdout)["examples"]
    assert {each: examples[each] for each in what} == dict(zip(what, lost, strict=True))
    said = "2 impossible coordinates (zero3d.sdf/000000, zero3d.sdf/000001), "
    said += "4 without SMILES (x.csv/000000, x.csv/000001, x.csv/000002, …)"
    assert f"left out: {said}" in built.stderr
    told = CliRunner().invoke(main, ["info", "c"]).stdout
    assert any(line.startswith(f"  left out: {said}; names: 2 ") for line in told.splitlines())


def test_a_table_of_properties_beside_molecules_is_passed_over(tmp_path):
    TINY.sdf(tmp_path / "m.sdf", TINY.SMILES[:2])
    (tmp_path / "props.csv").write_text("id,logP\nmol-1,2.5\nmol-2,0.1\n")
    listing = Molecules(tmp_path).listing()
    assert list(listing) == ["m.sdf/000000", "m.sdf/000001"]
    assert listing.passed == {"no column of SMILES": ("props.csv",)}


def test_a_table_without_a_column_of_smiles_alone_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("id,structure\n1,CCO\n2,CCN\n")
    with pytest.raises(ReedError, match=r"'id,structure'.*--set source.smiles=NAME"):
        Molecules(tmp_path).listing()
    assert len(Molecules(tmp_path, smiles="structure").listing()) == 2


def test_a_table_without_names_holds_smiles_if_one_is(tmp_path):
    (tmp_path / "t.csv").write_text("nonsense(,1\nCCO,2\n")
    assert list(Molecules(tmp_path).listing()) == ["t.csv/000000", "t.csv/000001"]


def test_a_packed_qm9_has_its_companions(tmp_path):
    content = TINY.sdf(tmp_path / "x.sdf", TINY.SMILES[:6]).read_bytes()
    (tmp_path / "x.sdf").unlink()
    (tmp_path / "gdb9.sdf.gz").write_bytes(gzip.compress(content))
    (tmp_path / "gdb9.sdf.csv").write_text("mol_id,A\ngdb_1,157.7\n")
    head = "Index  InChI\n==\n"
    (tmp_path / "uncharacterized.txt").write_text(head + "    5  InChI=1/a  InChI=1/b\n")
    listing = Molecules(tmp_path).listing()
    assert [int(key[-6:]) for key in listing] == [0, 1, 2, 3, 5] and not listing.passed


def test_an_empty_file_is_named(tmp_path):
    TINY.sdf(tmp_path / "m.sdf", TINY.SMILES[:1])
    (tmp_path / "empty.sdf").write_text("")
    (tmp_path / "head.csv").write_text("smiles,logP\n")
    listing = Molecules(tmp_path).listing()
    assert listing.passed == {"holds no molecule": ("empty.sdf", "head.csv")}
    for name in ("empty.sdf", "head.csv"):
        with pytest.raises(ReedError, match=f"{name} holds no molecule"):
            Molecules(tmp_path / name).listing()


@pytest.mark.parametrize("name", ["molecules", "molecules.txt", "m.sdf.old"])
def test_the_content_of_a_file_decides_where_its_ending_does_not(tmp_path, name):
    TINY.sdf(tmp_path / "x.sdf", TINY.SMILES[:2]).rename(tmp_path / name)
    source = Molecules(tmp_path)
    assert list(source.listing()) == [f"{name}/000000", f"{name}/000001"]
    assert source.read(f"{name}/000000")["smiles"] == TINY.sample(TINY.SMILES[0])["smiles"]


def test_names_without_smiles_are_no_molecule(tmp_path):
    """The second column holds SMILES, and some identifiers look like them."""
    (tmp_path / "t.csv").write_text("code,structure\nCN,CCO\nCO,CCN\n")
    with pytest.raises(ReedError, match=r"'code,structure'.*--set source.smiles=NAME"):
        Molecules(tmp_path).listing()
    (tmp_path / "t.csv").write_text("name,smiles (canonical)\na,CCO\n")
    assert texts(tmp_path / "t.csv") == ["CCO"]


def test_a_column_is_chosen_by_its_case(tmp_path):
    (tmp_path / "t.csv").write_text("SMILES,smiles\nC,CC\n")
    assert texts(tmp_path / "t.csv", smiles="SMILES") == ["C"]
    assert texts(tmp_path / "t.csv") == ["CC"]
