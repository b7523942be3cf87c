"""Designing for a user's structure, and measuring a run, by the command line."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed.chem.protein import ALPHABET
from reed.cli.evaluate import main as evaluate
from reed.cli.sample import main as sample
from reed.domains.protein import Structure
from reed.evaluate.protein import structure_in
from reed.metrics.folding import Folded

HERE = Path(__file__).parent
TINY = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_cache.py")))
CHAINS = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_chains.py")))
PDB = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_proteins.py")))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return CHAINS.build(tmp_path_factory.mktemp("proteins") / "cache")


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    return TINY.trained(CHAINS.settings(cache, tmp_path_factory.mktemp("run") / "r", steps=3))


def invoke(command, *words):
    done = CliRunner().invoke(command, [str(word) for word in words])
    return done.exit_code, done.output


def entries(path):
    """Header -> sequence."""
    parts = path.read_text().removeprefix(">").split("\n>")
    return {part.partition("\n")[0]: part.partition("\n")[2].replace("\n", "") for part in parts}


def design(run, structure, out, *words):
    return invoke(
        sample,
        "--run",
        run,
        "--structure",
        structure,
        "--num",
        3,
        "--steps",
        20,
        "--out",
        out,
        *words,
    )


def test_designs_need_no_cache(cache, run, tmp_path):
    path, moved = PDB.straight(tmp_path / "mine.pdb"), cache.with_name("moved")
    design(run, path, tmp_path / "with")
    cache.rename(moved)
    try:
        code, said = design(run, path, tmp_path / "without")
    finally:
        moved.rename(cache)
    assert code == 0, said
    first, second = (next((tmp_path / name).iterdir()) for name in ("with", "without"))
    assert entries(first) == entries(second)


def test_a_structure_file_becomes_fasta(run, tmp_path):
    path = PDB.straight(tmp_path / "mine.pdb", 40, chains="AB")
    code, said = design(run, path, tmp_path / "out")
    (out,) = (tmp_path / "out").iterdir()
    assert code == 0 and f"{out}: 3 sequences for {path}\n" in said
    assert out.name == "mine-step3-steps20-T0.1.fasta"
    found = entries(out)
    native = ["GASLKVTDFH"[i % 10] for i in range(40)] * 2
    for number, (header, text) in enumerate(found.items()):
        first, second = text.split("/")
        assert len(first) == len(second) == 40 and set(first + second) <= set(ALPHABET[:20])
        share = np.mean([a == b for a, b in zip(first + second, native, strict=True)])
        assert header == f"mine design={number} step=3 steps20-T0.1 recovery={share:.4f}"
    assert len(out.read_text().splitlines()[1]) == 60


def test_a_design_is_the_same_in_every_file_format_and_batch(run, tmp_path):
    path = PDB.straight(tmp_path / "mine.pdb", 40)
    import gemmi

    gemmi.read_structure(str(path)).make_mmcif_document().write_file(str(tmp_path / "mine.cif"))
    runs = {
        "a.fasta": (path, "--batch", 3),
        "b.fasta": (path, "--batch", 1),
        "c.fasta": (tmp_path / "mine.cif",),
        "d.fasta": (path, "--seed", 1),
    }
    texts = {}
    for name, (structure, *words) in runs.items():
        code, said = design(run, structure, tmp_path / name, *words)
        assert code == 0, said
        texts[name] = list(entries(tmp_path / name).values())
    assert texts["a.fasta"] == texts["b.fasta"] == texts["c.fasta"] != texts["d.fasta"]


def test_what_cannot_be_designed_for_is_one_line(run, tmp_path):
    (tmp_path / "no.pdb").write_text("REMARK nothing\n")
    for structure, words, said in (
        (tmp_path / "none.pdb", (), f"no structure at {tmp_path / 'none.pdb'}"),
        (tmp_path / "no.pdb", (), "no.pdb holds no atoms"),
        (PDB.straight(tmp_path / "a.pdb"), ("--order", "puritan"), "'puritan'"),
        (tmp_path / "a.pdb", ("--guidance", "2"), "'guidance'"),
    ):
        code, output = design(run, structure, tmp_path, *words)
        assert code == 2 and said in output and len(output.splitlines()) == 1, output
    code, output = invoke(sample, "--run", run, "--num", 1)
    assert code == 2 and "name one with --structure" in output


def test_a_structure_is_for_a_run_on_proteins(tmp_path):
    images = TINY.trained(TINY.settings(TINY.build(tmp_path / "cache"), tmp_path / "r", steps=1))
    code, output = design(images, PDB.straight(tmp_path / "a.pdb"), tmp_path)
    assert code == 2 and "--structure is for a run on proteins" in output
    code, output = invoke(evaluate, images, "--reference", tmp_path / "cache")
    assert code == 2 and "not on proteins" in output


def test_a_run_is_measured_on_a_cache(run, cache, monkeypatch):
    code, output = invoke(evaluate, run, "--reference", cache, "--steps", 30)
    assert code == 0, output
    out = run / "step-0000003.eval.json"
    found = json.loads(out.read_text())
    assert output.rstrip().endswith(str(out)) and "one_shot_recovery" in output
    assert found["structures"] == CHAINS.PROTEINS and found["sampling"] == "steps30-T0.1"
    assert 0 <= found["recovery"] <= 1 and found["perplexity"] > 1
    assert not any(name.startswith("sc_") for name in found)

    class Fold:
        def __init__(self, folder, device):
            assert str(folder) == "esmfold"

        def __call__(self, sequence):
            length = len(sequence)
            coords = np.random.default_rng(length).standard_normal((length, 3, 3)) * 5
            return Folded(coords, np.full(length, 50.0))

    monkeypatch.setattr("reed.metrics.folding.EsmFold", Fold)
    code, output = invoke(evaluate, run, "--reference", cache, "--steps", 5, "--esmfold", "esmfold")
    assert code == 0, output
    found = json.loads(out.read_text())
    assert found["plddt_mean"] == 50 and found["share_plddt_above_80"] == 0
    assert 0 < found["sc_tm_mean"] < 0.5 and found["sc_rmsd_median"] > 2


def test_a_structure_holds_what_the_file_says(tmp_path):
    found = structure_in(PDB.straight(tmp_path / "ab.pdb", 40, chains="AB"))
    assert isinstance(found, Structure) and found.name == "ab"
    assert found.coords.shape == (80, 4, 3) and found.resolved.all()
    assert (
        found.number[40] - found.number[39] == 101 and found.chain.tolist() == [0] * 40 + [1] * 40
    )
