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
WAIT = 600  # seconds for what should take one minute


@pytest.fixture
def machine(tmp_path):
    """Starts one of two machines, with a copy of the cache at a path of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []

    def start(settings, number):
        copy = tmp_path / f"machine-{number}" / "cache"
        if not copy.exists():
            shutil.copytree(settings.shards, copy)
        table = config.plain(settings) | {"shards": str(copy)}
        recipe = copy.with_name("recipe.json")
        recipe.write_text(json.dumps(table))
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
        rendezvous += ["--rdzv-conf", f"is_host={int(number == 0)}", "--max-restarts", "3"]
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", *rendezvous]
        command += ["--nproc-per-node", "2", "-m", "--", "reed.cli.train", "--config", recipe]
        log = copy.with_name("log")
        with open(log, "a") as said:
            process = subprocess.Popen(
                [str(word) for word in command],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        process.log = log
        started.append(process)
        return process

    yield start
    for process in started:
        kill(process)


def kill(process):
    """Take a machine away: its launcher; its processes lose theirs, and end."""
    if process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (process.pid, *map(int, children)):
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


def test_a_machine_that_is_killed_and_started_again_resumes(make, machine, tmp_path):
    """The other machine starts its processes again and waits for it, both from a checkpoint."""
    settings = make("two", steps=150, every={"save": 5, "log": 5}, wait_minutes=1)
    first, second = (machine(settings, number) for number in range(2))
    deadline = time.monotonic() + WAIT
    while not checkpoint.steps(settings.run) and time.monotonic() < deadline:
        assert first.poll() is None and second.poll() is None, first.log.read_text()[-4000:]
        time.sleep(0.02)
    kill(second)
    before = checkpoint.steps(settings.run)[-1]
    assert before < settings.steps, "the machine was killed too late"

    ended(first, machine(settings, 1))
    lines = (settings.run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(5, 151, 5))
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
