"""Designing for a user's structure, and measuring a run, by the command line."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed.chem.protein import ALPHABET
from reed.cli.evaluate import main as evaluate
from reed.cli.sample import main as sample
from reed.cli.train import main as train
from reed.domains.protein import ProteinDomain, Structure
from reed.evaluate.protein import recovery
from reed.evaluate.record import Record
from reed.metrics.folding import Folded
from reed.sample.outputs.protein import structure_in
from reed.sample.sampler import Sampler

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
    where = ("--run", run, "--structure", structure, "--steps", 20, "--out", out)
    return invoke(sample, *where, "--num", 3, *words)


def test_a_trained_run_says_how_to_draw_from_it(run, tmp_path, monkeypatch):
    monkeypatch.setattr("reed.train.loop.train", lambda settings: settings.steps)
    plain = {"align": {}, "curriculum": {}}
    monkeypatch.setattr("reed.pipelines.recipe", lambda *_: plain)  # of proteins-toy, with ESM-2
    code, said = invoke(train, "--config", run / "config.json")
    assert code == 0, said
    line = f"{run}: trained; draw samples with: reed-sample --run {run} --structure FILE"
    assert said.splitlines()[-1] == line
    words = line.partition("reed-sample ")[2].replace("FILE", str(PDB.straight(tmp_path / "a.pdb")))
    code, said = invoke(sample, *words.split(), "--num", 1, "--steps", 2, "--out", tmp_path / "s")
    assert code == 0, said


def test_designs_need_no_cache(cache, run, tmp_path):
    path, moved = PDB.straight(tmp_path / "mine.pdb"), cache.with_name("moved")
    design(run, path, tmp_path / "with")
    cache.rename(moved)
    try:
        code, said = design(run, path, tmp_path / "without")
    finally:
        moved.rename(cache)
    assert code == 0, said
    first, second = (tmp_path / f"{name}.fasta" for name in ("with", "without"))
    assert entries(first) == entries(second)


def test_a_structure_file_becomes_fasta(run, tmp_path):
    path = PDB.straight(tmp_path / "mine.pdb", 40, chains="AB")
    code, said = design(run, path, tmp_path / "out")
    out = tmp_path / "out.fasta"
    assert code == 0 and f"  {out}\n  {tmp_path / 'out.json'}\n" in said
    found = entries(out)
    native = ["GASLKVTDFH"[i % 10] for i in range(40)] * 2
    assert len(found) == 3
    for number, (header, text) in enumerate(found.items()):
        first, second = text.split("/")
        assert len(first) == len(second) == 40 and set(first + second) <= set(ALPHABET[:20])
        share = np.mean([a == b for a, b in zip(first + second, native, strict=True)])
        assert header == f"mine design={number} step=3 steps20-T0.1 recovery={share:.4f}"
    assert len(out.read_text().splitlines()[1]) == 60
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["kind"] == "protein" and told["files"] == {"out.fasta": 3}
    (structure,) = told["structures"]
    assert structure["name"] == "mine" and len(structure["sha256"]) == 64


def test_a_structure_without_protein_does_not_keep_others_back(run, tmp_path):
    empty, path = tmp_path / "ions.pdb", PDB.straight(tmp_path / "mine.pdb")
    empty.write_text(
        "HETATM    1 ZN    ZN A   1       0.000   0.000   0.000  1.00  0.00          ZN\n"
    )
    code, said = design(run, empty, tmp_path / "out", "--structure", path)
    assert code == 2 and f"Error: cannot design for {empty}: " in said
    (written,) = tmp_path.glob("out-mine-*.fasta")
    assert len(entries(written)) == 3


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


def test_the_jobs_of_an_array_share_the_designs(run, tmp_path, monkeypatch):
    """Each job drew all of them, and both wrote one file."""
    path, drawn, whole = PDB.straight(tmp_path / "a.pdb"), [], Sampler.batch

    def batch(sampler, number, *more):
        drawn.append(number)
        return whole(sampler, number, *more)

    monkeypatch.setattr(Sampler, "batch", batch)
    words = ("--batch", 1, "--array")
    code, said = design(run, path, tmp_path / "s", *words, "0/2")
    assert code == 0 and "1 of 3 parts are left to other processes" in said
    assert drawn == [0, 2] and not (tmp_path / "s.fasta").exists()
    assert design(run, path, tmp_path / "s", *words, "1/2")[0] == 0 and drawn == [0, 2, 1]
    design(run, path, tmp_path / "once", "--batch", 1)
    assert (tmp_path / "s.fasta").read_text() == (tmp_path / "once.fasta").read_text()


def test_a_job_without_a_batch_is_told_how_to_divide_few_designs(run, tmp_path):
    """By default three designs are one batch, which the first job draws."""
    path, out = PDB.straight(tmp_path / "a.pdb"), tmp_path / "s"
    code, said = design(run, path, out, "--num", 3, "--array", "1/2")
    assert code == 0 and "share 1/2 has nothing to draw" in said
    assert "3 samples in batches of 3 are 1 in all" in said
    assert "use a new --out with --batch 1 in all jobs" in said
    code, said = design(run, path, out, "--num", 3, "--array", "0/2")
    assert code == 0 and "nothing to draw" not in said and len(entries(tmp_path / "s.fasta")) == 3
    code, said = design(run, path, tmp_path / "t", "--num", 3, "--batch", 1, "--array", "1/2")
    assert code == 0 and "nothing to draw" not in said
    code, said = design(run, path, tmp_path / "t", "--num", 3, "--batch", 1, "--array", "4/5")
    assert code == 0 and "use at most 3 shares in all jobs" in said


def test_designs_are_added_to_and_not_taken_away(run, tmp_path):
    path, out = PDB.straight(tmp_path / "a.pdb"), tmp_path / "s"
    assert design(run, path, out, "--num", 2)[0] == 0
    first = entries(tmp_path / "s.fasta")
    code, said = design(run, path, out, "--num", 5)  # a batch of 2, as the first were drawn
    assert code == 0, said
    found = entries(tmp_path / "s.fasta")
    assert len(found) == 5 and list(found.items())[:2] == list(first.items())
    code, said = design(run, path, out, "--num", 4)
    assert code == 2 and "has 5 samples, more than 4" in said
    code, said = design(run, path, out, "--num", 5, "--temperature", 1)
    assert code == 2 and "temperature = 0.1, now it is 1.0" in said


def test_structures_of_one_name_do_not_meet(run, tmp_path):
    """The second overwrote the first."""
    one, two = (tmp_path / name / "x.pdb" for name in ("one", "two"))
    for path, length in ((one, 30), (two, 34)):
        path.parent.mkdir()
        PDB.straight(path, length)
    words = ("--run", run, "--steps", 5, "--num", 1)
    names = [("--structure", path) for path in (one, two, one)]
    code, said = invoke(sample, *words, *(word for pair in names for word in pair))
    assert code == 0, said
    drawn = sorted((run / "samples").glob("*-x-*.fasta"))
    assert sorted(len(*entries(path).values()) for path in drawn) == [30, 34]
    assert all(str(path) in said for path in drawn)
    code, _ = invoke(sample, *words, "--structure", two, "--out", tmp_path / "o")
    assert code == 0 and (tmp_path / "o.fasta").is_file()
    code, said = invoke(sample, *words, "--structure", one, "--out", tmp_path / "o")
    assert code == 2 and "was drawn with structures = " in said


def test_structures_that_differ_in_the_ending_do_not_meet(run, tmp_path):
    for name, length in (("1abc.pdb", 30), ("1abc.ent", 34)):
        PDB.straight(tmp_path / name, length)
    names = [word for path in sorted(tmp_path.iterdir()) for word in ("--structure", path)]
    code, said = invoke(
        sample, "--run", run, "--steps", 5, "--num", 1, *names, "--out", tmp_path / "o"
    )
    assert code == 0, said
    drawn = sorted(tmp_path.glob("o-1abc-*.fasta"))
    assert sorted(len(*entries(path).values()) for path in drawn) == [30, 34]


def test_what_cannot_be_designed_for_is_one_line(run, tmp_path):
    (tmp_path / "no.pdb").write_text("REMARK nothing\n")
    for structure, words, said in (
        (tmp_path / "none.pdb", (), f"no structure at {tmp_path / 'none.pdb'}"),
        (tmp_path / "no.pdb", (), "no.pdb holds no atoms"),
        (PDB.straight(tmp_path / "a.pdb"), ("--order", "puritan"), "'puritan'"),
        (tmp_path / "a.pdb", ("--guidance", "2"), "--guidance is for images; "),
        (tmp_path / "a.pdb", ("--png",), "--png is for images; "),  # it was ignored
        (tmp_path / "a.pdb", ("--set", "stepps=2"), "no option 'stepps'. Did you mean 'steps'?"),
    ):
        code, output = design(run, structure, tmp_path / "out", *words)
        assert code == 2 and said in output and len(output.splitlines()) == 1, output
    code, output = invoke(sample, "--run", run, "--num", 1)
    assert code == 2 and "name one with --structure" in output


def test_a_structure_is_for_a_run_on_proteins(tmp_path):
    images = TINY.trained(TINY.settings(TINY.build(tmp_path / "cache"), tmp_path / "r", steps=1))
    code, output = design(images, PDB.straight(tmp_path / "a.pdb"), tmp_path)
    assert code == 2 and "--structure is for proteins; " in output
    code, output = invoke(evaluate, images, "--reference", tmp_path / "cache")
    assert code == 2 and f"{images} is a run on images: measure samples" in output
    assert f"reed-sample --run {images}" in output


def values(path):
    return {name: each["value"] for name, each in Record.read(path).metrics.items()}


class Fold:
    """A stand-in for ESMFold: random coordinates."""

    def __init__(self, folder, device):
        assert str(folder) == "esmfold"

    def __call__(self, sequence):
        length = len(sequence)
        coords = np.random.default_rng(length).standard_normal((length, 3, 3)) * 5
        return Folded(coords, np.full(length, 50.0))


def test_a_run_is_measured_on_a_cache(run, cache, monkeypatch):
    code, output = invoke(evaluate, run, "--reference", cache, "--steps", 30)
    assert code == 0, output
    out = run / "step-0000003.eval.json"
    record, found = Record.read(out), values(out)
    assert output.rstrip().endswith(str(out)) and "one_shot_recovery" in output
    assert record.kind == "protein" and record.samples["num"] == CHAINS.PROTEINS
    assert record.recipe["sampling"] == "steps30-T0.1" and record.recipe["step"] == 3
    assert 0 <= found["recovery"] <= 1 and found["perplexity"] > 1 and "perplexity_at 0.1" in found
    assert not any(name.startswith("sc_") for name in found)

    monkeypatch.setattr("reed.evaluate.designs.EsmFold", Fold)
    code, output = invoke(evaluate, run, "--reference", cache, "--steps", 5, "--esmfold", "esmfold")
    assert code == 0, output
    found = values(out)
    assert found["plddt_mean"] == 50 and found["share_plddt_above_80"] == 0
    assert 0 < found["sc_tm_mean"] < 0.5 and found["sc_rmsd_median"] > 2
    page = (HERE.parent / "docs" / "evaluation.md").read_text()
    section = page.partition("\n## Proteins\n")[2].partition("\n## ")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = [name for cell in first for name in re.findall(r"`(.*?)`", cell)]
    assert sorted(named) == sorted(found)


def test_all_averages_of_a_run_are_measured_in_one_call(run, cache, tmp_path):
    """Each as if it were the only one: the second is the average of the other run."""
    settings = CHAINS.settings(cache, tmp_path / "several", steps=3, ema=[0.5, 0.9])
    several = TINY.trained(settings)
    how = ("--reference", cache, "--steps", 5)
    words = [str(word) for word in (several, *how, "--ema", "all")]
    done = CliRunner().invoke(evaluate, words)
    assert done.exit_code == 0, done.output
    records = [several / f"step-0000003{way}.eval.json" for way in ("", "-ema-0.9")]
    assert [Record.read(path).recipe["ema"] for path in records] == ["0.5", "0.9"]
    assert invoke(evaluate, run, *how, "--out", tmp_path / "alone.json")[0] == 0
    assert values(records[1]) == values(tmp_path / "alone.json") != values(records[0])

    # one table, with a line for each
    names, *lines = (line.split() for line in done.stdout.splitlines()[:3])
    assert names[1] == "perplexity" and [line[:2] for line in lines] == [
        ["several,", "0.5"],
        ["several,", "0.9"],
    ]
    assert [line[2] for line in lines] == [f"{values(p)['perplexity']:.4f}" for p in records]
    assert all(f"of several, {name} against {cache}: " in done.stdout for name in ("0.5", "0.9"))

    # the first is meant where none is named; one that is not there is no record's
    code, said = invoke(evaluate, several, *how, "--ema", "0.99")
    assert code == 2 and "has no average 0.99; it has 0.5, 0.9" in said
    code, said = invoke(evaluate, several, *how, "--ema", "all", "--out", tmp_path / "x.json")
    assert code == 2 and "x.json is one record, and 2 sets are measured; leave it out" in said


def test_a_measured_run_draws_one_design_per_structure_and_the_same_ones(run, cache, monkeypatch):
    """A batch of 64 was filled up with designs for the longest structure."""
    asked, whole = [], ProteinDomain.generate

    def generate(domain, net, fields, indices, options):
        asked.append((indices, options))
        return whole(domain, net, fields, indices, options)

    monkeypatch.setattr(ProteinDomain, "generate", generate)
    size = CHAINS.PROTEINS - 3
    code, output = invoke(
        evaluate, run, "--reference", cache, "--steps", 20, "--batch", size, "--device", "cpu"
    )
    assert code == 0, output
    assert [list(indices) for indices, _ in asked] == [[*range(size)], [*range(size, size + 3)]]
    sampler, options = Sampler.of_run(run), asked[0][1]
    parts = [sampler.batch(number, options, size)["sequence"].tolist() for number in range(2)]
    needed = sampler.draw(size + 3, options, batch=size, whole=False, progress=False)
    assert needed["sequence"].tolist() == (parts[0] + parts[1])[: size + 3]
    assert values(run / "step-0000003.eval.json")["recovery"] == pytest.approx(
        recovery(needed["sequence"].tolist(), options.structures)["recovery"]
    )


def test_designs_are_measured_against_their_structure(run, cache, tmp_path, monkeypatch):
    """Today's fault: "File is not a zip file"."""
    path = PDB.straight(tmp_path / "mine.pdb", 40)
    design(run, path, tmp_path / "s")
    monkeypatch.setattr("reed.evaluate.designs.EsmFold", Fold)
    words = (evaluate, tmp_path / "s.fasta", "--reference")
    code, said = invoke(*words, path, "--num", 3, "--esmfold", "esmfold")
    assert code == 0 and "3 designs of" in said, said
    record, found = Record.read(tmp_path / "s.eval.json"), values(tmp_path / "s.eval.json")
    headed = [float(header.rpartition("=")[2]) for header in entries(tmp_path / "s.fasta")]
    assert found["recovery"] == pytest.approx(np.mean(headed), abs=1e-4)
    assert found["plddt_mean"] == 50 and found["residues"] == 120
    assert record.recipe["temperature"] == 0.1 and record.kind == "protein"
    other = PDB.straight(tmp_path / "other.pdb", 41)
    for reference, more, part in (
        (cache, (), "has designs for 'mine', which is not in"),
        (other, (), "a design for 'mine' has 40 residues, 'other' in"),
        (path, ("--num", 4), "holds 3 samples, --num says 4"),
    ):
        code, said = invoke(*words, reference, *more)
        assert code == 2 and part in said and "Traceback" not in said, said
    for text, part in (("AC", "a FASTA begins with '>'"), (">a\nAB\n", "'B', which is no residue")):
        (tmp_path / "bad.fasta").write_text(text)
        code, said = invoke(evaluate, tmp_path / "bad.fasta", "--reference", path)
        assert code == 2 and part in said, said


def test_a_structure_holds_what_the_file_says(tmp_path):
    found = structure_in(PDB.straight(tmp_path / "ab.pdb", 40, chains="AB"))
    assert isinstance(found, Structure) and found.name == "ab"
    assert found.coords.shape == (80, 4, 3) and found.resolved.all()
    assert (
        found.number[40] - found.number[39] == 101 and found.chain.tolist() == [0] * 40 + [1] * 40
    )
