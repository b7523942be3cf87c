"""A run that is stopped, killed or spread over processes is the run that nothing touched."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from reed import config
from reed.train import checkpoint
from reed.train.recipe import TrainConfig

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make  # fixtures
lines, same, trained = TINY.lines, TINY.same, TINY.trained
STEPS = 120  # of the runs in processes of their own: long enough to be caught in the middle


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ten_steps_and_ten_more_are_twenty(make, accumulate):
    whole = trained(make("whole", accumulate=accumulate, every={"save": 10}))
    split = trained(make("split", steps=10, accumulate=accumulate))
    half = checkpoint.load(split)
    same(half, checkpoint.load(whole, 10))
    trained(make("split", accumulate=accumulate))
    assert checkpoint.steps(split) == [10, 20]
    same(checkpoint.load(split), checkpoint.load(whole))
    same(checkpoint.load(split, 10), half)  # going on has not written into the old one
    assert lines(split) == lines(whole)


def test_a_half_written_checkpoint_is_passed_over(make):
    whole = trained(make("whole"))
    split = trained(make("split", steps=10))
    (split / ".step-0000015.77.tmp").mkdir()
    (split / ".step-0000015.77.tmp" / "model.safetensors").write_bytes(b"half")
    trained(make("split"))
    same(checkpoint.load(split), checkpoint.load(whole))
    assert not list(split.glob(".*"))


def test_the_log_is_cut_back_to_the_checkpoint(make):
    run = trained(make(steps=10, every={"log": 1}))
    wanted = lines(run)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 11, "loss": 1.0}\n{"step": 12, "lo')
    trained(make(steps=12, every={"log": 1}))
    assert lines(run)[:10] == wanted
    assert [line["step"] for line in lines(run)] == list(range(1, 13))


def test_a_finished_run_is_left_as_it_is(make):
    run = trained(make(steps=5))
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")}
    trained(make(steps=5))
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")} == before
    assert [line["step"] for line in lines(run)] == [5]


@pytest.fixture
def command(make, tmp_path):
    """The reed-train command line of the run called "run"."""
    (tmp_path / "tiny.json").write_text(json.dumps(TINY.TABLE))
    settings = make()
    return [
        "--shards",
        str(settings.shards),
        "--run",
        str(settings.run),
        "--config",
        str(tmp_path / "tiny.json"),
        "--set",
        f"steps={STEPS}",
        "--set",
        "every.save=3",
    ]


def start(*words, **env):
    return subprocess.Popen(
        [sys.executable, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


TRAIN = ("-m", "reed.cli.train")


def send_mid_run(process, run, number):
    """Wait for a first checkpoint, then send a signal; returns the exit code and the output."""
    deadline = time.monotonic() + 100
    while not checkpoint.steps(run) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(number)
    out, _ = process.communicate(timeout=100)
    return process.returncode, out


@pytest.fixture
def go_on():
    """Train to the end in this process, with as many threads as the other one had."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda settings: checkpoint.load(trained(settings))
    torch.set_num_threads(before)


def uninterrupted(run):
    """The settings of the same run in another folder."""
    table = config.read(run / "config.json") | {"run": f"{run}-whole"}
    return config.build(TrainConfig, table | {"every": {"log": 5, "save": 0}})


def test_a_killed_run_goes_on_as_if_it_had_not_been(make, command, go_on):
    run = make().run
    code, _ = send_mid_run(start(*TRAIN, *command), run, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert 0 < checkpoint.steps(run)[-1] < STEPS
    again = start(*TRAIN, *command)
    out, error = again.communicate(timeout=100)
    assert again.returncode == 0 and str(run) in out, error
    same(checkpoint.load(run), go_on(uninterrupted(run)))
    assert [line["step"] for line in lines(run)] == list(range(5, STEPS + 1, 5))
    assert not list(run.glob(".*"))


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_later(make, command, go_on):
    run = make().run
    code, out = send_mid_run(start(*TRAIN, *command), run, signal.SIGTERM)
    stopped_at = checkpoint.steps(run)[-1]
    assert code == 0 and f"stopped at step {stopped_at} of {STEPS}; rerun to go on" in out
    assert 0 < stopped_at < STEPS and lines(run)[-1]["step"] == stopped_at
    rest = go_on(config.build(TrainConfig, config.read(run / "config.json")))
    same(rest, go_on(uninterrupted(run)))


def test_ctrl_c_saves_before_it_says_that_a_rerun_resumes(make, command):
    """It said so and had saved nothing since the last checkpoint."""
    run = make().run
    process = start(*TRAIN, *command)
    deadline = time.monotonic() + 100
    while not checkpoint.steps(run) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=100)
    stopped_at = checkpoint.steps(run)[-1]
    assert process.returncode == 130 and "Interrupted; rerun the command to resume." in error
    assert "saving a checkpoint; once more to end at once" in error
    assert 0 < stopped_at < STEPS and lines(run)[-1]["step"] == stopped_at


def test_a_second_ctrl_c_ends_a_run_at_once(make, monkeypatch):
    from reed.train.loop import Trainer

    def ask(self, stored):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one raises")

    monkeypatch.setattr(Trainer, "train_step", ask)
    with pytest.raises(KeyboardInterrupt):
        trained(make())


@pytest.mark.parametrize(("keep", "interval", "kept"), [(0, 0, 6), (2, 0, 2), (2, 4, 3), (9, 0, 6)])
def test_a_run_keeps_the_latest_checkpoints_and_some_older_ones(make, keep, interval, kept):
    settings = make(steps=12, keep=keep, every={"save": 2, "keep": interval})
    expected = {6: [2, 4, 6, 8, 10, 12], 2: [10, 12], 3: [4, 8, 10, 12]}[kept]
    run = trained(settings)
    assert checkpoint.steps(run) == expected
    assert not list(run.glob(".*"))
    assert checkpoint.load(run).step == 12  # what is kept is whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_end_a_run_and_are_given_back(make, monkeypatch, number):
    from reed.train.loop import Trainer

    def ask(self, stored, step=Trainer.train_step):
        if self.step == 6:
            os.kill(os.getpid(), number)
        return step(self, stored)

    handler = signal.getsignal(number)
    monkeypatch.setattr(Trainer, "train_step", ask)
    assert checkpoint.steps(trained(make())) == [7]
    assert signal.getsignal(number) is handler


MAIN = """
from accelerate import PartialState
from reed.cli.train import main
main(standalone_mode=False)
print("processes:", PartialState().num_processes)
"""


def test_two_processes_do_what_one_does(make, command, ranks):
    words = [*command, "--set", "steps=12", "--set", "accumulate=2", "--set", "every.save=5"]
    outputs = []
    for process in ranks("-c", MAIN, *words):
        out, error = process.communicate(timeout=200)
        assert process.returncode == 0 and "processes: 2" in out, error
        outputs.append(out + error)
    assert ["trained" in each and ", 12 steps" in each for each in outputs] == [True, False]
    two, one = make().run, trained(make("one", steps=12))
    TINY.close(checkpoint.load(two), checkpoint.load(one), atol=2e-5)
    for ours, theirs in zip(lines(two), lines(one), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert checkpoint.steps(two) == [5, 10, 12]


@pytest.mark.slow
def test_two_killed_processes_go_on_as_if_they_had_not_been(make, command, ranks):
    """Bit for bit, with two micro-batches: both are killed, one while the other may be saving."""
    words = [*command, "--set", "accumulate=2"]
    first, second = ranks("-c", MAIN, *words)
    send_mid_run(first, make().run, signal.SIGKILL)
    second.kill()
    second.communicate(timeout=100)
    run, whole = make().run, make("whole").run
    assert 0 < checkpoint.steps(run)[-1] < STEPS
    for folder in (run, whole):
        for process in ranks("-c", MAIN, *words, "--set", f'run="{folder}"'):
            error = process.communicate(timeout=200)[1]
            assert process.returncode == 0, error
    same(checkpoint.load(run), checkpoint.load(whole))
    assert not list(run.glob(".*"))
