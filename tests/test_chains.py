"""The real chains: laid out by family, and the sums of bench-chains."""

from __future__ import annotations

import gzip
import importlib
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import torch
from click.testing import CliRunner

from reed.errors import ReedError
from reed.experiments import real_chains
from reed.nets.mpnn import MPNN, MPNNConfig

BENCH = Path(__file__).with_name("bench")
TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_real.py"))))
WEIGHTS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_weights.py"))))
ATOM = "ATOM      1  N   ASP     1      37.433  20.702  -4.362  1.00  0.00    -0.411 N "


@pytest.fixture
def chains(monkeypatch, tmp_path):
    """The benchmark's module; it writes into a folder of the test."""
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("chains")


def archives(folder: Path, *missing: str) -> dict[str, Path]:
    """Both packages, with one target beside the held-out ones, and without what is missing."""
    held = [name for names in real_chains.HELD_OUT.values() for name in names.split()]
    text = f"ROOT\n{ATOM}\nENDROOT\nEND\n".encode()
    targets = {
        f"dockstring/resources/targets/{name}_target.pdbqt": text
        for name in (*held, "SRC")
        if name not in missing
    }
    place = "usr/share/doc/python-biopython-doc/Tests/PDB"
    names = [n for n in (*real_chains.ENTRIES.split(), "1XYZ") if n not in missing]
    files = {f"{place}/{name}.cif.gz": gzip.compress(name.encode()) for name in names}
    return {
        "dockstring": TINY.wheel(folder / "dockstring-0-py3-none-any.whl", targets),
        "python-biopython-doc": TINY.deb(folder / "doc.deb", files),
    }


def test_whole_families_are_held_out(tmp_path):
    real_chains.chains(archives(tmp_path), tmp_path / "out")
    found = {
        split: {path.name for path in (tmp_path / "out" / split).iterdir()}
        for split in ("train", "test")
    }
    assert "AR.pdb" in found["test"] and len(found["test"]) == 16
    assert found["train"] == {"SRC.pdb"} | {f"{e}.cif.gz" for e in real_chains.ENTRIES.split()}
    assert (tmp_path / "out" / "train" / "SRC.pdb").read_text() == f"{ATOM}\nEND\n"
    with pytest.raises(ReedError, match="dockstring lacks the structures AR, DHFR"):
        real_chains.chains(archives(tmp_path, "AR", "DHFR"), tmp_path / "other")
    with pytest.raises(ReedError, match="python-biopython-doc lacks the structures 1A8O"):
        real_chains.chains(archives(tmp_path, "1A8O"), tmp_path / "third")


def test_the_table_compares_pairs(chains):
    def runs(*recoveries: float) -> dict[int, dict[str, float]]:
        return {i: {"one_shot_recovery": r, "perplexity": 10 * r} for i, r in enumerate(recoveries)}

    found = {"plain": runs(0.1, 0.2, 0.3), "aligned": runs(0.2, 0.3, 0.4, 0.5)}
    likes = {"plain": "", "aligned": "plain"}
    lines = chains.paired.table(found, likes, chains.MEASURES)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:]]
    assert lines[0] == "3 seeds"
    assert cells[0][1].startswith("0.200 (") and cells[0][2:4] == ["", ""]
    assert cells[1][2:4] == ["0.1000 (0.1000 to 0.1000)", "better in 3 of 3, p = 0.250"]
    assert cells[1][5:] == ["1.0000 (1.0000 to 1.0000)", "better in 0 of 3, p = 0.250"]
    with pytest.raises(click.ClickException, match="no seed has all variants yet"):
        chains.paired.table(found | {"plain": {}}, likes, chains.MEASURES)
    found["aligned"][1]["perplexity"] = None  # counts for neither
    cells = chains.paired.table(found, likes, chains.MEASURES)[5].split(" | ")
    assert cells[4].endswith("none in 1") and cells[6].startswith("better in 0 of 2")


def test_every_variant_fits_its_recipe(chains, tmp_path, monkeypatch):
    """With --init, neighbours and noise are those of the file."""
    state = MPNN(MPNNConfig()).state_dict()
    names = {name: state[name] for name in WEIGHTS.mpnn_names()}
    path = tmp_path / "v_48_020.pt"
    torch.save({"num_edges": 48, "noise_level": 0.2, "model_state_dict": names}, path)
    monkeypatch.setitem(chains.INIT, "init", str(path))
    for data in ("chains", "proteins-toy"):
        for setting in ("cpu", "gpu"):
            variants = chains.variants_of(data, setting)
            assert {each.like for each in variants.values()} <= {"", *variants}
            for name, variant in variants.items():
                settings = chains.settings_of(data, variant, tmp_path, tmp_path / "run", 3)
                assert settings.seed == 3 and settings.every.save == settings.steps
                noise = 0.2 if "MPNN" in name else settings.domain["backbone_noise"]
                assert settings.domain["backbone_noise"] == noise


@pytest.mark.parametrize("data", ["chains", "proteins-toy"])
@pytest.mark.parametrize("setting", ["cpu", "gpu"])
def test_pairs_differ_in_alignment_alone(chains, data, setting):
    variants, recipe = chains.variants_of(data, setting), chains.pipelines.recipe(data)
    off = {"curriculum": dict.fromkeys(recipe["align"], 0.0)}
    pairs = [(each.over, variants[each.like].over) for each in variants.values() if each.like]
    merge = chains.config.merge
    assert pairs
    for ours, base in pairs:
        assert merge(merge(recipe, ours), off) == merge(recipe, base) != merge(recipe, ours)


def test_chains_goes_all_the_way_on_generated_proteins(chains, monkeypatch):
    """Two tiny runs in place of the recipe's; a rerun trains nothing."""
    small = {"hidden": 8, "encoder_layers": 2, "decoder_layers": 2, "neighbours": 4}
    over = {"steps": 2, "tokens": 300, "domain": {"net_settings": small}}
    pair = {
        "plain": chains.Variant(over),
        "aligned": chains.Variant(over, "plain"),
    }
    monkeypatch.setattr(chains, "variants_of", lambda *_: pair)
    run = chains.subprocess.run

    def few(words: list[str], **options):
        return run([re_sized(word) for word in words], **options)

    def re_sized(word: str) -> str:
        return "source.samples=6" if word.startswith("source.samples=") else word

    monkeypatch.setattr(chains.subprocess, "run", few)
    words = ["--data", "proteins-toy", "--seeds", "1"]
    done = CliRunner().invoke(chains.main, words, catch_exceptions=False)
    assert done.exit_code == 0 and "proteins-toy, cpu: 1 seed" in done.output
    root = Path("runs/bench/chains-proteins-toy-cpu")
    assert set(json.loads((root / "plain-0/measured.json").read_text())) == {
        each.name for each in chains.MEASURES
    }
    monkeypatch.setattr(chains, "train", None)
    again = CliRunner().invoke(chains.main, words, catch_exceptions=False)
    assert again.output.splitlines()[-8:] == done.output.splitlines()[-8:]


def test_what_is_missing_is_said(chains):
    done = CliRunner().invoke(chains.main, [])
    assert done.exit_code == 1 and "make data-chains" in done.output
