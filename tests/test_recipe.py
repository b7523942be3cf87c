"""Recipes: what is checked before a step is taken, and whose folder a run may go on in."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from reed import config
from reed.errors import ReedError
from reed.train import checkpoint
from reed.train.recipe import TrainConfig, check, claim

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make  # fixtures


def refused(parts, action, *args, **kwargs):
    with pytest.raises(ReedError) as caught:
        action(*args, **kwargs)
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"steps": 0}, ["steps is 0", "at least 1"]),
        ({"batch": 0}, ["batch is 0"]),
        ({"accumulate": -1}, ["accumulate is -1"]),
        ({"stop_after_bad": 0}, ["stop_after_bad is 0"]),
        ({"optim": {"lr": -1}}, ["optim.lr is -1"]),
        ({"optim": {"clip": -1.0}}, ["optim.clip is -1"]),
        ({"optim": {"clip": float("inf")}}, ["optim.clip is inf", "finite and at least 0"]),
        ({"optim": {"eps": float("nan")}}, ["optim.eps is nan"]),
        ({"optim": {"betas": [0.9, 1.0]}}, ["optim.betas", "(0.9, 1.0)", "below 1"]),
        ({"loader": {"threads": -1}}, ["loader.threads is -1"]),
        ({"precision": "fp61"}, ["'fp61'", "Did you mean 'fp16'"]),
        ({"loader": {"thread": 1}}, ["'loader.thread'", "Did you mean 'threads'"]),
        ({"align": {"a": {"tap": 1}}}, ["'align.a.target' is missing"]),
        ({"optim": {"betas": [0.9]}}, ["optim.betas", "2 entries"]),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, change, parts):
    refused(parts, make, **change)


NEW = {"target": "digits-vit/tokens", "tap": 1}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"batch": 15, "accumulate": 2}, ["batch 15", "1 processes x 2 micro-batches"]),
        ({"data": {"y": "pixels/label"}}, ["data.y is unknown", "label, x"]),
        ({"data": {"x": "pixels"}}, ["'pixels' names a column", "pixels/label"]),
        ({"data": {"x": "pixel/pixels"}}, ["no column 'pixel'", "Did you mean 'pixels'"]),
        ({"data": {"x": "pixels/pixel"}}, ["no field 'pixel'", "Did you mean 'pixels'"]),
        ({"data": {"x": "caption-ngrams/embedding"}}, ["data.x", "'sample'"]),
        ({"data": {"label": "pixels/pixels"}}, ["data.label", "'data'"]),
        ({"align": {"x": NEW}, "curriculum": {"x": 1}}, ["align.x", "taken"]),
        ({"align": {"diffusion": NEW}}, ["align.diffusion", "taken"]),
        ({"align": {"values": NEW}, "curriculum": {"values": 1}}, ["align.values", "cannot name"]),
        ({"align": {"a": NEW}}, ["curriculum.a is missing", "align.a"]),
        ({"curriculum": {"digit-vit": 1}}, ["curriculum.digit-vit", "Did you mean 'digits-vit'"]),
        ({"curriculum": {"digits-vit": -1}}, ["curriculum.digits-vit", "-1"]),
        ({"align": {"digits-vit": {"tap": 4}}}, ["align.digits-vit.tap is 4", "taps 1 to 3"]),
        ({"align": {"digits-vit": {"target": "gone/tokens"}}}, ["no column 'gone'"]),
        ({"align": {"digits-vit": {"target": "pixels/label"}}}, ["align.digits-vit", "'label'"]),
        ({"domain": {"net_settings": {"patch_size": 4}}}, ["has 16 tokens", "the net 4 at tap 2"]),
        ({"domain": {"class": 4}}, ["'domain.class'", "Did you mean 'classes'"]),
        ({"domain": {"path": "cosin"}}, ["'cosin'", "Did you mean 'cosine'"]),
        ({"optim": {"schedule": {"kind": "cos"}}}, ["optim.schedule", "'cos'"]),
        ({"curriculum": {"diffusion": {"ends": "1 year"}}}, ["curriculum.diffusion", "'1 year'"]),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(make, change, parts):
    refused(parts, lambda: check(make(**change)))


def test_a_missing_role_is_named(make):
    table = config.plain(make())
    del table["data"]["label"]
    refused(["data.label is missing"], check, config.build(TrainConfig, table))


def test_the_batch_is_split_over_processes_and_micro_batches(make):
    check(make(batch=12, accumulate=2), rank=1, world=3)
    refused(["12", "2 processes x 4"], check, make(batch=12, accumulate=4), rank=0, world=2)


def test_a_recipe_that_fits_is_resolved(make):
    ramp = {"kind": "linear", "start": 1.0, "end": 0.0, "begins": "50%", "ends": "10 epochs"}
    settings = make(steps=40, curriculum={"digits-vit": ramp, "caption-ngrams": 0})
    setup = check(settings)
    assert list(setup.targets) == ["digits-vit"] and setup.stream.samples == TINY.SAMPLES
    assert list(setup.schedules) == ["diffusion", "digits-vit"]
    halfway, end = 20, 10 * TINY.SAMPLES // TINY.BATCH
    places = (0, halfway, (halfway + end) // 2, end)
    assert [setup.schedules["digits-vit"](step) for step in places] == [1.0, 1.0, 0.5, 0.0]
    assert setup.fields["x"].shift == (8.0,) and setup.lr(7) == 1.0


def test_a_target_without_weight_needs_no_column(make):
    settings = make(align={"gone": {"target": "gone/tokens", "tap": 1}}, curriculum={"gone": 0})
    assert "gone" not in check(settings).targets


def test_a_loss_without_a_weight_weighs_one(make):
    table = config.plain(make())
    del table["curriculum"]["diffusion"]
    assert check(config.build(TrainConfig, table)).schedules["diffusion"](3) == 1.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed = 0, now it is 1"),
        ({"optim": {"lr": 1.0}}, "optim.lr = 0.002, now it is 1.0"),
        ({"align": {"digits-vit": {"tap": 1}}}, "align.digits-vit.tap = 2, now it is 1"),
        ({"curriculum": {"digits-vit": 0.1}}, "curriculum.digits-vit = 0.5, now it is 0.1"),
        ({"domain": {"size": "SiT-S/2"}}, "without domain.size, now with domain.size = 'SiT-S/2'"),
    ],
)
def test_a_folder_of_another_recipe_is_refused(make, change, named):
    claim(make())
    before = (make().run / "config.json").read_bytes()
    refused([str(make().run), named, "another --run"], claim, make(**change))
    assert (make().run / "config.json").read_bytes() == before


def test_a_run_may_go_on_longer_and_log_save_and_load_otherwise(make):
    TINY.trained(make(steps=2))
    run = TINY.trained(make(steps=4, every={"log": 1, "save": 1}, loader={"threads": 1}))
    assert checkpoint.steps(run) == [2, 3, 4]
    assert config.read(run / "config.json")["steps"] == 4


def test_a_setting_that_is_newer_than_the_run_has_its_default(make):
    claim(make())
    path = make().run / "config.json"
    table = config.read(path)
    del table["accumulate"]
    path.write_text(json.dumps(table))
    claim(make())
    assert config.read(path)["accumulate"] == 1


def test_the_configuration_of_a_run_builds_back(make):
    settings = make(steps=1, align={"digits-vit": {"time_weight": "cosine"}})
    claim(settings)
    assert config.build(TrainConfig, config.read(settings.run / "config.json")) == settings
