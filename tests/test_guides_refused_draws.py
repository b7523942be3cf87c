"""Sampling with guides that the run cannot do is refused in one line, with what to do."""

import math
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from reed.domains.image import SampleOptions
from reed.errors import ReedError
from reed.flows.samplers import Guidance
from reed.guides.bank import check_banks
from reed.guides.guide import guides_of
from reed.guides.steer import Steer
from reed.sample.sampler import Sampler

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
TEXT = "caption-ngrams/embedding"
JOINT = {"target": TEXT, "read": "joint"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TINY.build(tmp_path_factory.mktemp("tiny") / "cache")


def refused(parts, action, *args, **kwargs):
    with pytest.raises(ReedError) as caught:
        action(*args, **kwargs)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


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
    check_banks(guides, 64, Steer())
    z = torch.from_numpy(draw(bank, 66)["z/memory"])
    assert len(z[:64].unique(dim=0)) == 64 and torch.equal(z[64:], z[:2])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": 1.5}, "guide-scale is 1.5"),
        ({"low": 0.2, "high": 0.5}, "guide-interval is [0.2, 0.5]"),
        ({"mixture": True}, "guide-mixture is on"),
        ({"replace": True}, "guide-replace is on"),
        ({"prompt": ("s01",)}, "prompt-from is 's01'"),
    ],
)
def test_options_of_guides_need_guides(cache, tmp_path, options, said):
    """They would be ignored, and the name of the file would say that they were not."""
    plain = Sampler.of_run(TINY.trained(TINY.settings(cache, tmp_path, steps=1)))
    plain.check(2, SampleOptions())
    parts = [said, "no guides", "leave it out"]
    refused(parts, plain.check, 2, SampleOptions(z=Steer(**options)))


def test_rows_that_serve_twice_need_a_bank(sampler):
    whole = sampler("whole", text={"target": TEXT, "drop": 0.0, **SMALL})
    parts = ["guide-replace is on", "'bank'", "prior", "leave it out"]
    refused(parts, whole.check, 2, SampleOptions(z=Steer(replace=True)))


def test_a_bank_whose_cache_is_gone_says_where_it_was(cache, tmp_path):
    moved = shutil.copytree(cache, tmp_path / "cache")
    guide = {"memory": {"target": TEXT, "read": "bank"}}
    settings = TINY.settings(moved, tmp_path / "run", steps=1, guide=guide)
    run = TINY.trained(settings)
    shutil.rmtree(moved)
    parts = ["guide.memory", TEXT, f"no cache at {moved}", "put it back", "--shards"]
    refused(parts, draw, Sampler.of_run(run))


def test_a_bank_of_another_cache_is_refused(cache, tmp_path, edit_json, monkeypatch):
    """Its rows are others, or in another order, and every sample would get another z."""
    folder = shutil.copytree(cache, tmp_path / "cache")
    guide = {"memory": {"target": TEXT, "read": "bank"}}
    run = TINY.trained(TINY.settings(folder, tmp_path / "run", steps=1, guide=guide))
    assert draw(Sampler.of_run(run))["z/memory"].shape == (2, 12)
    edit_json(folder / "caption-ngrams" / "column.json", revision="2")
    parts = [str(folder), "revisions.caption-ngrams = '1', now '2'", TEXT, "another z"]
    refused(parts, draw, Sampler.of_run(run))
    shutil.rmtree(folder)
    monkeypatch.setitem(TINY.build.__globals__, "SAMPLES", 48)
    TINY.build(folder)
    refused(["samples = 64, now 48"], draw, Sampler.of_run(run))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"scale": 0.5}, ["guide-scale is 0.5", "at least 1"]),
        ({"scale": math.inf}, ["guide-scale is inf", "finite"]),
        ({"low": 0.8, "high": 0.2}, ["guide-interval [0.8, 0.2]", "[0, 1]"]),
        ({"scale": 2.0, "mixture": True}, ["guide-scale is 2.0", "guide-mixture", "leave one"]),
    ],
)
def test_guidance_that_makes_no_sense_is_refused(options, parts):
    refused(parts, lambda: Steer(**options))
