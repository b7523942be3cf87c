"""Guides that do not fit are refused in one line, with both values and what to do."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from reed.cache.schema import Field
from reed.cli import train as cli_train
from reed.domains.image import SampleOptions
from reed.errors import ReedError
from reed.flows.samplers import Guidance
from reed.guides.bank import check_banks
from reed.guides.guide import Guides, attach, guides_of
from reed.guides.settings import GuideConfig, check_guide
from reed.guides.steer import Steer
from reed.nets.sit import SiT, SiTConfig
from reed.sample.sampler import Sampler
from reed.train.recipe import check

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
TEXT, GRID = "caption-ngrams/embedding", "digits-vit/tokens"
JOINT = {"target": TEXT, "read": "joint"}
WINDOW = {"kind": "cutoff", "low": 0.4, "high": 0.4}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TINY.build(tmp_path_factory.mktemp("tiny") / "cache")


@pytest.fixture
def make(cache, tmp_path):
    """The settings of a run called `name` on the tiny cache, with tables laid over its recipe."""
    return lambda name="run", **over: TINY.settings(cache, tmp_path / name, **over)


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
        ({"target": GRID}, ["guide.z", GRID, "'token'", "enter = 'vector'", "'tokens'"]),
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
        ({"target": TEXT, "depth": 0}, ["guide.z.depth is 0", "at least 1"]),
        ({"target": TEXT, "hidden": 0}, ["guide.z.hidden is 0", "at least 1"]),
        ({"target": TEXT, "time": 1}, ["'guide.z.time'"]),
        ({"when": "start"}, ["'guide.z.target' is missing"]),
    ],
)
def test_a_guide_that_does_not_fit_is_refused(make, guide, parts):
    refused(parts, lambda: check(make(guide={"z": guide})))


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


NAMES = sorted({name for name in dir(Guides({}, SiT(SiTConfig(8)))) if name[0] != "_"} | {""})


@pytest.mark.parametrize("name", ["keys", "extra", "all", "taps", "training", "T_destination", ""])
def test_a_name_that_torch_or_guides_refuse_is_refused(make, name):
    parts = [f"guide.{name}: '{name}' cannot name a guide", "choose another name"]
    refused(parts, lambda: check(make(guide={name: {"target": TEXT}})))


def test_no_attribute_can_name_a_guide():
    net = SiT(SiTConfig(8, hidden_size=8, depth=1, num_heads=1))
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


@pytest.fixture(scope="module")
def sampler(cache, tmp_path_factory):
    """A function that trains one step with guides, and opens the run: sampler(name, guides)."""
    folder, opened = tmp_path_factory.mktemp("runs"), {}

    def of(name, **guides):
        if name not in opened:
            settings = TINY.settings(cache, folder / name, steps=1, guide=guides)
            opened[name] = Sampler.of_run(TINY.trained(settings))
        return opened[name]

    return of


def draw(trained, num=2, **options):
    return trained.draw(num, SampleOptions(steps=2, **options), batch=num, progress=False)


SMALL = {"hidden": 8, "depth": 1}


def test_guidance_on_z_needs_a_net_that_was_trained_without_it(sampler):
    whole = sampler("whole", text={"target": TEXT, "drop": 0.0, **SMALL})
    parts = ["guide-scale is 1.5", "guide.text.drop is 0", "scale 1", "drop above 0"]
    refused(parts, draw, whole, z=Steer(scale=1.5))
    assert draw(whole)["z/text"].shape == (2, 12)


def test_the_mixture_is_for_one_z_that_is_drawn_at_the_start(sampler):
    lag = sampler("lag", cls=JOINT | {"lag": 0.3})
    refused(["guide-mixture", "'prior' or 'bank'"], draw, lag, z=Steer(mixture=True))
    two = {name: {"target": TEXT, **SMALL} for name in "ab"}
    refused(["one guide", "a, b"], draw, sampler("two", **two), z=Steer(mixture=True))


def test_sde_moves_all_on_one_time(sampler):
    lag = sampler("lag", cls=JOINT | {"lag": 0.3})
    refused(["ahead of x by 0.3", "sde", "euler or heun"], draw, lag, sampler="sde")
    assert draw(lag, sampler="heun")["z/cls"].shape == (2, 12)


def test_guidance_on_labels_needs_a_null_class(cache, tmp_path):
    settings = TINY.settings(
        cache, tmp_path, steps=1, guide={"cls": JOINT}, domain={"label_dropout": 0.0}
    )
    sampler = Sampler.of_run(TINY.trained(settings))
    refused(["guidance scale 2", "null class", "scale 1"], draw, sampler, guidance=Guidance(2.0))


def test_a_bank_needs_a_row_for_every_sample(sampler):
    bank = sampler("bank", memory={"target": TEXT, "read": "bank"})
    parts = ["guide.memory", "65 samples", TEXT, "has 64", "--guide-replace"]
    refused(parts, bank.check, 65, SampleOptions())
    bank.check(64, SampleOptions())
    bank.check(65, SampleOptions(z=Steer(replace=True)))

    # 64 samples have 64 rows, each once; the next one begins anew.
    guides = guides_of(bank.net)
    check_banks(guides, 64, False)
    z = torch.from_numpy(draw(bank, 66)["z/memory"])
    assert len(z[:64].unique(dim=0)) == 64 and torch.equal(z[64:], z[:2])


def test_a_bank_whose_cache_is_gone_says_where_it_was(cache, tmp_path):
    import shutil

    moved = shutil.copytree(cache, tmp_path / "cache")
    guide = {"memory": {"target": TEXT, "read": "bank"}}
    settings = TINY.settings(moved, tmp_path / "run", steps=1, guide=guide)
    run = TINY.trained(settings)
    shutil.rmtree(moved)
    parts = ["guide.memory", TEXT, f"no cache at {moved}", "put it back"]
    refused(parts, draw, Sampler.of_run(run))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"scale": 0.5}, ["guide-scale is 0.5", "at least 1"]),
        ({"low": 0.8, "high": 0.2}, ["guide-interval [0.8, 0.2]", "[0, 1]"]),
        ({"scale": 2.0, "mixture": True}, ["guide-scale is 2.0", "guide-mixture", "leave one"]),
    ],
)
def test_guidance_that_makes_no_sense_is_refused(options, parts):
    refused(parts, lambda: Steer(**options))
