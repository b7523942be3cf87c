"""make bench-sweep and make bench-align: their variants fit the recipes, and what they print."""

from __future__ import annotations

import importlib
import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import reed.cli.cache
from reed import config
from reed.train import recipe

BENCH = Path(__file__).with_name("bench")
Inline = runpy.run_path(str(Path(__file__).with_name("inline.py")))["Inline"]
ADDED = {  # the settings that a variant of `align` changes
    "sit": ["curriculum.digits-vit"],
    "repa": [],
    "spatial": ["align.digits-vit.normalize.kind"],
    "irepa": ["align.digits-vit.head", "align.digits-vit.normalize.kind"],
    "gram": ["align.digits-vit.loss"],
    "token-weight": ["align.digits-vit.token_weight"],
    "va-repa": ["align.digits-vit.time_weight"],
    "release": ["align.digits-vit.release"],
    "plateau": ["align.digits-vit.release"],
    "muon": ["optim.groups.blocks"],
    "logit-normal": ["domain.times"],
    "x-prediction": ["domain.predict"],
    "class-tokens": ["domain.net_settings.class_tokens"],
    "modern-net": [f"domain.net_settings.{name}" for name in ("norm", "mlp", "rope", "qk_norm")],
}
LAWS = [f"curriculum.{name}" for name in ("diffusion", "digits-vit", "caption-ngrams")]
NET = {"hidden_size": 16, "depth": 3, "num_heads": 2}
TINY = {"steps": 8, "batch": 4, "precision": "fp32", "domain": {"net_settings": NET}}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the cache of the digits where the benchmarks look for it."""
    found = tmp_path_factory.mktemp("families")
    words = ["build", "digits", "--cache", str(found / "cache/digits")]
    built = CliRunner().invoke(reed.cli.cache.main, words)
    assert built.exit_code == 0, built.output
    return found


@pytest.fixture
def bench(monkeypatch, place):
    """A module of the benchmarks by name; it works in that folder."""
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.chdir(place)
    return importlib.import_module


def test_variants_fit_their_recipe_and_change_what_they_say(bench):
    sweep, families = bench("sweep"), bench("families")
    for kind, family in families.FAMILIES.items():
        how = sweep.laid(sweep.Setting(over=TINY), family, "digits", {}, False)
        found = {}
        for name in how.own:
            run = sweep.Run(Path("runs"), Path("cache/digits"), name, 3, "digits")
            settings = sweep.speedup.settings_of(run, how)
            recipe.check(settings)
            found[name] = config.plain(replace(settings, run=Path("runs")))
        base = found[family.base]
        if base["ema"]:  # the first average is that of the other variants
            assert base["ema"][0] == base["ema_decay"]
            base["ema"] = []
        for name, each in found.items():
            changed = sorted(where[1:] for where, _, _ in config.differences(base, each, ""))
            if kind == "curriculum":
                assert set(changed) <= {*LAWS, "align.digits-vit.tap"}
                continue
            guide = [] if name == "never" else ["guide.z"]
            assert changed == sorted(ADDED[name] if kind == "align" else guide)
        assert len({str(each) for each in found.values()}) == len(found), "two variants are equal"


def test_parts_of_alignment_are_compared_from_end_to_end(bench, monkeypatch):
    sweep, families = bench("sweep"), bench("families")
    tables = {name: families.align("digits")[name] for name in ("repa", "sit")}
    family = replace(families.FAMILIES["align"], variants=lambda data: tables, points=2)
    monkeypatch.setitem(sweep.FAMILIES, "align", family)
    monkeypatch.setitem(sweep.SETTINGS, "cpu", sweep.Setting(over=TINY))
    monkeypatch.setattr(sweep, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(sweep, "build", lambda run, setting: None)
    monkeypatch.setattr(sweep, "OPTIONS", replace(sweep.OPTIONS, steps=2))
    draw = sweep.speedup.draw
    few = lambda run, step, how, *rest: draw(run, step, replace(how, drawn=8), *rest)  # noqa: E731
    monkeypatch.setattr(sweep.speedup, "draw", few)

    def table() -> str:
        words = ["--data", "digits", "--family", "align", "--seeds", "1"]
        done = CliRunner().invoke(sweep.main, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert Path("runs/bench/align-digits-cpu.png").is_file()
        return done.output.partition("\nrepa ")[2]

    first = table()
    root = Path("runs/bench/align-digits-cpu-8")
    found = json.loads((root / "distances.json").read_text())
    ways = ["average 0.95", "average sigma_rel=0.1", "autoguidance 1.5"]
    assert list(found) == ["repa", *(f"repa {way}" for way in ways), "sit"]
    assert len({found[name][0] for name in list(found)[:4]}) == 4

    # What was measured is read again, and so is what a stopped run had.
    monkeypatch.setattr(sweep.speedup, "draw", None)
    assert table() == first
    words = ["--family", "align"]
    assert "measured on digits and fashion" in CliRunner().invoke(sweep.main, words).output


def test_the_table_compares_runs_of_one_seed(bench):
    found = {"repa": [1.0, 2.0, 4.0], "more": [0.5, 1.0, 2.0], "less": [1.1, 2.1, 3.9]}
    lines = bench("sweep").table(found, "repa").splitlines()
    assert lines[0].split() == ["repa", "FD", "2.000", "(1.000", "to", "4.000)"]
    assert "-1.000, ratio 0.500 (0.500 to 0.500) to repa, better with 3 of 3" in lines[1]
    assert "+0.100, " in lines[2] and "better with 1 of 3 seeds (p = 1.00)" in lines[2]
