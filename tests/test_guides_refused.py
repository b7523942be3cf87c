"""Guides that do not fit are refused in one line, with both values and what to do."""

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from reed.cache.schema import Field
from reed.cli import train as cli_train
from reed.errors import ReedError
from reed.guides.guide import Guides, attach, guides_of
from reed.guides.settings import GuideConfig, check_guide
from reed.nets.sit import SiT, SiTConfig
from reed.train.recipe import check

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make  # fixtures
TEXT, GRID = "caption-ngrams/embedding", "digits-vit/tokens"
JOINT = {"target": TEXT, "read": "joint"}
WINDOW = {"kind": "cutoff", "low": 0.4, "high": 0.4}


def refused(parts, action, *args, **kwargs):
    with pytest.raises(ReedError) as caught:
        action(*args, **kwargs)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("guide", "parts"),
    [
        ({"target": "gone/cls"}, ["no column 'gone'", "digits-vit"]),
        ({"target": "digits-vit/cls"}, ["no field 'cls'", "tokens"]),
        ({"target": "pixels/label"}, ["guide.z", "pixels/label", "'label'", "'sample'"]),
        ({"target": GRID}, ["guide.z", GRID, "'token'", "enter = 'vector'", "another field"]),
        ({"target": TEXT, "enter": "tokens"}, ["guide.z", TEXT, "'sample'", "'token'", "'vector'"]),
        ({"target": TEXT, "when": WINDOW}, ["guide.z.when", "from 0.4 to 0.4 has no width"]),
        ({"target": TEXT, "when": "later"}, ["guide.z.when", "'later'", "cosine"]),
        ({"target": GRID, "enter": "tokens"}, ["guide.z", "prior", GRID, "read = 'mean'"]),
        (JOINT | {"when": "constant"}, ["guide.z.when is 'constant'", "'joint'", "'start'", "lag"]),
        ({"target": TEXT, "read": "priors"}, ["guide.z.read is 'priors'", "mean 'prior'", "bank"]),
        ({"target": TEXT, "enter": "tokn"}, ["guide.z.enter is 'tokn'", "mean 'token'", "vector"]),
        ({"target": TEXT, "norm": "smple"}, ["guide.z.norm is 'smple'", "mean 'sample'", "none"]),
        ({"target": TEXT, "loss": "cos"}, ["guide.z.loss is 'cos'", "cosine", "mse"]),
        ({"target": TEXT, "tap": 4}, ["guide.z.tap is 4", "taps 1 to 3"]),
        ({"target": TEXT, "tap": -1}, ["guide.z.tap is -1", "at least 0"]),
        ({"target": TEXT, "lag": 0.3}, ["guide.z.lag is 0.3", "read = 'joint'"]),
        (JOINT | {"lag": 1.5}, ["guide.z.lag is 1.5", "[0, 1]"]),
        (JOINT | {"lag": -0.1}, ["guide.z.lag is -0.1", "[0, 1]"]),
        (JOINT | {"noise": 0.1}, ["guide.z.noise is 0.1", "'joint'", "'prior' or 'bank'"]),
        ({"target": TEXT, "noise": -1.0}, ["guide.z.noise is -1.0", "at least 0"]),
        ({"target": TEXT, "drop": 1.0}, ["guide.z.drop is 1.0", "[0, 1)"]),
        ({"target": TEXT, "truth": -0.5}, ["guide.z.truth is -0.5", "[0, 1)"]),
        ({"target": TEXT, "truth": 0.5}, ["guide.z.truth is 0.5", "'prior'", "read = 'mean'"]),
        (JOINT | {"loss": "cosine"}, ["guide.z.loss is 'cosine'", "'joint'", "read = 'mean'"]),
        ({"target": TEXT, "noise": math.inf}, ["guide.z.noise is inf", "finite"]),
        ({"target": TEXT, "depth": 0}, ["guide.z.depth is 0", "at least 1"]),
        ({"target": TEXT, "hidden": 0}, ["guide.z.hidden is 0", "at least 1"]),
        ({"target": TEXT, "time": 1}, ["'guide.z.time'"]),
        ({"when": "start"}, ["'guide.z.target' is missing"]),
    ],
)
def test_a_guide_that_does_not_fit_is_refused(make, guide, parts):
    refused(parts, lambda: check(make(guide={"z": guide})))


def test_a_prior_of_tokens_is_not_told_to_let_them_enter_one_by_one(make):
    with pytest.raises(ReedError) as caught:
        check(make(guide={"z": {"target": GRID}}))
    assert "enter = 'tokens'" not in str(caught.value)
    with pytest.raises(ReedError, match="choose another field, or enter = 'tokens'"):
        check(make(guide={"z": {"target": GRID, "read": "mean"}}))


def test_tokens_of_another_grid_are_refused(make):
    """Without the alignment of the same tokens, which would be refused first."""
    change = {"domain": {"net_settings": {"patch_size": 4}}, "curriculum": {"digits-vit": 0.0}}
    guide = {"target": GRID, "read": "mean", "enter": "tokens"}
    parts = ["guide.z", f"{GRID} has 16 tokens, the net 4", "patch size"]
    refused(parts, lambda: check(make(guide={"z": guide}, **change)))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("digits-vit", ["guide.digits-vit", "an alignment target", "guide.digits-vit-z"]),
        ("diffusion", ["guide.diffusion", "the domain"]),
        ("label", ["guide.label", "the domain"]),
    ],
)
def test_a_name_that_is_taken_is_refused(make, name, parts):
    refused(parts, lambda: check(make(guide={name: {"target": TEXT}})))


@pytest.mark.parametrize("read", ["prior", "mean", "joint"])
def test_a_guide_whose_z_would_never_be_trained_is_refused(make, read):
    guide = {"target": TEXT, "when": "start", "read": read}
    parts = ["curriculum.z is 0", "guide.z", f"read = '{read}'", "weight above 0", "leave"]
    refused(parts, lambda: check(make(guide={"z": guide}, curriculum={"z": 0.0})))


def test_a_bank_trains_nothing_of_its_own_and_takes_a_weight_of_0(make):
    guide = {"target": TEXT, "when": "start", "read": "bank"}
    assert "z" in check(make(guide={"z": guide}, curriculum={"z": 0.0})).guides


SMALL = SiTConfig(8, hidden_size=8, depth=1, num_heads=1)
NAMES = sorted({name for name in dir(Guides({}, SiT(SMALL))) if name[0] != "_"} | {""})


@pytest.mark.parametrize("name", ["keys", "extra", "all", "taps", "training", "T_destination", ""])
def test_a_name_that_torch_or_guides_refuse_is_refused(make, name):
    parts = [f"guide.{name}: '{name}' cannot name a guide", "choose another name"]
    refused(parts, lambda: check(make(guide={name: {"target": TEXT}})))


def test_no_attribute_can_name_a_guide():
    net = SiT(SMALL)
    spec = check_guide("z", GuideConfig("c/z"), Field("z", "sample", (2,)), net)
    assert len(NAMES) > 50
    for name in NAMES:
        refused([f"guide.{name}: "], attach, net, {name: spec})
    assert guides_of(net) is None


@pytest.mark.parametrize("lags", [(0.3, 0.5), (0.0, 0.3)])
def test_different_lags_are_refused(make, lags):
    guides = {name: JOINT | {"lag": lag} for name, lag in zip("ab", lags, strict=True)}
    parts = ["different lags", str(lags[0]), str(lags[1]), "the same lag"]
    refused(parts, lambda: check(make(guide=guides)))


def test_the_lag_of_a_guide_that_never_enters_does_not_count(make):
    guides = {"a": JOINT | {"lag": 0.3}, "b": JOINT | {"lag": 0.5, "when": "never"}}
    assert list(check(make(guide=guides | {"c": {"target": TEXT}})).guides) == ["a", "c"]


def test_the_command_says_it_in_one_line(cache, tmp_path):
    words = ["--shards", cache, "--run", tmp_path / "run", "--dry-run"]
    words += ["--set", f"guide.keys.target={TEXT}"]
    found = CliRunner().invoke(cli_train.main, [str(word) for word in words])
    assert found.exit_code == 2 and "guide.keys: 'keys' cannot name a guide" in found.stderr
    assert found.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
