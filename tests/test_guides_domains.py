"""Guides in the three domains: training, and samples that depend on their number alone."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from reed.domains.image import SampleOptions
from reed.domains.molecule_options import MoleculeOptions
from reed.domains.protein import DesignOptions
from reed.errors import ReedError
from reed.evaluate.protein import perplexity, structures_of
from reed.guides.guide import Guides
from reed.guides.steer import Steer
from reed.sample.sampler import Sampler
from reed.train import checkpoint, log

HERE = Path(__file__).parent
TINY = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_cache.py")))
CHAINS = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_chains.py")))
MOLECULES = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_molecules.py")))

WORLDS = {"image": TINY, "protein": CHAINS, "molecule": MOLECULES}
VECTORS = {
    "image": "caption-ngrams/embedding",
    "protein": "summary/whole",
    "molecule": "teacher/sample",
}
CASES = [(kind, read) for kind in WORLDS for read in ("prior", "mean", "joint", "bank")]
CASES.remove(("protein", "joint"))


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    return {kind: world.build(folder / kind) for kind, world in WORLDS.items()}


@pytest.fixture(scope="module")
def make(caches, tmp_path_factory):
    """(kind, guides by name) -> the settings of a run with them."""
    folder, count = tmp_path_factory.mktemp("runs"), iter(range(1000))

    def settings(kind, guide, **over):
        table = {
            name: {"target": VECTORS[kind], "hidden": 16, "depth": 1} | entry
            for name, entry in guide.items()
        }
        run = folder / f"{kind}-{next(count)}"
        return WORLDS[kind].settings(caches[kind], run, **({"guide": table, "steps": 4} | over))

    return settings


@pytest.fixture(scope="module")
def samplers(make):
    """(kind, read) -> a sampler in float64 of a short run, trained once."""
    made = {}

    def sampler(kind, read, **entry):
        key = (kind, read, *sorted(entry.items()))
        if key not in made:
            when = "start" if read == "joint" else "constant"
            guide = {"z": {"read": read, "when": when} | entry}
            made[key] = Sampler.of_run(TINY.trained(make(kind, guide)), precision="fp64")
        return made[key]

    return sampler


def options(kind, caches, **over):
    if kind == "image":
        return SampleOptions("heun", 5, **over)
    if kind == "molecule":
        return MoleculeOptions(6, atoms=7, **over)
    structures = tuple(structures_of(caches["protein"], CHAINS.DATA))[:3]
    return DesignOptions(structures, each=4, steps=9, **over)


def same(a, b, atol=1e-9):
    """Two sets of samples are equal, numbers up to rounding in float64."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(b[name], value, rtol=0, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(b[name], value, err_msg=name)


@pytest.mark.parametrize(("kind", "read"), CASES)
def test_a_sample_depends_on_its_number_alone(kind, read, samplers, caches):
    sampler, chosen = samplers(kind, read), options(kind, caches)
    whole = sampler.draw(12, chosen, batch=12, progress=False)
    assert whole["z/z"].shape[0] == 12 and np.isfinite(whole["z/z"]).all()
    assert len(np.unique(whole["z/z"].round(6), axis=0)) > 1
    # float32 results of float64 nets may differ in their last bit
    for batch in (1, 5):
        parts = sampler.draw(12, chosen, batch=batch, progress=False)
        same(whole, parts, atol=2e-6)


@pytest.mark.parametrize(("kind", "read"), CASES)
def test_a_scale_of_one_is_no_guidance_and_two_is(kind, read, samplers, caches):
    sampler = samplers(kind, read)
    plain, one, two = (
        sampler.draw(4, options(kind, caches, z=z), batch=4, progress=False)
        for z in (Steer(), Steer(2.0, 0.0, 0.0), Steer(3.0))
    )
    same(plain, one)
    assert plain["z/z"].shape == two["z/z"].shape
    if kind == "image":  # a few steps of training change no letter and no atom
        assert np.abs(plain["x"] - two["x"]).max() > 1e-6


def test_a_bank_gives_every_sample_a_row_of_the_column(samplers, caches):
    from reed import open_cache

    sampler, place = samplers("image", "bank"), VECTORS["image"]
    with open_cache(caches["image"]) as cache:
        column = np.stack([item[place] for item in cache.dataset([place])])
    drawn = sampler.draw(len(column), options("image", caches), batch=8, progress=False)["z/z"]
    order = [int(np.abs(column - row).sum(1).argmin()) for row in drawn]
    assert sorted(order) == list(range(len(column))) and order != sorted(order)
    np.testing.assert_allclose(drawn, column[order], rtol=0, atol=1e-6)

    sampler.check(len(column), options("image", caches))
    with pytest.raises(ReedError, match=f"{len(column) + 1} samples need a row each"):
        sampler.check(len(column) + 1, options("image", caches))
    sampler.check(len(column) + 1, options("image", caches, z=Steer(replace=True)))


@pytest.mark.parametrize(("kind", "read"), CASES)
def test_samples_get_the_rows_of_prompts_in_turn(kind, read, samplers, caches):
    """What they become depends on the prompt, and on their numbers as ever."""
    from reed import open_cache

    sampler, place = samplers(kind, read), VECTORS[kind]
    with open_cache(caches[kind]) as cache:
        dataset = cache.dataset([place])
        keys, rows = dataset.keys[4:1:-2], [dataset[number][place] for number in (4, 2)]
    chosen = options(kind, caches, z=Steer(prompt=tuple(keys)))
    sampler.check(1000, chosen)  # a bank would have to have as many rows
    drawn = sampler.draw(6, chosen, batch=6, progress=False)
    np.testing.assert_allclose(drawn["z/z"], np.stack(rows * 3), rtol=0, atol=1e-6)
    parts = sampler.draw(6, chosen, batch=4, progress=False)
    same(drawn, parts, atol=2e-6)
    if kind == "image":  # as above
        other = replace(chosen, z=Steer(prompt=(keys[0],)))
        other = sampler.draw(6, other, batch=6, progress=False)
        apart = np.abs(other["x"] - drawn["x"]).reshape(6, -1).max(1) > 1e-7
        assert apart[1::2].all() and not apart[::2].any()


@pytest.mark.parametrize("solver", ["euler", "heun", "sde"])
def test_a_z_beside_x_goes_straight_to_the_row_of_its_prompt(solver, samplers, caches, monkeypatch):
    """Whatever the solver: the net must see what it saw in training, a noised row."""
    lag = {} if solver == "sde" else {"lag": 0.3}
    sampler, seen, extra = samplers("image", "joint", **lag), [], Guides.extra

    def spied(guides, entries):
        seen.append(entries["z"].z.double().numpy())
        return extra(guides, entries)

    monkeypatch.setattr(Guides, "extra", spied)
    chosen = SampleOptions(solver, 6, z=Steer(prompt=(keys_of(caches)[5],)))
    row = sampler.draw(2, chosen, batch=2, progress=False)["z/z"].astype(float)
    times = [((z - row) / (seen[0] - row)) for z in seen]
    assert all(np.ptp(time) < 1e-5 for time in times)
    last = {"euler": 0.0, "heun": 0.0, "sde": 0.04}[solver]  # with a lag of 0.3, z is there first
    assert times[0].max() == 1 and times[-1].mean() == pytest.approx(last, abs=1e-6)
    assert len(seen) == {"euler": 6, "heun": 11, "sde": 6}[solver]


def keys_of(caches):
    from reed import open_cache

    with open_cache(caches["image"]) as cache:
        return cache.plan.keys


def test_the_row_that_a_bank_draws_is_the_prompt_of_its_key(samplers, caches):
    sampler = samplers("image", "bank")
    plain = sampler.draw(1, options("image", caches), batch=1, progress=False)
    keys = keys_of(caches)
    for key in keys:
        one = options("image", caches, z=Steer(prompt=(key,)))
        drawn = sampler.draw(1, replace(one, steps=1), batch=1, progress=False)
        if np.allclose(drawn["z/z"], plain["z/z"], rtol=0, atol=1e-6):
            break
    same(sampler.draw(1, one, batch=1, progress=False), plain, atol=0)


def test_guidance_without_dropped_samples_is_refused(samplers, caches):
    sampler = samplers("image", "prior", drop=0.0)
    with pytest.raises(ReedError, match="guide-scale is 2.0, and guide.z.drop is 0"):
        sampler.draw(2, options("image", caches, z=Steer(2.0)), batch=2, progress=False)


def test_proteins_refuse_a_z_beside_x(make):
    from reed.train.recipe import check

    with pytest.raises(ReedError, match="sampler of a MPNN moves x alone; use prior"):
        check(make("protein", {"z": {"read": "joint"}}))
    with pytest.raises(ReedError, match="lag is 0.3, and the sampler of a Semla"):
        check(make("molecule", {"z": {"read": "joint", "lag": 0.3}}))


@pytest.mark.parametrize("kind", WORLDS)
def test_the_criterion_of_z_falls(kind, make):
    guide = {"z": {"read": "prior", "when": "start"}, "mean": {"read": "mean"}}
    lines = log.read(TINY.trained(make(kind, guide, steps=60, optim={"lr": 1e-2})))
    for name in ("z/z", "z/mean"):
        assert lines[-1][name] < 0.9 * lines[0][name], name


@pytest.mark.parametrize("kind", WORLDS)
def test_ten_steps_and_ten_more_are_twenty(kind, make):
    guide = {"z": {"read": "prior", "when": "constant"}, "row": {"read": "bank"}}
    whole = TINY.trained(make(kind, guide, steps=8))
    settings = make(kind, guide, steps=4)
    TINY.trained(settings)
    split = TINY.trained(replace(settings, steps=8))
    TINY.same(checkpoint.load(split), checkpoint.load(whole))
    assert any(name.startswith("guides.z.head.") for name in checkpoint.load(whole).ema)


def test_a_perplexity_sees_no_representation(make, caches):
    """It is that of the net with nothing but the learned null."""
    sampler = Sampler.of_run(TINY.trained(make("protein", {"z": {"read": "bank"}})))
    structures = structures_of(caches["protein"], CHAINS.DATA)[:4]
    before = perplexity(sampler.net, structures)["perplexity"]
    guide = sampler.net.guides["z"]
    guide.enter.bias.data += 1.0  # what the null enters as
    assert perplexity(sampler.net, structures)["perplexity"] != before
