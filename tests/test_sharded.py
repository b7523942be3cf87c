"""A run that divides its weights among processes is the run of one process."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from reed.errors import ReedError
from reed.train import checkpoint, sharded
from reed.train.loop import train
from reed.train.recipe import check_free

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make  # fixtures
MAIN = "from reed.cli.train import main; main(standalone_mode=False)"
EMA = [0.9, 0.5]
GROUP = {"heads": {"match": ["heads.*"], "lr": 2.0}}
RELEASE = {"caption-ngrams": {"release": 6}}
OVER = {"ema": EMA, "optim": {"groups": GROUP, "clip": 0.05}, "align": RELEASE}


def in_two(ranks, settings, *more):
    """Train in two processes with divided weights."""
    from reed import config

    table = settings.run.with_suffix(".json")
    table.write_text(json.dumps(config.plain(settings)))
    for process in ranks("-c", MAIN, "--config", str(table), "--set", "fsdp=true", *more):
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
    return settings.run


def half(run, name):
    """A copy of a run of 12 steps as it was after 6."""
    copy = run.with_name(name)
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "step-0000012")
    return {"steps": 12, "every": {"save": 6}, **OVER}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_divided_weights_train_to_those_of_one_process_in_either_direction(make, ranks):
    """12 steps of one process; of two; 6 of two and 6 of one; 6 of one and 6 of two."""
    one = TINY.trained(make("one", **OVER, steps=12, every={"save": 6}))
    two = in_two(ranks, make("two", **OVER, steps=12, accumulate=2, every={"save": 6}))
    begun = TINY.trained(make("begun", accumulate=2, **half(two, "begun")))
    ended = in_two(ranks, make("ended", **half(one, "ended")))
    assert checkpoint.steps(two) == checkpoint.steps(begun) == checkpoint.steps(ended) == [6, 12]

    want = checkpoint.load(one, averages=["0.5"])
    for run in (two, begun, ended):
        found = checkpoint.load(run, averages=["0.5"])
        TINY.close(found, want, atol=2e-5)
        for ours, theirs in ((found.ema, want.ema), (found.averages["0.5"], want.averages["0.5"])):
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                if not name.endswith("qkv.bias"):
                    torch.testing.assert_close(ours[name], value, rtol=0, atol=2e-5)
        assert {n: v.shape for n, v in found.optim.items()} == {
            n: v.shape for n, v in want.optim.items()
        }
    for ours, theirs in zip(TINY.lines(two), TINY.lines(one), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert max(line["grad_norm"] for line in TINY.lines(one)) > 0.05  # the clipping acts


def test_one_process_cannot_divide_its_weights(make):
    with pytest.raises(ReedError, match="fsdp divides the weights among processes, and there is o"):
        train(make(fsdp=True), progress=False)


def test_a_rerun_may_divide_or_not(make):
    run = TINY.trained(make(steps=2))
    check_free(make(steps=2, fsdp=True))
    assert checkpoint.steps(run) == [2]


@pytest.mark.parametrize(
    ("over", "problem"),
    [
        ({"optim": {"groups": {"b": {"match": ["net.*"], "kind": "muon"}}}}, "groups.b of kind"),
        ({"preview": {"every": 3}}, "preview.every = 3 needs whole weights, which fsdp divides"),
        (
            {"every": {"snapshot": 2}, "ema": ["sigma_rel=0.05", "sigma_rel=0.1"]},
            "every.snapshot = 2",
        ),
        ({"guide": {"z": {"target": "caption-ngrams/embedding"}}}, "guide.z needs whole weights"),
        ({"precision": "fp16"}, "precision = 'fp16' needs whole weights"),
    ],
)
def test_what_needs_whole_weights_is_refused(make, over, problem):
    with pytest.raises(ReedError, match=problem):
        sharded.check(make(fsdp=True, **over))
