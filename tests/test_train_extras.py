"""What a run may do beside learning: compile, average otherwise, draw previews, tell a tracker."""

import importlib.util
import itertools
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image

from reed import config
from reed.cache.files import only_writer
from reed.errors import ReedError
from reed.nets.sit import SiT
from reed.train import checkpoint, curriculum, loop
from reed.train import log as runlog
from reed.train.curriculum import Schedule
from reed.train.ema import power_decay
from reed.train.feed import Feed
from reed.train.recipe import check

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make  # fixtures
same, trained = TINY.same, TINY.trained


@pytest.fixture
def fresh_accelerator():
    """Accelerate keeps its settings for the whole process; forget them before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_power_function_average_is_that_of_the_weights(make):
    run = trained(make(steps=4, ema_sigma_rel=0.2, every={"save": 1}))
    at = {step: checkpoint.load(run, step) for step in range(1, 5)}
    decay = power_decay(0.2)
    name = "final_layer.linear.bias"
    assert torch.equal(at[1].ema[name], at[1].model[f"net.{name}"])  # the first decay is 0
    for step in range(2, 5):
        kept = decay(step)
        wanted = kept * at[step - 1].ema[name] + (1 - kept) * at[step].model[f"net.{name}"]
        torch.testing.assert_close(at[step].ema[name], wanted, rtol=0, atol=1e-7)
    with pytest.raises(ReedError, match="sigma_rel is 0.4"):
        make(ema_sigma_rel=0.4)


def test_previews_are_drawn_and_change_nothing(make):
    options = {"sampler": "heun", "steps": 3}
    drawn = trained(make("drawn", steps=6, preview={"every": 2, "num": 5, "options": options}))
    same(checkpoint.load(drawn), checkpoint.load(trained(make("plain", steps=6))))
    pictures = sorted((drawn / "previews").iterdir())
    assert [path.name for path in pictures] == [f"step-000000{step}.png" for step in (2, 4, 6)]
    with Image.open(pictures[0]) as picture:  # of 8 pixels and a line, in 3 columns
        assert picture.size == (3 * 9 + 1, 2 * 9 + 1)
    assert pictures[0].read_bytes() != pictures[2].read_bytes()


def test_a_preview_is_of_the_average_and_puts_the_weights_back(make, monkeypatch):
    settings = make(steps=3, preview={"num": 4, "options": {"steps": 2}})
    trainer = loop.Trainer(check(settings), Accelerator(cpu=True))
    trainer.run(progress=False)
    own = {name: value.clone() for name, value in trainer.bare.net.state_dict().items()}
    seen = {}
    monkeypatch.setattr(
        SiT,
        "eval",
        lambda net: (
            seen.update({k: v.clone() for k, v in net.state_dict().items()}) or net.train(False)
        ),
    )
    trainer.preview()
    assert trainer.bare.net.training
    average = trainer._ema.state_dict()
    assert all(torch.equal(seen[name], average[name]) for name in average)
    assert all(torch.equal(v, own[n]) for n, v in trainer.bare.net.state_dict().items())


@pytest.mark.parametrize(
    ("over", "parts"),
    [
        ({"preview": {"options": {"sampler": "hun"}}}, ["sampler is 'hun'", "heun"]),
        ({"preview": {"options": {"stps": 3}}}, ["'preview.options.stps'", "steps"]),
        ({"preview": {"every": -1}}, ["preview.every is -1"]),
        ({"tracker": "tensorbord"}, ["'tensorbord'", "Did you mean 'tensorboard'?"]),
        ({"compile": "yes"}, ["compile 'yes'", "auto"]),
        ({"wait_minutes": 0.0}, ["wait_minutes is 0.0", "above 0"]),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, over, parts):
    with pytest.raises(ReedError) as caught:
        check(make(**over))
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_without_its_package_is_named(make, monkeypatch, name):
    found = importlib.util.find_spec
    monkeypatch.setattr(runlog, "find_spec", lambda asked: None if asked == name else found(asked))
    says = rf"tracker '{name}' needs .*pip install {name}.*tracker=none"
    with pytest.raises(ReedError, match=says):
        trained(make(tracker=name))
    assert not make().run.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_is_told_what_the_log_is(make, fresh_accelerator):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    preview = {"every": 5, "num": 4, "options": {"steps": 2}}
    run = trained(make(steps=10, tracker="tensorboard", preview=preview))
    AcceleratorState._reset_state(reset_partial_state=True)
    trained(make(steps=15, tracker="tensorboard", preview=preview))
    told = accumulator.EventAccumulator(str(run / "reed")).Reload()
    log = runlog.read(run)
    for name in ("loss", "weight/diffusion", "cos/digits-vit", "samples_per_s"):
        events = {event.step: event.value for event in told.Scalars(name)}
        assert events == pytest.approx({line["step"]: line[name] for line in log}), name
    assert {event.step for event in told.Images("preview")} == {5, 10, 15}


@pytest.mark.filterwarnings("ignore")  # those of MLflow and of what it imports
def test_mlflow_is_told_what_the_log_is(make, fresh_accelerator, tmp_path, monkeypatch):
    """In a real store; a rerun with more steps goes on in the same run."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/tracked.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    more = {"tracker": "mlflow", "preview": {"every": 5, "num": 4, "options": {"steps": 2}}}
    odd = {"target": "caption-ngrams/embedding", "tap": 1, "hidden": 16}
    more |= {"align": {"a@b": odd}, "curriculum": {"a@b": 0.1}}  # MLflow's names have no @
    run = trained(make(steps=10, **more))
    trained(make(steps=15, **more))
    other = trained(make("other", steps=5, **more))

    client = mlflow.MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == "reed"]
    told = {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}
    assert told.keys() == {run.name, other.name}
    ours = told[run.name]
    assert ours.info.status == "FINISHED"
    assert (ours.data.params["optim.lr"], ours.data.params["steps"]) == ("0.002", "10")
    assert ours.data.params["align.a_b.tap"] == "1"
    log = runlog.read(run)
    for name in ("loss", "weight/diffusion", "cos/digits-vit", "cos/a@b", "samples_per_s"):
        history = client.get_metric_history(ours.info.run_id, name.replace("@", "_"))
        assert {each.step: each.value for each in history} == pytest.approx(
            {line["step"]: line[name] for line in log}
        ), name
    pictures = client.list_artifacts(ours.info.run_id, "previews")
    assert [each.path for each in pictures] == [
        f"previews/step-{step:07d}.png" for step in (5, 10, 15)
    ]


def test_what_mlflow_is_given_follows_the_interface_of_accelerate(tmp_path):
    """Where MLflow is not installed: names that it takes, and pictures as files."""
    calls = []

    class Tracker:
        name = "mlflow"

        def log(self, values, step):
            calls.append((step, values))

        def log_artifact(self, path, folder):
            calls.append((Path(path).is_file(), Path(path).name, folder))

        def finish(self):
            calls.append("finished")

    with runlog.RunLog(tmp_path, 0, [Tracker()]) as log:
        log.write(3, {"cos/a@b": 0.5, "z/q/t0.4": 1.0})
        log.picture(3, np.zeros((4, 4, 3), np.uint8))
    assert calls == [
        (3, {"cos/a_b": 0.5, "z/q/t0.4": 1.0}),
        (True, "step-0000003.png", "previews"),
        "finished",
    ]
    assert runlog.read(tmp_path) == [{"step": 3, "cos/a@b": 0.5, "z/q/t0.4": 1.0}]


def test_a_run_folder_has_one_writer_at_a_time(make):
    run = trained(make(steps=2))
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from reed.cache.files import only_writer\n"
            "with only_writer(pathlib.Path(sys.argv[1])): print('held', flush=True); input()",
            str(run),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    before = sorted(run.rglob("*"))
    with pytest.raises(ReedError, match=f"another process is writing {run}"):
        trained(make(steps=4))
    assert sorted(run.rglob("*")) == before
    holder.kill()  # a lock goes with its process
    holder.communicate()
    with only_writer(run):
        pass
    assert checkpoint.steps(trained(make(steps=4))) == [2, 4]


def test_the_curriculum_is_sketched():
    schedules = {
        "diffusion": Schedule.of({"kind": "linear", "start": 0, "end": 1, "ends": 5}, "d"),
        "teacher": Schedule.of([0.5, {"kind": "step", "start": 1, "end": 0, "begins": 5}], "t"),
    }
    resolved = {name: schedule.resolve(10, 1, 1) for name, schedule in schedules.items()}
    assert curriculum.sketch(resolved, 10, width=10).splitlines() == [
        "diffusion   ▂▄▅▇█████  0 at the start, 1 at the end",
        "teacher    █████       0.5 at the start, 0 at the end",
    ]


MAIN = """
import os, sys, time
from reed import config
from reed.train import loop, recipe
if os.environ["RANK"] == "0":
    loop.Trainer.save = lambda self: time.sleep(600)
loop.train(config.build(recipe.TrainConfig, config.read(sys.argv[1])))
"""


@pytest.mark.slow
def test_a_process_waits_for_another_no_longer_than_is_stated(make, ranks, tmp_path):
    """Rank 0 hangs in its checkpoint of step 3; rank 1 fails within the minutes of the recipe."""
    settings = make(steps=40, wait_minutes=0.2, every={"save": 3, "log": 1})
    (tmp_path / "run.json").write_text(json.dumps(config.plain(settings)))
    first, second = ranks("-c", MAIN, str(tmp_path / "run.json"))
    try:
        error = second.communicate(timeout=150)[1]
        assert second.returncode != 0 and "imed out" in error, error
    finally:
        first.kill()
        first.communicate()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what compiling warns of differs between versions of torch
def test_compiled_parts_give_the_same_names_and_close_numbers(make):
    compiled, eager = trained(make("on", compile="on")), trained(make("off", compile="off"))
    ours, theirs = checkpoint.load(compiled), checkpoint.load(eager)
    assert ours.optim.keys() == theirs.optim.keys() and ours.ema.keys() == theirs.ema.keys()
    TINY.close(ours, theirs, atol=1e-4)
    trained(make("on", steps=24, compile="off"))  # a rerun may go on without


# ---- on a GPU


@pytest.mark.gpu
def test_no_step_waits_for_the_device(make, fresh_accelerator):
    settings = make(steps=30, precision="bf16", compile="off", every={"log": 0})
    accelerator = loop.accelerator_for(settings)
    trainer = loop.Trainer(check(settings, pin=True), accelerator)
    batches = Feed(trainer.setup.stream, accelerator.device).batches(0)
    for fed in itertools.islice(batches, 5):  # what is made once may wait
        trainer.train_step(fed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for fed in itertools.islice(batches, 5):
            trainer.train_step(fed)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        batches.close()


@pytest.mark.gpu
def test_what_is_fed_is_what_is_stored_while_the_device_is_busy(make, fresh_accelerator):
    settings = make(steps=30)
    exact = Feed(check(settings).stream, torch.device("cpu")).batches(0)
    fed = Feed(check(settings, pin=True).stream, torch.device("cuda")).batches(0)
    square = torch.randn(8192, 8192, device="cuda")
    for ours, theirs in itertools.islice(zip(fed, exact, strict=True), 20):
        kept = {name: value + 0 for name, value in ours.values.items()}
        for _ in range(10):
            square = square @ square * 1e-2
        for name, value in kept.items():
            torch.testing.assert_close(value.cpu(), theirs.values[name], rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_ten_steps_and_ten_more_are_twenty(make, fresh_accelerator, precision):
    """With fp16 the scaler's state is part of it."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        fixed = {"precision": precision, "compile": "off"}
        whole = checkpoint.load(trained(make("whole", **fixed)))
        trained(make("split", steps=10, **fixed))
        split = checkpoint.load(trained(make("split", **fixed)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert whole.extra == split.extra and (whole.extra["scaler"] is None) == (precision == "bf16")
    TINY.close(split, whole, atol=1e-6)


@pytest.mark.gpu
def test_compiled_training_follows_eager_training(make, fresh_accelerator):
    compiled = TINY.lines(trained(make("on", steps=40)))  # auto: on
    eager = TINY.lines(trained(make("off", steps=40, compile="off")))
    for ours, theirs in zip(compiled, eager, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=0.02)


def test_the_feed_counts_what_it_waits_for(make, monkeypatch):
    setup = check(make(loader={"threads": 0}))
    feed = Feed(setup.stream, torch.device("cpu"))
    batches, read = feed.batches(0), type(setup.stream)._read
    monkeypatch.setattr(
        type(setup.stream), "_read", lambda *args: (time.sleep(0.05), read(*args))[1]
    )
    for fed in itertools.islice(batches, 3):
        assert (fed.rows, fed.first, fed.total, fed.mask) == (TINY.BATCH, 0, TINY.BATCH, None)
    batches.close()
    assert feed.waited >= 0.15
