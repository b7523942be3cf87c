"""Runs with guides: equal without them, resumed bit for bit, started from files and exported."""

import json
import re
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from reed import config
from reed.cli import train as cli_train
from reed.domains.image import SampleOptions
from reed.flows.samplers import Guidance
from reed.guides.steer import Steer
from reed.guides.training import x_time
from reed.sample.sampler import Sampler
from reed.train import checkpoint, export, public
from reed.train.align import AlignedNet
from reed.train.loop import untrained
from reed.train.recipe import check

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make  # fixtures
lines, same, trained = TINY.lines, TINY.same, TINY.trained
TEXT, GRID = "caption-ngrams/embedding", "digits-vit/tokens"
SMALL = {"hidden": 16, "depth": 1}
GUIDES = {
    "text": {"target": TEXT, "when": "constant", "noise": 0.1, **SMALL},
    "grid": {"target": GRID, "when": "cosine", "read": "mean", "enter": "tokens", **SMALL},
    "cls.1": {"target": TEXT, "read": "joint", "enter": "token"},
    "memory": {"target": TEXT, "read": "bank", "drop": 0.5},
}


OVER = {"guide": GUIDES, "every": {"save": 2, "log": 1}}


@pytest.fixture(scope="module")
def runs(cache, tmp_path_factory):
    """Micro-batches -> four steps with every guide, with a checkpoint after two."""
    folder = tmp_path_factory.mktemp("runs")
    over = OVER | {"steps": 4}
    return {n: trained(TINY.settings(cache, folder / str(n), accumulate=n, **over)) for n in (1, 2)}


@pytest.fixture
def run(runs):
    """The run without micro-batches."""
    return runs[1]


def under(state, prefix):
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}


def equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


def test_a_guide_that_never_enters_is_no_guide(make):
    plain = trained(make("plain", steps=4))
    table = {name: guide | {"when": "never"} for name, guide in GUIDES.items()}
    never = trained(make("never", steps=4, guide=table))
    same(checkpoint.load(never), checkpoint.load(plain))
    assert lines(never) == lines(plain)
    assert not any("guides" in name for name in checkpoint.load(plain).model)


@pytest.fixture
def noised(monkeypatch):
    """What the domain drew in the steps of a run: noised(settings) -> a list of Noised."""
    forward, found = AlignedNet.forward, []

    def spied(self, one, *rest):
        found.append(one)
        return forward(self, one, *rest)

    def of(settings):
        found.clear()
        trained(settings)
        return list(found)

    monkeypatch.setattr(AlignedNet, "forward", spied)
    return of


def test_guides_draw_after_the_domain(make, noised):
    plain, guided = noised(make("plain", steps=3)), noised(make("guided", steps=3, guide=GUIDES))
    assert len(plain) == len(guided) == 3
    for ours, theirs in zip(guided, plain, strict=True):
        equal(ours.inputs, theirs.inputs)
        assert torch.equal(ours.target, theirs.target) and torch.equal(ours.clock, theirs.clock)


def test_a_lag_changes_the_time_of_x_and_no_other_draw(make, noised):
    plain = noised(make("plain", steps=2))
    lagging = GUIDES | {"cls.1": GUIDES["cls.1"] | {"lag": 0.3}}
    for ours, theirs in zip(noised(make(steps=2, guide=lagging)), plain, strict=True):
        assert torch.equal(ours.clock, theirs.t) and not torch.equal(ours.t, theirs.t)
        assert torch.equal(ours.t, x_time(theirs.t, 0.3)) and torch.equal(ours.inputs["t"], ours.t)
        assert torch.equal(ours.inputs["y"], theirs.inputs["y"])
        assert torch.equal(ours.target, theirs.target)  # noise minus data, whatever the time
        moved = (ours.t - theirs.t).view(-1, 1, 1, 1) * theirs.target
        moved = theirs.inputs["x"] + moved
        torch.testing.assert_close(ours.inputs["x"], moved, rtol=0, atol=2e-6)


def test_a_checkpoint_and_its_average_hold_the_guides(run):
    saved = checkpoint.load(run)
    assert {f"net.{name}" for name in saved.ema} == {n for n in saved.model if n[:4] == "net."}
    guides = under(saved.model, "net.guides.")
    assert {name.split(".")[0] for name in guides} == {"text", "grid", "cls·1", "memory"}
    first, last = checkpoint.load(run, 2), saved
    still = [n for n in guides if torch.equal(first.ema[f"guides.{n}"], last.ema[f"guides.{n}"])]
    assert still == []  # every part is trained, and the average follows
    assert all(f"exp_avg/net.guides.{name}" in saved.optim for name in guides)


def test_the_average_of_a_guide_follows_every_step(make):
    saved = trained(make(steps=2, guide=GUIDES, every={"save": 1}))
    one, two = (checkpoint.load(saved, step) for step in (1, 2))
    for name in ("guides.text.head.leave.weight", "guides.memory.null"):
        wanted = 0.9 * one.ema[name] + 0.1 * two.model[f"net.{name}"]
        torch.testing.assert_close(two.ema[name], wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_with_guides_goes_on_bit_for_bit(make, runs, accumulate):
    split = trained(make("split", steps=2, accumulate=accumulate, **OVER))
    trained(make("split", steps=4, accumulate=accumulate, **OVER))
    same(checkpoint.load(split), checkpoint.load(runs[accumulate]))
    assert lines(split) == lines(runs[accumulate])


def test_micro_batches_add_up_to_the_batch(runs):
    TINY.close(checkpoint.load(runs[2]), checkpoint.load(runs[1]), atol=5e-5)


def test_the_log_has_the_error_of_every_z_and_the_loss_is_their_weighted_sum(make):
    guide = {"cls": {"target": TEXT, "read": "joint", "drop": 0.0}}
    weights = {"diffusion": {"start": 0.5, "end": 0.5}, "cls": 2.0}
    log = lines(trained(make(steps=1, guide=guide, curriculum=weights, every={"log": 1})))
    (line,) = log
    total = 0.5 * line["diffusion"] + 2 * line["z/cls"]
    total -= 0.5 * line["cos/digits-vit"] + 0.25 * line["cos/caption-ngrams"]
    assert line["loss"] == pytest.approx(total, abs=1e-5)
    assert line["weight/cls"] == 2.0 and line["z/cls"] > 0.5


def test_every_z_that_can_be_wrong_is_in_the_log(run):
    for line in lines(run):
        named = {n for n in line if n.startswith("z/") and not re.search(r"/t(0|0\.\d)$", n)}
        assert named == {"z/text", "z/grid", "z/cls.1"}
        assert {f"weight/{name[2:]}" for name in named} <= line.keys()


@pytest.fixture(scope="module")
def exported(cache, tmp_path_factory):
    """A public file of a run without guides."""
    folder = tmp_path_factory.mktemp("runs")
    plain = trained(TINY.settings(cache, folder / "plain", steps=2))
    export.write(plain, folder / "plain.pt")
    return folder / "plain.pt"


def started(settings):
    """The model before its first step, and the lines about guides."""
    model, said = untrained(check(settings))
    return model, [line for line in said if " guides " in line]


def test_a_run_with_guides_starts_from_a_public_file(make, exported):
    model, said = started(make(init=str(exported), guide=GUIDES))
    assert said == [f"{exported}: starts the guides text, grid, cls.1, memory fresh"]
    state, fresh = model.net.state_dict(), untrained(check(make(guide=GUIDES)))[0].net.state_dict()
    equal({n: v for n, v in state.items() if n[:6] != "guides"}, public.read(exported).net)
    equal(under(state, "guides."), under(fresh, "guides."))


def test_a_run_with_guides_starts_from_a_run_with_guides(make, run):
    narrow = {"text": GUIDES["text"] | {"hidden": 8}, "grid": GUIDES["grid"]}
    model, said = started(make(init=str(run), guide=GUIDES))
    assert said == [f"{run}: takes over the guides text, grid, cls.1, memory"]
    equal(model.net.state_dict(), checkpoint.load(run).ema)

    model, said = started(make(init=str(run), guide=narrow))
    (line,) = said
    parts = ("takes over the guides grid;", "starts the guides text fresh;", "leaves out the")
    assert all(part in line for part in parts) and line.endswith("guides cls.1, memory"), line
    ours, theirs = model.net.state_dict(), checkpoint.load(run).ema
    equal(under(ours, "guides.grid."), under(theirs, "guides.grid."))
    model, said = started(make(init=str(run)))
    assert said == [f"{run}: leaves out the guides cls.1, grid, memory, text"]
    equal(model.net.state_dict(), {n: v for n, v in theirs.items() if n[:6] != "guides"})


def test_an_export_says_what_it_leaves_out(run, tmp_path):
    out = tmp_path / "x.pt"
    found = CliRunner().invoke(cli_train.main, ["export", str(run), "--out", str(out)])
    assert found.exit_code == 0, found.output
    first, second = found.stdout.splitlines()
    assert first == f"{out}: step 4 of {run}"
    parts = ("public layout", "text, grid, cls.1, memory", f"reed-sample --run {run}")
    assert second.startswith(f"{out}: ") and all(part in second for part in parts), second
    read, saved = public.read(out), checkpoint.load(run)
    equal(read.net, {n: v for n, v in saved.ema.items() if not n.startswith("guides.")})
    assert read.guides == {} and not any("guide" in n for n in torch.load(out)["model"])


def test_an_export_without_guides_says_nothing_of_them(make, tmp_path):
    never = trained(make(steps=1, guide={"text": GUIDES["text"] | {"when": "never"}}))
    out = str(tmp_path / "x.safetensors")
    found = CliRunner().invoke(cli_train.main, ["export", str(never), "--out", out])
    assert found.stdout.splitlines() == [f"{out}: step 1 of {never}"]


DRAWS = {
    "euler": {},
    "heun": {"guidance": Guidance(1.5, 0.2, 0.9)},
    "sde": {"z": Steer(1.5, 0.1, 0.7), "guidance": Guidance(2.0)},
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_sample_and_its_z_depend_on_its_number_alone(run, name):
    options = SampleOptions(sampler=name, steps=4, seed=2, **DRAWS[name])
    sampler = Sampler.of_run(run, precision="fp64")
    whole = sampler.draw(6, options, batch=6, progress=False)
    assert {n for n in whole if n[:2] == "z/"} == {"z/text", "z/grid", "z/cls.1", "z/memory"}
    for size in (1, 4):
        parts = sampler.draw(6, options, batch=size, progress=False)
        for part, value in whole.items():
            assert parts[part] == pytest.approx(value, abs=1e-6), (part, size)
    other = sampler.draw(6, replace(options, seed=3), batch=6, progress=False)
    assert all(np.abs(other[n] - whole[n]).max() > 1e-2 for n in whole if n != "label")


def test_samples_are_drawn_with_the_average_of_the_guides(run):
    average, saved = Sampler.of_run(run), checkpoint.load(run)
    equal(average.net.state_dict(), saved.ema)
    equal(Sampler.of_run(run, ema=False).net.state_dict(), under(saved.model, "net."))


MAIN = "from reed.cli.train import main\nmain(standalone_mode=False)\n"


@pytest.mark.slow
def test_two_processes_train_guides_as_one_does(make, ranks, tmp_path):
    settings = make("two", steps=6, guide=GUIDES)
    (tmp_path / "tiny.json").write_text(json.dumps(config.plain(settings)))
    for process in ranks("-c", MAIN, "--config", str(tmp_path / "tiny.json")):
        error = process.communicate(timeout=200)[1]
        assert process.returncode == 0, error
    one = trained(make("one", steps=6, guide=GUIDES))
    TINY.close(checkpoint.load(settings.run), checkpoint.load(one), atol=5e-5)
