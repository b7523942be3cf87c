"""The sums of bench-online, and the benchmark from end to end with a random teacher."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed.experiments import real_layouts

BENCH = Path(__file__).with_name("bench")
TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_real.py"))))


@pytest.fixture
def online(monkeypatch, tmp_path):
    """The benchmark's module; it writes into a folder of the test."""
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("online")


def both(seconds: float) -> dict[str, float]:
    return {"clock": seconds, "CPU": 2 * seconds}


def test_what_the_cache_saves_is_what_steps_and_stage_one_add_up_to(online):
    """100 steps an epoch; stage one takes 60 s, a step 1 s and 1.5 s with the teacher."""
    found = {"stage one": both(60), "cached": both(1), "online": both(1.5)}
    for epochs, cached, taught in ((1, 160, 150), (5, 560, 750)):
        assert online.totals(found, 100, epochs) == {"online": both(taught), "cached": both(cached)}
    assert online.break_even(found, 100, "clock") == online.break_even(found, 100, "CPU") == 1.2
    assert online.break_even(found | {"online": both(1)}, 100, "CPU") == float("inf")
    figures = {figure.name: figure for figure in online.figures_of([found, found], 100)}
    assert figures["cached / online, 5 epochs, clock"].value == pytest.approx(560 / 750)
    assert figures["break-even, CPU"].value == 1.2
    assert figures["a step, online, CPU"].value == 3.0


def test_rounds_that_are_there_are_kept(online, monkeypatch, tmp_path):
    calls = []

    class Ways:
        batch, samples = 4, 40

        def __init__(self, *_: object) -> None: ...

        def round(self) -> dict:
            calls.append("steps")
            return {"cached": both(1), "online": both(2)}

    cache, place = tmp_path / "cache", tmp_path / "rounds.json"
    (cache / online.TARGET).mkdir(parents=True)
    (cache / online.TARGET / "shard").write_bytes(b"12345")
    monkeypatch.setattr(online, "stage_one", lambda *_: calls.append("one") or both(3))
    monkeypatch.setattr(online, "Ways", Ways)
    rounds, sizes = online.measure(place, "fashion", "cpu", cache, 2)
    assert calls == ["one", "steps"] * 3  # the first of each is not counted
    assert sizes == {"batch": 4, "images": 40, "bytes": 5} and len(rounds) == 2
    assert online.measure(place, "fashion", "cpu", cache, 2) == (rounds, sizes)
    assert len(calls) == 6 and json.loads(place.read_text())["rounds"] == rounds
    assert len(online.measure(place, "fashion", "cpu", cache, 3)[0]) == 3 and len(calls) == 10


def test_what_is_missing_is_said(online):
    done = CliRunner().invoke(online.main, ["--rounds", "1"])
    assert done.exit_code == 1
    assert "there is no data/fashion/train-1k.zip: make data-fashion" in done.output


@pytest.mark.slow
def test_online_goes_all_the_way(online, monkeypatch, tmp_path):
    """Tiny photographs and a teacher with random weights; its tokens are those of the column."""
    import timm
    import torch

    from reed.cache.opened import open_cache

    weights = tmp_path / "data" / "weights" / "efficientnet-lite0.pth"
    weights.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), weights)
    package = TINY.fashion(tmp_path / "any.deb")
    (tmp_path / "data" / "fashion").mkdir()
    real_layouts.fashion({"dataset-fashion-mnist": package}, tmp_path / "data" / "fashion")
    small = {"net_settings": {"hidden_size": 16, "depth": 3, "num_heads": 1}}
    over = {"batch": 4, "precision": "fp32", "domain": small}
    setting = online.judged.Setting(over=over, build={"lite0.precision": "fp32"})
    monkeypatch.setattr(online.judged, "setting_of", lambda *_: setting)
    monkeypatch.setitem(online.STEPS, "cpu", 2)
    done = CliRunner().invoke(online.main, ["--rounds", "1"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    sizes = json.loads(Path("runs/bench/online-fashion-cpu/rounds.json").read_text())["sizes"]
    assert (sizes["batch"], sizes["images"]) == (4, 40)
    assert "10 steps of 4 are an epoch" in done.output
    content = json.loads(Path("runs/bench/online-fashion-cpu.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in content["figures"]}
    assert figures["stage one, clock"] > 0 < figures["break-even, CPU"]

    run = online.judged.Run("fashion", tmp_path, Path("cache/online-fashion-cpu"), "repa", 0)
    ways = online.Ways(run, setting, 1)
    with open_cache(run.cache) as opened:
        record = next(iter(opened.records("image")))[1]["image"]
    pixels = torch.from_numpy(np.ascontiguousarray(record))[None]
    ways._channels = 1280
    own = ways.teacher.encode([{"image": record.transpose(1, 2, 0)}])["tokens"]
    assert np.array_equal(ways.tokens(pixels).numpy(), own)
    assert "timm" in sys.modules
