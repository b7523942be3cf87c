"""The trainer on a tiny cache: what it learns, logs, skips and stores."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from reed import config, open_cache
from reed.errors import ReedError
from reed.nets.sit import SiT
from reed.train import checkpoint
from reed.train import log as runlog
from reed.train.recipe import TrainConfig, check

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make  # fixtures
BATCH, lines, same, trained = TINY.BATCH, TINY.lines, TINY.same, TINY.trained


def test_the_losses_fall_and_the_cosines_rise(make):
    log = runlog.read(trained(make(steps=60, optim={"lr": 1e-2}, every={"log": 10})))
    first, last = log[0], log[-1]
    assert last["diffusion"] < 0.85 * first["diffusion"]
    assert last["cos/digits-vit"] > first["cos/digits-vit"] + 0.2
    assert last["cos/caption-ngrams"] > first["cos/caption-ngrams"] + 0.2


def test_two_runs_of_one_recipe_are_equal_whatever_the_loader(make):
    a = trained(make("a", steps=8))
    b = trained(make("b", steps=8, loader={"threads": 0}))
    c = trained(make("c", steps=8, loader={"threads": 3, "ahead": 7}))
    other = trained(make("other", steps=8, seed=1))
    same(checkpoint.load(a), checkpoint.load(b))
    same(checkpoint.load(a), checkpoint.load(c))
    with pytest.raises(AssertionError):
        same(checkpoint.load(a), checkpoint.load(other))


def test_micro_batches_add_up_to_the_batch(make):
    one = trained(make("one", steps=10))
    for accumulate in (2, 4):
        several = trained(make(f"split{accumulate}", steps=10, accumulate=accumulate))
        TINY.close(checkpoint.load(several), checkpoint.load(one), atol=2e-5)
        for ours, theirs in zip(lines(several), lines(one), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4)


def without(settings, name):
    """The same recipe without an alignment target."""
    table = config.plain(settings)
    del table["align"][name], table["curriculum"][name]
    return config.build(TrainConfig, table | {"run": f"{settings.run}-without"})


@pytest.mark.parametrize("off", ["digits-vit", "caption-ngrams"])
def test_weight_zero_is_a_target_that_is_not_there(make, off):
    settings = make(steps=8, curriculum={off: 0.0})
    setup = check(settings)
    assert off not in setup.targets and off not in setup.schedules
    with pytest.raises(StopIteration):
        setup.stream.field(off)
    with_zero, absent = trained(settings), trained(without(settings, off))
    same(checkpoint.load(with_zero), checkpoint.load(absent))
    assert lines(with_zero) == lines(absent)
    assert not any(off in name for name in checkpoint.load(with_zero).model)


def test_a_probe_leaves_the_trunk_as_it_is_without_it(make):
    """Clipping is off, because the head's gradient counts in the norm."""
    probe = {"align": {"caption-ngrams": {"probe": True}}, "optim": {"clip": 0.0}}
    settings = make(steps=8, **probe)
    probed, absent = trained(settings), trained(without(settings, "caption-ngrams"))
    same(checkpoint.load(probed), checkpoint.load(absent), groups=("ema",))
    early = checkpoint.load(trained(make("short", steps=1, **probe))).model
    name = "heads.caption-ngrams.4.weight"
    assert not torch.equal(checkpoint.load(probed).model[name], early[name])


def test_clipping_bounds_the_gradient_and_0_is_off(make):
    def moved(clip):
        # without momentum and with a large eps, a step is the gradient times lr / eps
        plain = {"betas": [0.0, 0.0], "eps": 1e6, "lr": 1e3, "clip": clip}
        run = trained(make(f"clip{clip}", steps=2, optim=plain, every={"log": 1, "save": 1}))
        a, b = checkpoint.load(run, 1).model, checkpoint.load(run, 2).model
        squares = sum((b[name] - a[name]).double().square().sum() for name in a)
        return float(squares.sqrt()) * 1e3, lines(run)[1]["grad_norm"]

    size, norm = moved(0.0)
    assert size == pytest.approx(norm, rel=1e-2) and norm > 0.02
    assert moved(0.01)[0] == pytest.approx(0.01, rel=1e-2)


def test_the_checkpoint_holds_net_heads_and_an_average_of_the_net(make):
    saved = checkpoint.load(trained(make(steps=5)))
    assert {name.split(".")[0] for name in saved.model} == {"net", "heads"}
    assert {f"net.{name}" for name in saved.ema} == {n for n in saved.model if n[:4] == "net."}
    moved = [n for n in saved.ema if not torch.equal(saved.ema[n], saved.model[f"net.{n}"])]
    assert moved and "pos_embed" not in moved
    assert all(v.dtype == torch.float32 for v in (saved.model | saved.ema).values())
    assert {n.split("/")[0] for n in saved.optim} == {"step", "exp_avg", "exp_avg_sq"}
    assert saved.optim["step/net.final_layer.linear.bias"] == 5


def test_the_average_follows_every_step(make):
    run = trained(make(steps=3, every={"save": 1}))
    start = checkpoint.load(trained(make("start", steps=1, optim={"lr": 0.0})))
    first, second, third = (checkpoint.load(run, step) for step in (1, 2, 3))
    for name in ("x_embedder.proj.weight", "final_layer.linear.bias"):
        for before, after in ((start, first), (first, second), (second, third)):
            wanted = 0.9 * before.ema[name] + 0.1 * after.model[f"net.{name}"]
            torch.testing.assert_close(after.ema[name], wanted, rtol=0, atol=1e-7)


def test_the_log_has_one_line_per_logged_step(make):
    warm = {"diffusion": {"begins": 2, "ends": 10}}
    falling = {"kind": "linear", "start": 1.0, "end": 0.0, "ends": 20}
    run = trained(make(steps=12, curriculum=warm, optim={"schedule": falling}))
    log = runlog.read(run)
    assert [line["step"] for line in log] == [5, 10, 12]
    assert [line["samples"] for line in log] == [5 * BATCH, 10 * BATCH, 12 * BATCH]
    # a line's weights are those of its last step, and steps count from 0
    assert [line["weight/diffusion"] for line in log] == [0.25, 0.875, 1.0]
    assert [line["weight/digits-vit"] for line in log] == [0.5] * 3
    assert [line["lr"] for line in log] == pytest.approx([2e-3 * f for f in (0.8, 0.55, 0.45)])
    names = {"diffusion", "loss", "grad_norm", "cos/digits-vit", "cos/caption-ngrams"}
    assert all(names <= set(line) and np.isfinite(list(line.values())).all() for line in log)


def test_a_log_line_is_the_mean_over_its_steps(make):
    every = runlog.read(trained(make("every", steps=4, every={"log": 1})))
    (line,) = runlog.read(trained(make("once", steps=4, every={"log": 0})))
    for name in ("diffusion", "loss", "grad_norm", "cos/digits-vit"):
        assert line[name] == pytest.approx(np.mean([each[name] for each in every]), rel=1e-5)
    last = every[-1]
    total = 0.6 * last["diffusion"] - 0.5 * last["cos/digits-vit"]
    assert last["loss"] == pytest.approx(total - 0.25 * last["cos/caption-ngrams"], abs=1e-5)


def test_the_schedule_of_the_learning_rate_reaches_the_optimizer(make):
    late = {"kind": "step", "start": 0.0, "end": 1.0, "begins": 3}
    run = trained(make(steps=4, optim={"schedule": late}, every={"save": 1}))
    at = {step: checkpoint.load(run, step).model for step in (1, 3, 4)}
    assert all(torch.equal(at[1][name], at[3][name]) for name in at[1])
    assert not all(torch.equal(at[3][name], at[4][name]) for name in at[1])


@pytest.fixture
def poison(monkeypatch):
    """Make the net answer NaN at chosen steps, counted from 0."""
    forward, calls = SiT.forward, iter(range(1000))

    def poisoned(*steps):
        def bad(self, *args, **kwargs):
            velocity, states = forward(self, *args, **kwargs)
            return (velocity * float("nan") if next(calls) in steps else velocity), states

        monkeypatch.setattr(SiT, "forward", bad)

    return poisoned


@pytest.mark.parametrize("bad", [0, 2])
def test_a_bad_step_changes_no_weight(make, poison, bad):
    poison(bad)
    run = trained(make(steps=5, every={"save": 1}, curriculum={"diffusion": {"start": 1.0}}))
    saved = {step: checkpoint.load(run, step) for step in range(1, 6)}
    for step in range(2, 6):
        a, b = saved[step - 1], saved[step]
        moved = any(not torch.equal(a.model[name], b.model[name]) for name in a.model)
        assert moved == (step != bad + 1), step
        if step == bad + 1:
            same(SimpleNamespace(**vars(a) | {"step": step}), b, groups=("model", "optim"))
    for group in ("model", "ema", "optim"):
        assert all(v.isfinite().all() for v in getattr(saved[5], group).values()), group
    assert saved[5].optim["step/net.final_layer.linear.bias"] == 4


def test_too_many_bad_steps_end_the_run(make, poison, cache):
    poison(1, 3)
    settings = make(steps=20, stop_after_bad=2)
    with pytest.raises(ReedError) as caught:
        trained(settings)
    keys = open_cache(cache).stream({"x": "pixels/pixels"}, BATCH).keys_at(3)
    for part in ("2 steps", "step 3", ", ".join(keys[:4]), "optim.lr"):
        assert part in str(caught.value)
    assert checkpoint.steps(settings.run) == []


def test_a_few_bad_steps_do_not_end_it(make, poison):
    poison(1, 3)
    assert checkpoint.steps(trained(make(steps=6, stop_after_bad=3))) == [6]


@pytest.fixture
def fresh_accelerator():
    """Accelerate keeps its precision for the whole process; forget it before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_bfloat16_keeps_float32_weights(make, fresh_accelerator):
    run = trained(make("bf16", precision="bf16"))
    saved, log = checkpoint.load(run), lines(run)
    for group in ("model", "ema", "optim"):
        assert all(v.dtype == torch.float32 for v in getattr(saved, group).values())
    AcceleratorState._reset_state(reset_partial_state=True)
    exact = lines(trained(make("fp32")))
    for name in ("diffusion", "loss", "cos/digits-vit"):
        assert log[-1][name] == pytest.approx(exact[-1][name], abs=0.05)
        assert log[-1][name] != exact[-1][name]


def test_on_a_cpu_auto_is_float32_and_fp16_is_refused(make, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    auto, exact = trained(make("auto", steps=3, precision="auto")), trained(make("32", steps=3))
    same(checkpoint.load(auto), checkpoint.load(exact))
    with pytest.raises(ReedError, match=r"fp16 needs a GPU.*bf16 or fp32"):
        trained(make("fp16", precision="fp16"))
