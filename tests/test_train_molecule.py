"""The trainer on molecules: losses, alignment per molecule and per atom, resuming, the recipes."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from reed import config, open_cache, pipelines
from reed.domains.base import Batch
from reed.errors import ReedError
from reed.seeding import Draws
from reed.train import checkpoint, loop
from reed.train import log as runlog
from reed.train.align import AlignedNet
from reed.train.recipe import TrainConfig, check
from reed.train.run_data import RunData

HERE = Path(__file__).parent
TINY = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_cache.py")))
MOLECULES = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_molecules.py")))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return MOLECULES.build(tmp_path_factory.mktemp("molecules") / "cache")


@pytest.fixture
def make(cache, tmp_path):
    return lambda name="run", **over: MOLECULES.settings(cache, tmp_path / name, **over)


def test_losses_fall_and_cosines_rise(make):
    log = runlog.read(TINY.trained(make(steps=60, optim={"lr": 1e-2}, every={"log": 20})))
    for name in ("element", "bond", "charge"):
        assert log[-1][name] < 0.9 * log[0][name], name
    for name in ("cos/molecule", "cos/atom"):
        assert log[-1][name] > log[0][name] + 0.1, name


def test_ten_steps_and_ten_more_are_twenty(make):
    preview = {"every": 10, "num": 2, "options": {"steps": 2}}
    whole = TINY.trained(make("whole", preview=preview))
    TINY.trained(make("split", steps=10, preview=preview))
    split = TINY.trained(make("split", preview=preview))
    TINY.same(checkpoint.load(split), checkpoint.load(whole))
    assert TINY.lines(split) == TINY.lines(whole)


def test_micro_batches_add_up_to_the_batch(make):
    """And the average moves once per step; the released code moves it with every micro-batch."""
    one, two = (
        checkpoint.load(TINY.trained(make(name, steps=8, accumulate=parts)))
        for name, parts in (("one", 1), ("two", 2))
    )
    for group in ("model", "ema"):
        for name, value in getattr(one, group).items():
            # what is added to all logits of a softmax has no gradient but rounding
            if not name.endswith("message_ff.message_mlp.2.bias"):
                mine = getattr(two, group)[name]
                torch.testing.assert_close(mine, value, rtol=0, atol=2e-4, msg=name)


def test_the_domain_knows_the_sizes_of_its_cache(make):
    sizes = check(make()).domain.sizes
    assert sizes == tuple(sorted(len(MOLECULES.sample(s)["atoms"]) for s in MOLECULES.SMILES))
    with pytest.raises(ReedError, match="net_settings.max_atoms is 8; raise it"):
        check(make(domain={"net_settings": {"max_atoms": 8}}))
    with pytest.raises(ReedError, match="data.orders is missing"):
        check(_without(make()))


def _without(settings: TrainConfig) -> TrainConfig:
    table = config.plain(settings)
    del table["data"]["orders"]
    return config.build(TrainConfig, table)


def test_padding_changes_no_alignment(make):
    """The public code sums the aligned features over padded atoms as well."""
    setup = check(make())
    torch.manual_seed(0)
    model = AlignedNet(setup.domain.net(setup.fields), setup.targets)
    stored = next(iter(setup.stream.batches()))
    values, mask = setup.stream.decode(stored), stored.mask()
    rows, length = mask.shape
    pad = {
        n: torch.nn.functional.pad(v, (0, 0) * (v.ndim - 2) + (0, 8), value=1)
        for n, v in values.items()
        if v.ndim > 1 and v.shape[1] == length
    }
    found = []
    for each, there in ((values, mask), (values | pad, torch.nn.functional.pad(mask, (0, 8)))):
        targets = {name: each[name] for name in setup.targets}
        batch: Batch = setup.domain.collate(each, setup.fields, targets, there)
        whole = setup.domain.corrupt(batch, Draws(0, 0, rows, slice(None)))
        s, size = torch.full((rows,), 0.7), there.shape[1]
        inputs = whole.inputs | {
            "coords": batch.data["coords"],
            "atoms": batch.data["atoms"],
            "bonds": batch.data["bonds"],
            "time": s,
            "mask": there,
        }
        assert inputs["coords"].shape[1] == size
        inputs["twice"] = torch.ones(rows, dtype=torch.bool)
        noised = type(whole)(inputs, 1 - s, batch.data["coords"])
        prediction, aligned = model(noised, batch)
        found.append(aligned.cosines | setup.domain.loss(prediction, noised, batch))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["geom", "molecules-toy"])
@pytest.mark.parametrize("variant", ["", "plain"])
def test_recipes_fit_their_nets(name, variant, cache):
    table = pipelines.recipe(name, variant)
    places = {"shards": str(cache), "run": "run"}
    settings = config.build(TrainConfig, config.merge(table, places))
    assert settings.precision == "fp32"  # in bfloat16 it trains worse, say SemlaFlow's authors
    data = RunData.of_cache(open_cache(cache), settings.data)
    domain = data.make_domain(settings.domain)
    with torch.device("meta"):
        net = domain.net(data.fields)
    assert set(domain.losses) | set(settings.align) == set(settings.curriculum)
    assert all(1 <= each.tap <= len(net.taps()) for each in settings.align.values())


def test_the_trainer_draws_molecules_as_it_goes(make):
    settings = make(steps=2, preview={"every": 2, "num": 3, "options": {"steps": 2}})
    loop.train(settings, progress=False)
    assert list(settings.run.rglob("*.png"))
