"""Several averages of a run: trained, saved, resumed, chosen, sampled, exported."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from reed.errors import ReedError
from reed.train import averages, checkpoint

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make  # fixtures
same, trained = TINY.same, TINY.trained
THREE = [0.9, 0.5, "sigma_rel=0.10"]
NAMES = ["0.9", "0.5", "sigma_rel=0.1"]


def everything(run, step=None):
    return checkpoint.load(run, step, averages=NAMES[1:])


def equal(ours, theirs):
    """Two checkpoints are equal bit for bit, with all averages."""
    same(ours, theirs)
    for name, state in theirs.averages.items():
        assert all(torch.equal(ours.averages[name][key], value) for key, value in state.items())


def test_several_averages_are_those_of_runs_with_one(make):
    """The first is the average of an old recipe, and training is the same bit for bit."""
    several = trained(make("several", steps=6, ema=THREE))
    saved = everything(several)
    for name, over in {
        "0.9": {},  # ema_decay of the tiny recipe
        "0.5": {"ema_decay": 0.5},
        "sigma_rel=0.1": {"ema_sigma_rel": 0.1},
    }.items():
        alone = checkpoint.load(trained(make(f"alone-{name}", steps=6, **over)))
        state = saved.averages.get(name, saved.ema)
        assert all(torch.equal(state[key], value) for key, value in alone.ema.items()), name
        same(saved, alone, ("model", "optim"))
    assert sorted(path.name for path in (several / "step-0000006").iterdir()) == [
        "ema.0.5.safetensors",
        "ema.safetensors",
        "ema.sigma_rel=0.1.safetensors",
        "model.safetensors",
        "optim.safetensors",
        "state.json",
    ]


def test_several_averages_go_on_as_if_never_stopped(make):
    whole = trained(make("whole", steps=8, ema=THREE, every={"save": 4}))
    split = trained(make("split", steps=4, ema=THREE))
    equal(everything(split), everything(whole, 4))
    trained(make("split", steps=8, ema=THREE))
    equal(everything(split), everything(whole))


def test_a_run_with_other_averages_is_another_run(make):
    run = trained(make(steps=2, ema=THREE)).name
    with pytest.raises(ReedError, match=r"was trained with ema = \[0.9, 0.5, .*now it is \[0.9\]"):
        trained(make(run, steps=2, ema=[0.9]))


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"ema": [0.9, 0.90]}, r"ema is \[0.9, 0.9\], which has 0.9 twice; leave one out"),
        ({"ema": [0.9, "0.9"]}, r"has 0.9 twice"),
        ({"ema": [1.0]}, r"ema: decay is 1.0, it must be at least 0 and below 1"),
        ({"ema": ["sigma_rel=0.4"]}, r"ema: sigma_rel is 0.4, .*above 0 and at most 0.2887"),
        ({"ema": ["sigma_rel=x"]}, r"ema: 'sigma_rel=x' is no average; give a decay such as"),
        ({"ema": ["wide"]}, r"ema: 'wide' is no average; .* or a width such as \"sigma_rel=0.05\""),
        ({"ema": [True]}, r"ema\[0\] cannot be True"),
        ({"ema": 0.9}, r"ema must be a list, got 0.9"),
        (
            {"ema": [0.9], "ema_sigma_rel": 0.1},
            r"ema is \[0.9\] and ema_sigma_rel is 0.1, .*add \"sigma_rel=0.1\" to ema and leave",
        ),
    ],
)
def test_bad_averages(make, over, message):
    with pytest.raises(ReedError, match=message):
        make(**over)


def test_an_average_is_chosen_by_name(make, tmp_path):
    settings = make(ema=THREE)
    folder = tmp_path / "run" / "step-0000007"
    for name in ("ema", "ema.0.5", "ema.sigma_rel=0.1", "ema.sigma_rel=0.07", "model"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.safetensors").write_bytes(b"")
    own = settings.averages()
    assert list(own) == NAMES
    # what was reconstructed comes after those of the recipe
    assert list(averages.stored(folder, own)) == [*NAMES, "sigma_rel=0.07"]
    for wanted, name, file in (
        ("", "0.9", "ema"),
        ("0.9", "0.9", "ema"),
        ("0.500", "0.5", "ema.0.5"),
        ("sigma_rel=0.10", "sigma_rel=0.1", "ema.sigma_rel=0.1"),
    ):
        found = averages.chosen(settings.run, None, own, wanted)
        assert found == (name, folder / f"{file}.safetensors")
    with pytest.raises(ReedError, match=r"0000007 has no average 0.99; it has 0.9, 0.5, sigma_rel"):
        averages.chosen(settings.run, 7, own, "0.99")
    with pytest.raises(ReedError, match=r"--ema: 'best' is no average"):
        averages.chosen(settings.run, 7, own, "best")
    # an old recipe has one, with a name
    assert list(make(ema_decay=0.999).averages()) == ["0.999"]
    assert list(make(ema_sigma_rel=0.05).averages()) == ["sigma_rel=0.05"]
