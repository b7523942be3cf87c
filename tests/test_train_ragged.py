"""The trainer on samples of different lengths: batches under a budget of tokens."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from reed import config
from reed.errors import ReedError
from reed.train import checkpoint
from reed.train import log as runlog
from reed.train.recipe import check

HERE = Path(__file__).parent
TINY = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_cache.py")))
RAGGED = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_ragged.py")))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return RAGGED.build(tmp_path_factory.mktemp("ragged") / "cache")


@pytest.fixture
def make(cache, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))  # the manifest names the domain as tiny_ragged:Domain
    return lambda name="run", **over: RAGGED.settings(cache, tmp_path / name, **over)


def test_the_losses_fall_and_the_cosine_rises(make):
    settings = make(steps=80, optim={"lr": 1e-2}, every={"log": 20})
    log = runlog.read(TINY.trained(settings))
    assert log[-1]["diffusion"] < 0.9 * log[0]["diffusion"]
    assert log[-1]["cos/teacher"] > log[0]["cos/teacher"] + 0.05


def test_samples_are_counted_and_epochs_have_their_mean_length(make):
    settings = make(steps=20)
    setup = check(settings)
    steps = round(setup.stream.samples / setup.stream.batch)
    assert setup.stream.samples == RAGGED.CHAINS and setup.stream.fewest >= 1 < steps
    run = TINY.trained(make(steps=2 * steps, every={"log": steps}))
    assert [line["samples"] for line in runlog.read(run)] == [RAGGED.CHAINS, 2 * RAGGED.CHAINS]
    warm = {"kind": "linear", "start": 0.0, "end": 1.0, "ends": "2 epochs"}
    ramp = check(make(curriculum={"diffusion": warm})).schedules["diffusion"].ramps[0]
    assert ramp.ends == 2 * steps


def test_micro_batches_add_up_to_the_batch(make):
    one, two = TINY.trained(make("one")), TINY.trained(make("two", accumulate=2))
    TINY.close(checkpoint.load(two), checkpoint.load(one), atol=2e-5)


def test_ten_steps_and_ten_more_are_twenty(make):
    whole = TINY.trained(make("whole"))
    TINY.trained(make("split", steps=10))
    split = TINY.trained(make("split"))
    TINY.same(checkpoint.load(split), checkpoint.load(whole))
    assert TINY.lines(split) == TINY.lines(whole)


MAIN = """
import sys
from pathlib import Path
from reed import config
from reed.train import loop, recipe
loop.train(config.build(recipe.TrainConfig, config.read(sys.argv[1])))
left = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
sys.exit([name for name in left if "gloo" in name] or None)
"""


def test_two_processes_do_what_one_does(make, ranks, tmp_path):
    """None of their process group's threads outlives training: at Python's end one may abort."""
    (tmp_path / "run.json").write_text(json.dumps(config.plain(make("two"))))
    for process in ranks("-c", MAIN, str(tmp_path / "run.json"), PYTHONPATH=str(HERE)):
        error = process.communicate(timeout=200)[1]
        assert process.returncode == 0, error
    two, one = make("two").run, TINY.trained(make("one"))
    TINY.close(checkpoint.load(two), checkpoint.load(one), atol=2e-5)
    for ours, theirs in zip(TINY.lines(two), TINY.lines(one), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize(
    ("over", "parts"),
    [
        ({"batch": 4}, ["batch is 4", "tokens is 160"]),
        ({"tokens": 24}, ["longest sample has 31", "24"]),
        ({"accumulate": 9}, ["tokens 160", "1 processes x 9 micro-batches"]),
        ({"tokens": 0, "batch": 4}, ["chain/x", "budget of tokens"]),
    ],
)
def test_a_budget_that_does_not_fit_is_refused(make, over, parts):
    with pytest.raises(ReedError) as caught:
        check(make(**over))
    assert all(part in str(caught.value) for part in parts), caught.value
