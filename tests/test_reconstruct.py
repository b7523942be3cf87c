"""Averages of other widths, reconstructed from snapshots, against directly tracked ones."""

import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from torch import nn

from reed.cli import completion
from reed.cli import sample as cli_sample
from reed.cli import train as cli_train
from reed.errors import ReedError
from reed.train import averages, checkpoint
from reed.train.ema import Ema, gamma_of, power_decay
from reed.train.reconstruct import _product, error_of, fit, reconstruct

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make  # fixtures
trained = TINY.trained
PAIR = ["sigma_rel=0.05", "sigma_rel=0.1"]
STEPS = 36


@pytest.mark.parametrize("width", [0.05, 0.07, 0.15])
@pytest.mark.parametrize("time", [1.0, 0.4])
def test_products_of_profiles_are_their_integrals(width, time):
    tau = (np.arange(200_000) + 0.5) / 200_000
    gamma, other = gamma_of(width), gamma_of(0.1)
    own = np.where(tau < time, (gamma + 1) * tau**gamma / time ** (gamma + 1), 0)
    theirs = np.where(tau < 0.6, (other + 1) * tau**other / 0.6 ** (other + 1), 0)
    exact = _product(np.array(time), np.array(gamma), np.array(0.6), np.array(other))
    assert float(exact) == pytest.approx((own * theirs).mean(), rel=1e-3)


@pytest.mark.parametrize(("width", "step"), [(0.05, 40), (0.1, 30)])
def test_a_tracked_width_is_its_own_snapshot(width, step):
    steps, widths = [10, 20, 30, 40] * 2, [0.05] * 4 + [0.1] * 4
    weights = fit(steps, widths, step, width)
    alone = np.array([s == step and w == width for s, w in zip(steps, widths, strict=True)])
    np.testing.assert_allclose(weights, alone, atol=1e-6)
    assert error_of(weights, steps, widths, step, width) < 1e-6


@pytest.mark.parametrize("width", [0.04, 0.07, 0.15, 0.2])
def test_a_reconstructed_average_is_the_tracked_one(width):
    """Weights that wander as in training, 1200 steps, 40 snapshots: within 1e-3."""
    torch.manual_seed(0)
    net = nn.Linear(500, 1)
    tracked = Ema(net, power_decay(0.05), {w: power_decay(float(w)) for w in ("0.1", str(width))})
    found = []
    for step in range(1, 1201):
        with torch.no_grad():
            net.weight.add_(0.03 * torch.randn_like(net.weight))
        tracked.update(step)
        if step % 30 == 0:
            for w, state in (("0.05", tracked.state_dict()), ("0.1", tracked.others()["0.1"])):
                found.append((step, float(w), state["weight"].double().clone()))
    steps, widths, states = zip(*found, strict=True)
    weights = fit(steps, widths, 1200, width)
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    ours = sum(weight * state for weight, state in zip(weights, states, strict=True))
    exact = tracked.others()[str(width)]["weight"].double()
    assert (ours - exact).norm() < 1e-3 * exact.norm()
    # the net's own weights, and the nearest snapshot, are far from it
    assert (net.weight - exact).norm() > 0.05 * exact.norm()
    assert (states[-1] - exact).norm() > 0.01 * exact.norm()


def test_the_documented_errors_of_profiles():
    page = Path(__file__).parents[1] / "docs" / "recipes.md"
    lines = page.read_text().partition("| steps with a snapshot |")[2].splitlines()
    told = [[cell.strip(" %") for cell in line.split("|")] for line in lines[:6]]
    wanted = [float(width) for width in told[0][:-1]]
    for _, count, *shares, _ in told[2:]:
        steps = [i * 1000 for i in range(1, int(count) + 1)] * 2
        widths, last = [0.05] * int(count) + [0.1] * int(count), steps[-1]
        for width, share in zip(wanted, shares, strict=True):
            error = 100 * error_of(fit(steps, widths, last, width), steps, widths, last, width)
            assert error == pytest.approx(float(share), rel=0.05, abs=0.005), (count, width)


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    """A run that also tracks the widths that are reconstructed from the two others."""
    folder = tmp_path_factory.mktemp("runs") / "several"
    over = {"ema": [0.9, *PAIR, "sigma_rel=0.075"], "every": {"snapshot": 3, "save": 20}}
    return trained(TINY.settings(cache, folder, steps=STEPS, keep=1, **over))


@pytest.fixture
def pair(run, tmp_path):
    """The same run as if it had not tracked the third width."""
    folder = tmp_path / "pair"
    shutil.copytree(run, folder)
    table = json.loads((folder / "config.json").read_text())
    table |= {"run": str(folder), "ema": [0.9, *PAIR]}
    (folder / "config.json").write_text(json.dumps(table))
    for file in folder.rglob("ema.sigma_rel=0.075.safetensors"):
        file.unlink()
    return folder


def call(command, *words):
    found = CliRunner().invoke(command.main, [str(word) for word in words])
    return found.exit_code, found.output


def test_snapshots_hold_the_power_function_averages(run):
    assert list(averages.snapshots(run)) == list(range(3, STEPS + 1, 3))
    folder = averages.snapshots(run)[STEPS]
    saved = checkpoint.load(run, averages=PAIR)
    for name in PAIR:
        with safe_open(folder / f"ema.{name}.safetensors", "pt") as file:
            held = {key: file.get_tensor(key) for key in file.keys()}
        assert all(torch.equal(held[key], value) for key, value in saved.averages[name].items())
    assert checkpoint.steps(run) == [STEPS]  # keep = 1 keeps every snapshot


def test_a_width_of_a_run_is_reconstructed_and_sampled(run, pair):
    exact = checkpoint.load(run, averages=["sigma_rel=0.075"]).averages["sigma_rel=0.075"]
    code, said = call(cli_train, "average", pair, "--sigma-rel", 0.075)
    assert code == 0 and "from snapshots of 12 steps, 3 to 36; error of the profile 0." in said
    assert f"reed-sample --run {pair} --ema sigma_rel=0.075" in said
    ours = checkpoint.load(pair, averages=["sigma_rel=0.075"]).averages["sigma_rel=0.075"]
    assert list(ours) and ours.keys() == exact.keys()
    off = sum((ours[key] - value).square().sum() for key, value in exact.items()).sqrt()
    size = sum(value.square().sum() for value in exact.values()).sqrt()
    assert off < 1e-3 * size
    assert torch.equal(ours["pos_embed"], exact["pos_embed"])  # it never changes
    # it is found by name, after those of the recipe
    assert list(completion.averages(pair)) == ["0.9", *PAIR, "sigma_rel=0.075"]
    words = (pair, "--num", 2, "--steps", 1, "--ema", "sigma_rel=0.075")
    assert call(cli_sample, *words)[0] == 0
    drawn = pair / "samples" / f"step-00000{STEPS}-ema-sigma_rel=0.075-euler1-fp32.json"
    assert json.loads(drawn.read_text())["ema"] == "sigma_rel=0.075"


def test_snapshots_go_on_as_if_never_stopped(make):
    over = {"ema": PAIR, "every": {"snapshot": 2}}
    whole = trained(make("whole", steps=6, **over))
    trained(make("split", steps=3, **over))
    split = trained(make("split", steps=6, **over))
    for file in sorted((whole / "snapshots").rglob("*.safetensors")):
        assert file.read_bytes() == (split / file.relative_to(whole)).read_bytes()


def test_a_width_of_averages_that_are_updated_every_third_step(make):
    """The checkpoint of step 16 holds the averages of step 15."""
    over = {"every": {"average": 3, "snapshot": 3}}
    three = trained(make("three", steps=16, ema=[*PAIR, "sigma_rel=0.075"], **over))
    exact = checkpoint.load(three, averages=["sigma_rel=0.075"]).averages["sigma_rel=0.075"]
    pair = trained(make("pair", steps=16, ema=PAIR, **over))
    made = reconstruct(pair, 0.075)
    assert made.steps == list(range(3, 16, 3)) and made.file.parent.name == "step-0000016"
    ours = checkpoint.load(pair, averages=[made.name]).averages[made.name]
    off = sum((ours[key] - value).square().sum() for key, value in exact.items()).sqrt()
    assert off < 1e-3 * sum(value.square().sum() for value in exact.values()).sqrt()


def test_a_width_that_cannot_be_reconstructed(run, pair, make):
    for width, message in (
        (0.3, r"ema: sigma_rel is 0.3, it must be above 0 and at most 0.2887"),
        (0.0, r"sigma_rel is 0.0"),
        (0.05, r"pair has the average sigma_rel=0.05 already; draw samples with --ema sigma"),
    ):
        with pytest.raises(ReedError, match=message):
            reconstruct(pair, width)
    for step in list(averages.snapshots(pair))[:-2]:
        shutil.rmtree(averages.snapshots(pair)[step])
    with pytest.raises(
        ReedError,
        match=r"4 snapshots up to step 36, which give sigma_rel 0.2 with an error of \d\d.\d%, at "
        r"most 5% is allowed; choose a width nearer to 0.05 and 0.1, or train with a smaller",
    ):
        reconstruct(pair, 0.2)
    (averages.snapshots(pair)[33] / "ema.sigma_rel=0.05.safetensors").write_bytes(b"half")
    with pytest.raises(ReedError, match=r"0000033/ema.* cannot be read: .*; remove .*0000033$"):
        reconstruct(pair, 0.06)


def test_a_run_without_two_widths_says_what_to_train(make):
    settings = make(steps=1, ema=[0.9, "sigma_rel=0.05"])
    with pytest.raises(ReedError, match=r"run has the averages 0.9, sigma_rel=0.05, and a width"):
        reconstruct(trained(settings), 0.07)
    with pytest.raises(ReedError, match=r"every.snapshot is 5, and the recipe has 1 power-funct"):
        make(ema=[0.9, "sigma_rel=0.05"], every={"snapshot": 5})
