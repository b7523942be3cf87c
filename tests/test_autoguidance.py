"""AutoGuidance: against its formula on nets of known velocity, and from runs on disk."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from reed.cache.schema import Field
from reed.cli import sample
from reed.domains.image import ImageDomain, SampleOptions
from reed.errors import ReedError
from reed.flows.autoguidance import Pair, autoguided_velocity
from reed.flows.samplers import Guidance
from reed.sample.sampler import Sampler
from reed.sample.weak import guided_by

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache = TINY.cache  # fixture
FIELDS = {"x": Field("pixels", "data", (1, 2, 2)), "label": Field("label", "label", (), "int64")}
DOMAIN = ImageDomain(classes=3, label_dropout=0.0)


class Known(nn.Module):
    """A net whose velocity is `factor` times the label plus one, whatever x is."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x, t, y):
        return self.factor * (y + 1.0).view(-1, 1, 1, 1).expand_as(x), {}


def test_the_velocity_is_that_of_the_formula():
    pair, y = Pair(Known(2.0), Known(0.5)), torch.tensor([0, 2])
    velocity = autoguided_velocity(pair, y, Guidance(3.0, 0.2, 0.6))
    x = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        guided, plain = velocity(x, 0.7, 0.6), velocity(x, 0.6, 0.7)
    # 0.5 + 3 (2 - 0.5) = 5 times 1 and 3; outside of the interval, 2 times these.
    assert guided[:, 0, 0, 0].tolist() == [5, 15] and guided.dtype == torch.float64
    assert plain[:, 0, 0, 0].tolist() == [2, 6]


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_samples_need_no_dropped_labels(sampler, dropout):
    """The velocity is constant, so x moves by it times the time: 8 of 10 steps are guided."""
    domain = replace(DOMAIN, label_dropout=dropout)
    options = SampleOptions(sampler, 10, Guidance(3.0, 0.25, 1.0))
    with torch.no_grad():
        pair = Pair(Known(2.0), Known(0.5))
        ours = domain.generate(pair, FIELDS, range(3), options)["x"]
        still = domain.generate(Known(0.0), FIELDS, range(3), SampleOptions(steps=1))["x"]
    size = np.array([1, 2, 3]) if not dropout else np.array([4, 4, 4])
    expected = -(0.8 * 5 + 0.2 * 2) * size
    np.testing.assert_allclose((ours - still)[:, 0, 0, 0], expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def runs(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def trained(name, **over):
        return TINY.trained(TINY.settings(cache, folder / name, **over))

    table = {"optim": {"lr": 1e-2}, "ema_decay": 0.5}
    strong = trained("strong", steps=4, every={"save": 2}, **table)
    weak = trained("weak", steps=2, domain={"net_settings": {"mlp_ratio": 1.0}}, **table)
    return strong, weak, trained("x", steps=1, domain={"predict": "x"})


def call(*words):
    more = ["--num", "2", "--steps", "2", "--device", "cpu", "--precision", "fp32"]
    return CliRunner().invoke(sample.main, [*map(str, words), *more])


def test_a_weak_run_guides_and_is_recorded(runs, tmp_path):
    strong, weak, _ = runs
    found = call(strong, "--weak-run", weak, "--guidance", 2, "--out", tmp_path / "a")
    assert found.exit_code == 0, found.output
    said = json.loads((tmp_path / "a.json").read_text())
    other = Sampler.of_run(weak)
    assert said["weak"]["weights"] == other.about["weights"] and said["weak"]["step"] == 2
    assert said["weak_checkpoint"].startswith(str(weak)) and said["step"] == 4

    # By hand: Euler in two steps, with both nets.
    sampler = Sampler.of_run(strong)
    options = SampleOptions(steps=2, guidance=Guidance(2.0))
    y = torch.tensor([0, 1])
    with torch.no_grad():
        plain = guided_by(Sampler.of_run(strong), other).batch(0, options, 2)["x"]
        sampler.net.final_layer.linear.weight.mul_(0)
        sampler.net.final_layer.linear.bias.mul_(0)
        shift = sampler.fields["x"].shift[0]
        x = sampler.batch(0, SampleOptions(steps=1), 2)["x"]  # noise, in the stored scale
        x = torch.from_numpy((x - shift) * sampler.fields["x"].scale[0])
        first = Sampler.of_run(strong)
        for t in (1.0, 0.5):
            times = torch.full((2,), t)
            v, v_weak = first.net(x, times, y)[0], other.net(x, times, y)[0]
            x = x - 0.5 * (v_weak + 2 * (v - v_weak))
    back = x.numpy() / sampler.fields["x"].scale[0] + shift
    np.testing.assert_allclose(plain, back, rtol=0, atol=1e-4)
    assert np.abs(plain - first.batch(0, SampleOptions(steps=2), 2)["x"]).max() > 1e-3

    # The same command adds nothing; without the weak run, it is another set.
    again = call(strong, "--weak-run", weak, "--guidance", 2, "--out", tmp_path / "a")
    assert again.exit_code == 0, again.output
    plain = call(strong, "--guidance", 2, "--out", tmp_path / "a")
    assert plain.exit_code == 2 and "was drawn with weak = {" in plain.stderr
    assert ", now without it; choose another --out" in plain.stderr


def test_an_earlier_step_of_the_run_may_be_the_weak_one(runs):
    strong = runs[0]
    found = call(strong, "--weak-run", strong, "--weak-step", 2, "--guidance", 1.5)
    assert found.exit_code == 0, found.output
    name = "step-0000004-weak-strong-step-0000002-euler2-cfg1.5-fp32.json"
    assert json.loads((strong / "samples" / name).read_text())["weak"]["step"] == 2
    # A net that guides itself changes nothing.
    options = SampleOptions(steps=2, guidance=Guidance(3.0))
    alone = Sampler.of_run(strong).batch(0, replace(options, guidance=Guidance()), 2)["x"]
    sampler = Sampler.of_run(strong)
    sampler.net = Pair(sampler.net, Sampler.of_run(strong).net)
    np.testing.assert_array_equal(sampler.batch(0, options, 2)["x"], alone)


def test_what_cannot_guide_is_one_line(runs, monkeypatch):
    strong, weak, other = runs
    for words, part in (
        (["--weak-run", weak], "a weak run guides with a --guidance above 1, and it is 1.0"),
        (["--weak-run", other, "--guidance", 2], "predict is 'x', not 'v'; choose a weaker run"),
        (["--weak-run", strong, "--guidance", 2], "nothing would be guided; choose an earlier"),
        (["--weak-run", strong, "--weak-step", 4, "--guidance", 2], "has the weights that it is"),
        (["--weak-step", 2], "--weak-step belongs to --weak-run"),
        (["--weak-run", strong, "--weak-step", 3, "--guidance", 2], "no checkpoint of step 3"),
    ):
        found = call(strong, *words)
        assert found.exit_code == 2 and part in found.stderr, found.output
    sampler, again = Sampler.of_run(strong), Sampler.of_run(strong)
    with monkeypatch.context() as patch, pytest.raises(ReedError, match="has guides, and no weak"):
        patch.setattr("reed.sample.weak.guides_of", lambda net: object())
        guided_by(sampler, again)
    sampler.domain = SimpleNamespace()
    with pytest.raises(ReedError, match="of kind 'image' cannot be guided by a weak run"):
        guided_by(sampler, again)
