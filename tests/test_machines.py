"""Training on two machines, which are two launchers of two processes each on loopback."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from reed import config
from reed.train import checkpoint

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SCRIPT = Path(__file__).parent.parent / "docs" / "examples" / "train-node.sh"
WAIT = 600  # seconds for what should take one minute


@pytest.fixture
def machine(tmp_path):
    """Starts one of two machines, with a copy of the cache at a path of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = tmp_path / "train-node.sh"
    script.write_text(SCRIPT.read_text().replace("29500", str(port)))
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    started = []

    def start(settings, number):
        copy = tmp_path / f"machine-{number}" / "cache"
        if not copy.exists():
            shutil.copytree(settings.shards, copy)
        recipe, log = copy.with_name("recipe.json"), copy.with_name("log")
        recipe.write_text(json.dumps(config.plain(settings) | {"shards": str(copy)}))
        with open(log, "a") as said:
            process = subprocess.Popen(
                ["bash", script, "2", str(number), "127.0.0.1", "2", "--config", recipe],
                env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": programs},
                stdout=said,
                stderr=said,
            )
        process.log = log
        started.append(process)
        return process

    yield start
    for process in started:
        kill(process)


def below(pid):
    """A process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in below(int(child)))]


def kill(process):
    """Take a machine away, with all its processes at once."""
    if process.poll() is None:
        for pid in below(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def ended(*processes):
    for process in processes:
        process.wait(WAIT)
        assert process.returncode == 0, process.log.read_text()[-4000:]


def one_process(settings, run):
    return TINY.trained(config.build(type(settings), config.plain(settings) | {"run": str(run)}))


def test_two_machines_train_as_one_process_does(make, machine, tmp_path):
    settings = make("two", steps=8)
    ended(*[machine(settings, number) for number in range(2)])
    one = one_process(settings, tmp_path / "one")
    TINY.close(checkpoint.load(settings.run), checkpoint.load(one), atol=5e-5)


def reached(settings, step, *processes):
    """Wait for a checkpoint of a step; return the step of the last one."""
    deadline = time.monotonic() + WAIT
    while (found := max(checkpoint.steps(settings.run), default=0)) < step:
        logs = [each.log.read_text()[-2000:] for each in processes]
        assert all(each.poll() is None for each in processes), "\n".join(logs)
        assert time.monotonic() < deadline, "\n".join(logs)
        time.sleep(0.02)
    return found


def test_a_machine_that_is_killed_and_started_again_resumes(make, machine, tmp_path):
    """First the second machine, then the first one; each time both go on from a checkpoint."""
    settings = make("two", steps=400, every={"save": 5, "log": 5}, wait_minutes=1)
    machines = [machine(settings, number) for number in range(2)]
    for number, step in ((1, 5), (0, 100)):
        assert reached(settings, step, *machines) < settings.steps, "it is killed too late"
        kill(machines[number])
        machines[number] = machine(settings, number)

    ended(*machines)
    assert "attempt 1 has ended with an error" in machines[1].log.read_text()
    lines = (settings.run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(5, 401, 5))
    one = one_process(settings, tmp_path / "one")
    TINY.close(checkpoint.load(settings.run), checkpoint.load(one), atol=2e-3)


APART = """
import os, sys
from dataclasses import replace
from pathlib import Path
from reed import config
from reed.errors import ReedError
from reed.train import loop, recipe
settings = config.build(recipe.TrainConfig, config.read(sys.argv[1]))
run = settings.run if os.environ["RANK"] == "0" else Path(sys.argv[2])
try:
    loop.train(replace(settings, run=run), progress=False)
except ReedError as error:
    sys.exit(f"refused: {error}")
"""


def test_a_run_that_only_one_machine_sees_is_refused_by_all(make, ranks, tmp_path):
    """Rank 1 has no checkpoint, so it would train other steps than rank 0."""
    run = TINY.trained(make(steps=4))
    (tmp_path / "more.json").write_text(json.dumps(config.plain(make(steps=8))))
    for process in ranks("-c", APART, str(tmp_path / "more.json"), str(tmp_path / "other")):
        error = process.communicate(timeout=200)[1]
        assert process.returncode == 1
        assert f"refused: process 0 sees step 4 as the last checkpoint of {run.parent}" in error
        assert "process 1 sees step 0 (0: none); put the run on a file system that" in error
    assert checkpoint.steps(run) == [4]
