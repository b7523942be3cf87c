"""Release of alignment targets: when, what is then read and trained, and how a run resumes."""

import json
import math
import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from reed import open_cache
from reed.errors import ReedError
from reed.train import checkpoint
from reed.train.curriculum import Schedule, lengths_of
from reed.train.loop import Trainer
from reed.train.plateau import Releases
from reed.train.recipe import check
from reed.train.release import Release

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make  # fixtures
lines, same, trained = TINY.lines, TINY.same, TINY.trained
NAME = "digits-vit"
SOON = {"on": "plateau", "below": 0.9, "ramp": "20%", "averages": [0.5, 0.9]}  # at step 10 of 20


def released(make, name, release, **over):
    over = {"every": {"log": 1}} | over
    return make(name, align={NAME: {"release": release}}, **over)


@pytest.fixture
def bytes_read(monkeypatch):
    """The bytes that have been read from shards so far."""
    counted, read = [0], os.preadv

    def preadv(file, buffers, offset):
        got = read(file, buffers, offset)
        counted[0] += got
        return got

    monkeypatch.setattr(os, "preadv", preadv)
    return counted


@pytest.mark.parametrize("threads", [0, 2])
def test_a_stream_that_leaves_a_column_out_reads_what_one_without_it_reads(
    cache, bytes_read, threads
):
    places = {"x": "pixels/pixels", "t": "digits-vit/tokens", "label": "pixels/label"}

    def per_batch(places, until=None, start=0):
        stream = open_cache(cache).stream(places, 16, threads=threads)
        if until is not None:
            stream.read_until("t", until)
        before, sizes, batches = bytes_read[0], [], stream.batches(start)
        for _ in range(start, 8):
            stored = next(batches)
            sizes.append((bytes_read[0] - before, stored.rows.tolist(), sorted(stored.parts)))
            before = bytes_read[0]
        batches.close()
        return sizes, stream

    without = {name: place for name, place in places.items() if name != "t"}
    plain, _ = per_batch(without)
    every, _ = per_batch(places)
    found, stream = per_batch(places, until=3)
    assert [names for *_, names in found] == [["label", "t", "x"]] * 3 + [["label", "x"]] * 5
    assert [rows for _, rows, _ in found] == [rows for _, rows, _ in every]
    if threads == 0:
        assert found[:3] == every[:3] and found[3:] == plain[3:]
        assert every[3][0] > 1.4 * plain[3][0]  # 400 of the bytes of a sample are the tokens'
        assert per_batch(places, until=3, start=4)[0] == plain[4:]
    assert all(list(buffers) == ["pixels"] for buffers in stream._ring._buffers)  # memory is freed

    # An earlier batch brings the memory back.
    again = next(stream.batches(0))
    assert sorted(again.parts) == ["label", "t", "x"]


def test_a_field_beside_another_one_of_its_column_is_left_out_alone(cache):
    stream = open_cache(cache).stream({"x": "pixels/pixels", "y": "pixels/label"}, 16, threads=0)
    stream.read_until("y", 1)
    batches = stream.batches()
    assert [sorted(stream.decode(next(batches))) for _ in range(2)] == [["x", "y"], ["x"]]


def test_a_run_after_its_release_reads_what_a_run_without_the_target_reads(
    make, bytes_read, monkeypatch
):
    def sizes(settings):
        found, step = [], Trainer.train_step

        def counted(self, fed):
            found.append(bytes_read[0])
            return step(self, fed)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_step", counted)
            trained(settings)
        return [b - a for a, b in zip(found, found[1:], strict=False)]

    quick = {"steps": 8, "loader": {"threads": 0}}
    with_it = sizes(make("with", **quick))
    without = sizes(make("without", curriculum={NAME: 0}, **quick))
    at_half = sizes(released(make, "released", "50%", **quick))
    assert at_half[:3] == with_it[:3] and at_half[3:] == without[3:]
    assert at_half[3] < at_half[0]


def test_after_a_release_the_net_trains_as_with_weight_0_and_the_head_rests(make):
    """Clipping is off, because zero gradients may change the rounding of the norm."""
    plain = {"steps": 6, "every": {"log": 1, "save": 3}, "optim": {"clip": 0.0}}
    jump = {"kind": "step", "start": 0.5, "end": 0.0, "begins": 3}
    off = trained(make("off", curriculum={NAME: jump}, **plain))
    run = trained(released(make, "run", "3 steps", **plain))
    for step in (3, 6):
        same(checkpoint.load(run, step), checkpoint.load(off, step), groups=("ema",))
    heads = [
        {name: value for name, value in checkpoint.load(run, step).model.items() if NAME in name}
        for step in (3, 6)
    ]
    assert len(heads[0]) == 6 and all(torch.equal(heads[0][n], heads[1][n]) for n in heads[0])

    log = lines(run)
    assert [line[f"weight/{NAME}"] for line in log] == [0.5] * 3 + [0.0] * 3
    assert [f"cos/{NAME}" in line for line in log] == [True] * 3 + [False] * 3
    assert [line.get(f"release/{NAME}") for line in log] == [None] * 3 + [3] * 3
    assert [line["diffusion"] for line in log] == [line["diffusion"] for line in lines(off)]


def test_a_line_of_the_log_is_the_mean_over_the_steps_that_had_the_target(make):
    each = lines(released_run := trained(released(make, "each", 3, steps=5)))
    (line,) = lines(trained(released(make, "once", 3, steps=5, every={"log": 5})))
    cosines = [one[f"cos/{NAME}"] for one in each[:3]]
    assert line[f"cos/{NAME}"] == pytest.approx(sum(cosines) / 3, rel=1e-5)
    assert checkpoint.load(released_run).extra == {"samples": 80, "scaler": None}


@pytest.mark.parametrize("release", ["30%", {"at": "20%", "ramp": "15%"}, SOON])
@pytest.mark.parametrize("stop", [4, 8, 13])
def test_a_resumed_run_releases_at_the_same_step(make, release, stop):
    whole = trained(released(make, "whole", release))
    # Percentages are of all steps, so the run is stopped and not made shorter.
    settings = released(make, "split", release)
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer.train_step

        def stopping(self, fed):
            found = step(self, fed)
            if self.step == stop:
                os.kill(os.getpid(), 15)
            return found

        patch.setattr(Trainer, "train_step", stopping)
        assert checkpoint.steps(trained(settings)) == [stop]
    trained(settings)
    same(checkpoint.load(settings.run), checkpoint.load(whole))
    assert checkpoint.load(settings.run).extra == checkpoint.load(whole).extra
    assert lines(settings.run) == lines(whole)


def test_a_plateau_ramps_the_weight_down_and_then_the_column_is_left_out(make):
    log = lines(run := trained(released(make, "run", SOON)))
    found = [line[f"weight/{NAME}"] for line in log]
    down = [0.5 * (1 + math.cos(math.pi * n / 4)) / 2 for n in range(4)]
    assert found == pytest.approx([0.5] * 10 + down + [0.0] * 6)
    assert [f"cos/{NAME}" in line for line in log] == [True] * 14 + [False] * 6
    assert [line.get(f"release/{NAME}") for line in log] == [None] * 10 + [10] * 10

    # The averages are those of the residuals in the log.
    measured = checkpoint.load(run).extra["releases"][NAME]
    sums = [[0.0, 0.0], [0.0, 0.0]]
    for line in log[:10]:
        for average, decay in zip(sums, (0.5, 0.9), strict=True):
            average[0] = decay * average[0] + (1 - decay) * (1 - line[f"cos/{NAME}"])
            average[1] = decay * average[1] + (1 - decay)
    assert measured["begins"] == 10
    for ours, wanted in zip(measured["averages"], sums, strict=True):
        assert ours == pytest.approx(wanted, rel=1e-6)


def watcher(steps=100, **spec):
    lengths = lengths_of(steps, 1, 100)
    release = Release.of({"on": "plateau"} | spec, "r").resolve(lengths, "r")
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=1)
    return Releases({"z": release}, accelerator)


def test_a_plateau_by_hand():
    """The residual halves until step 4 and then stays: slow - fast falls below 2 % of slow."""
    averages, residuals = (0.5, 0.9), [2.0 ** -min(n, 4) for n in range(200)]
    watched, fast, slow, weights, when = watcher(averages=averages), 0.0, 0.0, [0.0, 0.0], None
    for step, residual in enumerate(residuals, start=1):
        cosine = torch.tensor(1 - residual, dtype=torch.float64)
        watched.watch({"cos/z": cosine}, {"z": 0.5})
        fast, slow = 0.5 * fast + 0.5 * residual, 0.9 * slow + 0.1 * residual
        weights = [0.5 * weights[0] + 0.5, 0.9 * weights[1] + 0.1]
        gain = 1 - fast / weights[0] / (slow / weights[1])
        if when is None and step % 10 == 0 and step >= 13 and gain < 0.02:
            when = step
        watched.decide(step)
        assert watched.begins == ({} if when is None else {"z": when})
    assert when is not None and 30 < when < 90 and watched.ends == {"z": when + 12}


def test_a_plateau_is_not_looked_for_before_the_ramp_nor_counted_where_nothing_is_finite():
    watched = watcher(ramp=25, averages=[0.5, 0.9])
    for step in range(1, 31):
        watched.watch({"gram/z": torch.tensor(math.nan if step % 3 == 0 else 0.25)}, {"z": 1.0})
        watched.decide(step)
        assert watched.begins == ({} if step < 30 else {"z": 30})
    state = json.loads(json.dumps(watched.state_dict()))
    assert [sums[0] / sums[1] for sums in state["z"]["averages"]] == pytest.approx([0.25, 0.25])
    other = watcher(ramp=25, averages=[0.5, 0.9])
    other.load_state_dict(state, 30)
    assert other.state_dict() == watched.state_dict() and other.ends == {"z": 55}
    assert other.done(54) == [] and other.done(55) == ["z"]


def test_a_release_that_has_begun_stays_where_it_is_if_a_rerun_has_more_steps():
    """A ramp of a share of the steps is longer then, and the target would come back."""
    begun = watcher(ramp="20%", averages=[0.5, 0.9])
    for step in range(1, 31):
        begun.watch({"cos/z": torch.tensor(0.5)}, {"z": 1.0})
        begun.decide(step)
    assert (begun.begins, begun.ends) == ({"z": 20}, {"z": 40})
    longer = watcher(300, ramp="20%", averages=[0.5, 0.9])
    longer.load_state_dict(json.loads(json.dumps(begun.state_dict())), 30)
    assert (longer.begins, longer.ends) == ({"z": 20}, {"z": 40})
    schedules = {"z": Schedule.of(1.0, "w").resolve(300, 1, 300)}
    found = [longer.weights(schedules, step)["z"] for step in (20, 30, 40, 50)]
    assert found == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-12)

    # A checkpoint of an earlier version has fewer values.
    state = begun.state_dict()["z"]
    old = {"z": {name: state[name] for name in ("averages", "begins")}}
    longer = watcher(ramp="20%", averages=[0.5, 0.9])
    longer.load_state_dict(old, 30)
    assert longer.state_dict()["z"] == state | {"aligned": 30}


def test_a_plateau_is_looked_for_only_where_the_target_is_aligned():
    """Without a weight, the residual stands still: that is no plateau."""
    watched = watcher(ramp=10, averages=[0.5, 0.9])
    for step in range(1, 61):
        aligned = step > 25
        falling = 0.9 ** (step - 25) if aligned else 1.0
        cosine = torch.tensor(1 - falling, dtype=torch.float64)
        watched.watch({"cos/z": cosine}, {"z": 0.5 if aligned else 0.0})
        watched.decide(step)
        assert watched.begins == {}
    assert watched.state_dict()["z"]["aligned"] == 35

    # The averages are those of the steps with a weight.
    sums = [0.0, 0.0]
    for n in range(1, 36):
        sums = [0.9 * sums[0] + 0.1 * 0.9**n, 0.9 * sums[1] + 0.1]
    assert watched.state_dict()["z"]["averages"][1] == pytest.approx(sums)


def test_a_release_at_a_known_time_is_a_part_of_the_schedule():
    lengths = lengths_of(1000, 10, 100)
    release = Release.of({"at": "50%", "ramp": "10 epochs"}, "r").resolve(lengths, "r")
    schedule = release.within(Schedule.of(2.0, "w").resolve(1000, 10, 100))
    assert [schedule(step) for step in (0, 500, 550, 600, 999)] == [2, 2, 1, 0, 0]
    assert Release.of("", "r") is None
    assert Release.of(250_000, "r") == Release(250_000)


@pytest.mark.parametrize(
    ("release", "parts"),
    [
        ("later", ["at is 'later'", "'10%'"]),
        ("0%", ["'0%'", "step 0", "to 0 instead"]),
        ({"ramp": "5%"}, ["neither 'at'", "on = 'plateau'"]),
        ({"at": "5%", "below": 0.1}, ["no key 'below'. Available: at, ramp"]),
        ({"at": 5, "ramp": -1}, ["ramp is -1"]),
        ({"on": "plateu"}, [".on is 'plateu'", "mean 'plateau'"]),
        ({"on": "plateau", "at": 5}, ["no key 'at'"]),
        ({"on": "plateau", "below": 2}, ["below is 2", "below 1"]),
        ({"on": "plateau", "below": True}, ["below is True"]),
        ({"on": "plateau", "ramp": 0}, ["ramp is 0", "no step of this run"]),
        (
            {"on": "plateau", "averages": [0.9, 0.5]},
            ["averages is [0.9, 0.5]", "smaller one first"],
        ),
        ({"on": "plateau", "averages": 0.9}, ["averages is 0.9", "two decays"]),
    ],
)
def test_a_release_that_cannot_be_is_refused(make, release, parts):
    with pytest.raises(ReedError) as caught:
        check(released(make, "run", release))
    assert all(part in str(caught.value) for part in [f"align.{NAME}.release", *parts]), (
        caught.value
    )


def test_a_target_without_weight_cannot_be_released(make):
    settings = released(make, "run", "50%", curriculum={NAME: 0})
    with pytest.raises(ReedError, match=f"release is '50%', but curriculum.{NAME} is 0"):
        check(settings)


MAIN = """
import sys
from reed.cli.train import main
main(sys.argv[1:], standalone_mode=False)
"""


@pytest.mark.slow
def test_two_processes_release_at_the_step_of_one(make, ranks, tmp_path):
    """A fixed release and one on a plateau, with two micro-batches."""
    more = {"caption-ngrams": {"release": "40%"}, NAME: {"release": SOON}}
    two, one = (make(name, align=more, accumulate=n) for name, n in (("two", 2), ("one", 1)))
    from reed import config

    table = config.plain(two) | {"every": {"log": 1, "save": 0}}
    (tmp_path / "two.json").write_text(json.dumps(table))
    for process in ranks("-c", MAIN, "--config", str(tmp_path / "two.json")):
        _, error = process.communicate(timeout=200)
        assert process.returncode == 0, error
    trained(config.build(type(one), config.plain(one) | {"every": {"log": 1, "save": 0}}))
    TINY.close(checkpoint.load(two.run), checkpoint.load(one.run), atol=2e-5)
    for ours, theirs in zip(lines(two.run), lines(one.run), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert lines(two.run)[-1][f"release/{NAME}"] == 10
