"""Stage one on a Ray cluster of one machine, with a worker killed in the middle of a shard."""

from __future__ import annotations

import subprocess
import sys

import pytest

from reed.cache import schema

pytest.importorskip("ray", reason="ray is not installed: make setup")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OWN = """
import os, signal
from pathlib import Path
from reed.encoders.toy.digits import Describe, DigitsVit
from reed.errors import ReedError

class Dying(DigitsVit):
    calls = 0
    batch_size = 50

    def encode(self, samples):
        self.calls += 1
        if self.calls == 15:  # past the calibration, and in the middle of a shard of six calls
            for flag in sorted(Path(__file__).parent.glob("kill-*"))[:1]:
                flag.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(samples)

class Deadly(Describe):
    def encode(self, samples):
        os.kill(os.getpid(), signal.SIGKILL)

class Refusing(Describe):
    def encode(self, samples):
        raise ReedError("the weights are of another model")
"""


@pytest.fixture
def run(tmp_path):
    """reed-cache build in a process of its own, in a folder with the encoders above."""
    (tmp_path / "own.py").write_text(OWN)

    def build(cache, *words):
        command = [sys.executable, "-m", "reed.cli.cache", "build", "digits", "--cache", cache]
        return subprocess.run(
            [*command, *words], cwd=tmp_path, capture_output=True, text=True, timeout=280
        )

    return build


def test_killed_ray_workers_change_no_byte(fakes, run, tmp_path):
    columns = ("--encoder", "dying=own:Dying", "--encoder", "caption-ngrams")
    plain = run("plain", *columns)
    assert plain.returncode == 0, plain.stderr
    for number in range(2):
        (tmp_path / f"kill-{number}").touch()
    found = run("ray", *columns, "--engine", "ray")
    assert found.returncode == 0, found.stderr
    assert len(list(tmp_path.glob("kill-*"))) < 2, "no worker was killed"
    assert fakes.tree(tmp_path / "ray") == fakes.tree(tmp_path / "plain")
    assert schema.columns(tmp_path / "ray") == ["caption-ngrams", "describe", "dying", "pixels"]
    assert "dying: read " in found.stdout


def test_a_shard_that_kills_every_worker_is_one_line(run):
    found = run("ray", "--encoder", "mine=own:Deadly", "--engine", "ray")
    assert found.returncode == 2
    error = found.stderr.splitlines()[-1]
    assert error.startswith("Error: column 'mine': a Ray worker died 4 times"), error
    assert "rerun to resume" in error


def test_what_a_task_refuses_is_one_line(run):
    found = run("ray", "--encoder", "mine=own:Refusing", "--engine", "ray")
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1] == "Error: the weights are of another model"
