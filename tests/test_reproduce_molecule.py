"""make reproduce-molecule and demo-molecule: what they run; .ci/run goes through a smoke scale."""

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from reed.chem.molecule import Molecule
from reed.chem.rdkit import sanitised
from reed.experiments import command, demo_molecule, reproduce, reproduce_molecule
from reed.extras import pip_install


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """The programs it starts, of which reed-eval writes a record with the seed as validity."""
    commands = []

    def start(words, check):
        words = tuple(words[2:])  # python -m
        commands.append(words)
        if words[0] == "reed.cli.evaluate":
            record = Path(words[words.index("--out") + 1])
            record.parent.mkdir(parents=True, exist_ok=True)
            metrics = {"validity": {"value": float(words[1].removesuffix(".npz")[-1])}}
            rest = {"samples": {}, "reference": {}, "warnings": []}
            record.write_text(json.dumps({"metrics": metrics} | rest))
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(command.subprocess, "run", start)
    monkeypatch.chdir(tmp_path)
    return commands


def run(*words):
    return CliRunner().invoke(reproduce_molecule.main, words)


def test_two_runs_are_each_sampled_three_times(ran, tmp_path):
    done = run("--data", "/geom", "--unimol", "w.pt", "--posebusters")
    assert done.exit_code == 0, done.output
    assert [words[0].rpartition(".")[2] for words in ran] == [
        "cache",
        *2 * ("train", *3 * ("sample", "evaluate")),
    ]
    assert ran[0][-4:] == ("--encoder", "unimol", "--set", "unimol.weights=w.pt")
    assert {"source.split=train", "source.conformers=1", "/geom"} <= set(ran[0])
    measured = [words for words in ran if words[0] == "reed.cli.evaluate"]
    assert all(words[words.index("--reference") + 1] == ran[0][4] for words in measured)
    assert all(words[-1] == "--posebusters" for words in measured)
    trained = [words for words in ran if words[0] == "reed.cli.train"]
    assert [words.count("plain") for words in trained] == [1, 0]
    assert all('align.molecule.target="unimol/sample"' in words for words in trained)
    drawn = [words for words in ran if words[0] == "reed.cli.sample"]
    assert [words[words.index("--seed") + 1] for words in drawn] == 2 * ["0", "1", "2"]
    assert all(words[-4:] == ("--num", "1000", "--steps", "100") for words in drawn)
    row = "validity" + "1.0000 +- 1.0000".rjust(46) + "1.0000 +- 1.0000".rjust(24)
    assert row in done.output
    assert row in (tmp_path / "runs/reproduce-molecule/full/table.txt").read_text()


def test_a_measure_that_a_set_lacks_is_a_dash():
    records = {"plain": [{"a": 1.0, "b": 2.0}, {"a": 2.0}], "reed": [{"a": 0.0}, {"a": 0.0}]}
    head, a, b, *_ = reproduce.table_of(records).splitlines()
    assert head.split() == ["plain", "reed"] and b.split() == ["b", "-", "-"]
    assert a.split() == ["a", "1.5000", "+-", "0.7071", "0.0000", "+-", "0.0000"]


def test_posebusters_are_missed_before_the_work(ran, monkeypatch):
    monkeypatch.setitem(sys.modules, "posebusters", None)
    done = run("--data", "/geom", "--posebusters")
    assert done.exit_code == 2 and pip_install("posebusters") in done.output
    assert not ran


def test_data_and_the_smoke_scale_exclude_each_other(ran):
    for words in ([], ["--scale", "smoke", "--data", "/geom"]):
        done = run(*words)
        assert done.exit_code == 2 and "or SCALE=smoke alone" in done.output
    assert not ran


@pytest.mark.parametrize("shipped", [True, False])
def test_the_demo_takes_small_molecules_where_rdkit_ships_some(monkeypatch, shipped):
    commands = []

    def start(words, check):
        words = tuple(words[2:])  # python -m
        commands.append(words)
        if words[0] == "reed.cli.train":
            raise click.Abort
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(command.subprocess, "run", start)
    if not shipped:
        monkeypatch.setattr(demo_molecule, "LIST", Path("not/there.smi"))
    done = CliRunner().invoke(demo_molecule.main)
    assert ("the larger molecules of molecules-toy" in done.output) != shipped
    assert ("source.max_atoms=20" in commands[0]) == shipped and len(commands) == 2
    if shipped:
        assert Path(commands[0][commands[0].index("--data") + 1]).is_file()


def test_the_demo_draws_whatever_a_net_does(monkeypatch, tmp_path):
    rng, count = np.random.default_rng(0), 9
    kinds = np.triu(rng.integers(0, 5, (count, count)), 1).astype(np.uint8)
    wild = Molecule(
        rng.normal(size=(count, 3)).astype(np.float32),
        rng.integers(2, 8, count),
        rng.integers(-1, 2, count),
        kinds + kinds.T,
    )
    assert sanitised(wild) is None
    grid = tmp_path / "molecules.png"
    demo_molecule._draw_grid({"plain": [wild] * 7, "reed": [wild] * 7}, grid)
    with Image.open(grid) as picture:
        assert picture.size == (6 * 200, 2 * 180)
        assert picture.convert("L").getextrema()[0] < 100
