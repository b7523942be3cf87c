"""make reproduce-imagenet at smoke scale: the commands of the full scale on a few pictures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from reed.errors import ReedError
from reed.experiments import command, reproduce, reproduce_image, reproduce_protein
from reed.experiments.reproduce_image import Row

ROOT = Path(__file__).resolve().parent.parent

RECORD = {"samples": {}, "reference": {}, "warnings": []}  # beside the numbers


def make(folder, **env):
    venv = Path(sys.prefix)  # the environment that runs this test is the one that make uses
    words = ["reproduce-imagenet", "SCALE=smoke", f"SMOKE={folder}", f"VENV={venv}"]
    stamp = ["--assume-old", str(venv / ".reed-installed")]
    return subprocess.run(
        ["make", *stamp, *words], cwd=ROOT, env=os.environ | env, capture_output=True, text=True
    )


@pytest.mark.docs
@pytest.mark.timeout(900)  # a minute and a half on two idle cores
def test_every_stage_runs_writes_the_table_and_resumes(tmp_path):
    first = make(tmp_path)
    assert first.returncode == 0, first.stderr[-2000:]
    table = (tmp_path / "reed.md").read_text()
    assert table in first.stdout
    head, _, *rows = [line for line in table.splitlines() if line.startswith("|")]
    assert head.startswith("| steps | guidance | fid | sfid | is | precision | recall | REED, FID")
    assert [row.split(" | ")[:2] for row in rows] == [["| 4", "1"], ["| 4", "1.275"]]
    record = json.loads(next(tmp_path.glob("reed/samples/*guidance-1.275.eval.json")).read_text())
    assert record["recipe"]["guidance"]["scale"] == 1.275 and record["samples"]["num"] == 12
    assert f" {record['metrics']['fid']['value']:.4g} " in rows[1]
    for words in ("cache build imagenet", "train --shards", "sample --run", "eval "):
        assert f"$ reed-{words}" in first.stderr
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.suffix in (".tar", ".npz")}
    again = make(tmp_path)
    assert again.returncode == 0, again.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_the_table_sets_what_was_measured_beside_what_was_published(tmp_path):
    record = tmp_path / "record.json"
    values = dict(zip(reproduce_image.METRICS, (7.5, 4.7, 200.25, 0.81, 0.61), strict=True))
    metrics = {name: {"value": value} for name, value in values.items()}
    record.write_text(json.dumps({"metrics": metrics} | RECORD))
    found = reproduce.measures(record)
    rows = [Row(400_000, 1.0, found), Row(1_000_000, 1.275, found), Row(10, 1.0, found)]
    lines = reproduce_image.table_of("reed", rows, {"training": 7200.0}, 50_000).splitlines()
    assert lines[4:7] == [
        "| 400,000 | 1 | 7.5 | 4.7 | 200.2 | 0.81 | 0.61 | 7.3 | 7.9 | 17.2 |",
        "| 1,000,000 | 1.275 | 7.5 | 4.7 | 200.2 | 0.81 | 0.61 | 1.8 | 1.96 | - |",
        "| 10 | 1 | 7.5 | 4.7 | 200.2 | 0.81 | 0.61 | - | - | - |",
    ]
    assert "50,000 samples" in lines[0] and "training 2.00 h" in lines[-1]


def test_published_checkpoints_and_the_last_are_measured(tmp_path):
    for step in (50_000, 150_000, 400_000, 450_000):
        (tmp_path / f"step-{step:07d}").mkdir()
    assert reproduce_image.wanted(tmp_path) == [50_000, 400_000, 450_000]
    assert {50_000, 400_000} <= set(reproduce_image.PUBLISHED["REED"])


def test_a_reference_that_is_not_there_is_missed_at_once(monkeypatch):
    monkeypatch.setattr(command.subprocess, "run", None)  # nothing is started
    words = ["--data", ".", "--reference", "nowhere.npz"]
    done = CliRunner().invoke(reproduce_image.main, words)
    assert done.exit_code == 2 and "nowhere.npz does not exist; name ADM's file" in done.stderr


def test_a_stage_that_fails_ends_with_its_code():
    with pytest.raises(SystemExit) as ended:
        command.train(Path("nowhere"), Path("run"), "reed")
    assert ended.value.code == 2


def test_a_program_that_was_killed_is_named(monkeypatch, capsys):
    done = subprocess.CompletedProcess([], -9)
    monkeypatch.setattr(command.subprocess, "run", lambda words, check: done)
    with pytest.raises(ReedError, match="reed-sample was ended by SIGKILL from outside; rerun"):
        command.command("reed-sample", "--run", "a b")
    said = capsys.readouterr()
    assert said.err == "\n$ reed-sample --run 'a b'\n" and said.out == ""


def test_some_programs_run_on_every_gpu(monkeypatch):
    started = []
    monkeypatch.setattr(command, "_gpus", lambda: 4)
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(
        command.subprocess, "run", lambda words, check: started.append(words) or done
    )
    assert command.command("reed-sample", "--num", 8, every_gpu=True) >= 0
    command.command("reed-eval", "x.npz")
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=4", "-m", "--"]
    assert started[0] == [sys.executable, *launcher, "reed.cli.sample", "--num", "8"]
    assert started[1] == [sys.executable, "-m", "reed.cli.evaluate", "x.npz"]


@pytest.mark.parametrize(
    ("more", "name", "variant", "columns"),
    [
        ([], "esm2", [], ["--encoder", "esm2-650m", "--codec", "esm2-650m/tokens=standard+int8"]),
        (
            ["--af3", "/af3", "--accept-af3-terms"],
            "af3",
            ["--variant", "af3"],
            ["--encoder", "af3", *command.sets({"folder": "/af3", "structure": "true"}, "af3")]
            + ["--set", "af3.accept_terms=true"],
        ),
    ],
)
def test_proteins_are_cached_trained_and_measured(
    monkeypatch, tmp_path, more, name, variant, columns
):
    started = []

    def start(words, check):
        started.append(words[2:])
        if "reed.cli.evaluate" in words:
            run = Path(words[3])
            run.mkdir(parents=True)
            for step in (1, 2):  # the earlier one is of a run that went on
                metrics = {"recovery": {"value": step * len(started) / 10}}
                record = json.dumps({"metrics": metrics} | RECORD)
                (run / f"step-{step:07d}.eval.json").write_text(record)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(command.subprocess, "run", start)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(reproduce_protein.main, ["--data", "/d", *more])
    assert done.exit_code == 0, done.output
    train, test, plain, _, aligned, measured = started
    small = command.sets({"source.max_length": 256})
    assert train[5:] == ["--set", "source.split=train", "--data", "/d", *small, *columns]
    assert test[5:] == ["--set", "source.split=test", "--data", "/d", *small, "--encoder", "chain"]
    run = f"runs/reproduce-protein/full/{name}"
    assert plain[-2:] == ["--variant", "plain"] and plain[2] == train[4]
    assert aligned == ["reed.cli.train", "--shards", train[4], "--run", run, *variant]
    assert measured == ["reed.cli.evaluate", run, "--reference", test[4]]
    table = Path("runs/reproduce-protein/full/table.txt").read_text()
    assert [line.split() for line in table.splitlines()] == [
        ["plain", name],
        ["recovery", "0.8000", "1.2000"],
    ]
