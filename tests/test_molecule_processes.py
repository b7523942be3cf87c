"""Two processes on molecules: a build writes the same bytes, a run agrees up to rounding."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from reed.train import checkpoint

HERE = Path(__file__).parent
TINY = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_cache.py")))
MOLECULES = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_molecules.py")))
pytestmark = pytest.mark.slow


def torchrun(processes: int, *words) -> str:
    """Run a command of reed in processes that torchrun starts; what it printed."""
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        processes,
        "-m",
        "--",
        *words,
    ]
    done = subprocess.run(
        [str(word) for word in launch],
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_ranks_write_the_bytes_of_one(tmp_path, fakes):
    (tmp_path / "x.smi").write_text("\n".join(MOLECULES.SMILES * 80))
    found = []
    for processes in (1, 2):
        cache = tmp_path / f"cache-{processes}"
        torchrun(
            processes,
            "reed.cli.cache",
            "build",
            "geom",
            "--data",
            tmp_path / "x.smi",
            "--cache",
            cache,
            "--workers",
            0,
            "--set",
            "source.split=train",
            "--codec",
            "rdkit3d/sample=pca:16",
            "--codec",
            "rdkit3d/token=pca:16+int8",
        )
        found.append(fakes.tree(cache))
    one, two = found
    assert len([name for name in one if name.endswith(".tar")]) == 4
    assert one.keys() == two.keys()
    assert not [name for name in one if one[name] != two[name]]


def test_two_processes_train_as_one_does(tmp_path):
    cache = MOLECULES.build(tmp_path / "cache")
    (tmp_path / "tiny.json").write_text(json.dumps(MOLECULES.TABLE))
    runs = {}
    for processes in (1, 2):
        run = tmp_path / f"run-{processes}"
        said = torchrun(
            processes,
            "reed.cli.train",
            "--shards",
            cache,
            "--run",
            run,
            "--config",
            tmp_path / "tiny.json",
            "--set",
            "steps=12",
            "--set",
            "accumulate=2",
            "--set",
            "tokens=400",
        )
        runs[processes] = run
        assert "trained" in said
    one, two = (checkpoint.load(runs[processes]) for processes in (1, 2))
    assert one.step == two.step == 12
    for ours, theirs in zip(TINY.lines(runs[2]), TINY.lines(runs[1]), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    for group in ("model", "ema"):
        for name, value in getattr(one, group).items():
            # what is added to all logits of a softmax has no gradient but rounding
            if not name.endswith("message_ff.message_mlp.2.bias"):
                mine = getattr(two, group)[name]
                torch.testing.assert_close(mine, value, rtol=0, atol=2e-4, msg=name)
