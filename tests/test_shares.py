"""reed-cache info shows letters, elements and classes by name, not the means of their numbers."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner

from reed import open_cache
from reed.cache import schema
from reed.cache.schema import Field
from reed.chem.protein import ALPHABET
from reed.cli.cache import main
from reed.view import info, shares

COLOURS = ("red", "green", "blue")


def below(lines, address):
    """The lines on a field."""
    place = next(i for i, line in enumerate(lines) if line.startswith(f"  {address}: "))
    rest = [line for line in lines[place + 1 :]]
    end = next((i for i, line in enumerate(rest) if not line.startswith("    ")), len(rest))
    return rest[:end]


def built(tmp_path, monkeypatch, pipeline, *words):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["build", pipeline, "--cache", "c", "--device", "cpu", *words])
    assert done.exit_code == 0, done.output
    return CliRunner().invoke(main, ["info", "c"]).output.splitlines()


def test_elements_charges_and_bonds_of_molecules(tmp_path, monkeypatch):
    """The line was "mean 2.53, std 0.7" of the places of symbols in a table."""
    (tmp_path / "x.smi").write_text("CCO\nC=O\n[NH4+]\nCCCl\n")
    words = ("--data", "x.smi", "--encoder", "molecule")
    lines = built(tmp_path, monkeypatch, "molecules", *words)
    (atoms,) = below(lines, "molecule/atoms")
    shown = "H 65.4 %, C 19.2 %, O 7.7 %, N 3.8 %, Cl 3.8 %"  # 17, 5, 2, 1, 1
    assert atoms == f"    shares of 26 in 4 samples: {shown}"
    (charges,) = below(lines, "molecule/charges")
    assert charges == "    shares of 26 in 4 samples: 0 96.2 %, +1 3.8 %"
    (orders,) = below(lines, "molecule/orders")
    assert orders == "    shares of 44 in 4 samples: single 95.5 %, double 4.5 %"
    assert below(lines, "molecule/partners") == []  # indices, whose mean says nothing
    assert "mean" in below(lines, "molecule/coords")[0]


def test_letters_of_proteins(tmp_path, monkeypatch):
    lines = built(tmp_path, monkeypatch, "proteins-toy", "--encoder", "chain", "--shards-to", "1")
    counts: Counter = Counter()
    with open_cache("c") as cache:
        there = [int(path.stem) for path in sorted((cache.folder / "chain").glob("0*.json"))]
        for _, residues in cache.records("chain/residue", shards=there):
            counts.update(residues.tolist())
    (found,) = below(lines, "chain/residue")
    want = [f"{ALPHABET[i]} {100 * n / counts.total():.1f} %" for i, n in counts.items()]
    assert sorted(found.partition(": ")[2].split(", ")) == sorted(want)
    assert found.startswith(f"    shares of {counts.total():,} in ") and len(want) > 15
    assert below(lines, "chain/neighbours") == below(lines, "chain/number") == []


@pytest.fixture
def labelled(fakes, tmp_path):
    """Labels of three classes of which two are used, and labels that no list names."""

    class Labels(fakes.Encoder):
        reads = ("label",)
        fields = (Field("label", "label", (), "uint8"), Field("number", "label", (), "int32"))

        def one(self, sample):
            return int(sample["label"] % 4 == 0) * 2, sample["label"]

    class Others(Labels):
        reads = ("sentence",)
        fields = (Field("length", "label", (), "int64"),)

        def one(self, sample):
            return (int(sample["sentence"][0] == "a") + len(sample["sentence"]),)

    source = fakes.Source(20)
    classes = {"classes": list(COLOURS)}
    frozen = fakes.freeze(tmp_path, source, shard_size=8, options=classes, flip=True)
    for name, encoder in (("kinds", Labels()), ("others", Others())):
        job = fakes.column.open_job(tmp_path, frozen, name, encoder, source)
        fakes.engines.run(job, fakes.Share(), progress=False)
    return tmp_path


def test_classes_have_names_where_the_cache_names_them(fakes, labelled):
    lines = list(info.lines(labelled))
    zero = sum(number % 10 % 4 == 0 for number in range(20))
    assert below(lines, "kinds/label") == [
        f"    shares of 20 samples: red {100 * (20 - zero) / 20:.1f} %, blue {5 * zero:.1f} %"
    ]
    (numbers,) = below(lines, "kinds/number")  # beyond the names, numbers are shown
    assert numbers.startswith("    shares of 20 samples: ") and "9 10.0 %" in numbers
    (others,) = below(lines, "others/length")  # not the labels of the source
    lengths = Counter(
        1 + len(fakes.Source().read(key)["sentence"]) for key in fakes.Source(20).keys
    )
    assert set(others.partition(": ")[2].split(", ")) == {
        f"{length} {5 * count:.1f} %" for length, count in lengths.items()
    }


def test_many_labels_without_names_are_counted(labelled, monkeypatch):
    monkeypatch.setattr(shares, "SHOWN", 2)
    lines = list(info.lines(labelled))
    (others,) = below(lines, "others/length")
    assert others.endswith("different labels of 20 samples")
    (named,) = below(lines, "kinds/number")
    assert named.endswith(", and 8 more")


def test_a_large_cache_is_not_read_as_a_whole(labelled, monkeypatch):
    monkeypatch.setattr(shares, "SAMPLES", 10)
    (line,) = below(list(info.lines(labelled)), "kinds/label")
    assert line.startswith("    shares of 10 samples: ")


def test_a_damaged_shard_does_not_hide_the_rest(labelled):
    (labelled / "kinds" / "000001.tar").write_bytes(b"x")
    lines = list(info.lines(labelled))
    (line,) = below(lines, "kinds/label")
    assert line.startswith("    shares cannot be read: ") and "000001.tar has 1 bytes" in line
    assert below(lines, "others/length")[0].startswith("    shares of 20")


def test_info_neither_imports_torch_nor_runs_a_users_own_encoder(labelled, edit_json):
    edit_json(labelled / "kinds" / "column.json", encoder="no_such_module:Labels")
    code = f"""import sys
from pathlib import Path
from reed.view import info
assert any("red" in line for line in info.lines(Path({str(labelled)!r})))
assert "torch" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)
    field = Field("label", "data", (None,), "int32")
    column = schema.load_column(labelled, "kinds")
    assert shares.symbols_of(column, field, COLOURS) is None
    numbers = np.unique(list(shares._counted(labelled, column, column.field("label"), range(3))[0]))
    assert numbers.tolist() == [0, 2]
