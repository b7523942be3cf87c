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
        found = resolved(sweep, family)
        base = found[family.base]
        if kind == "why":
            continue  # its own test is below
        if base["ema"]:  # the first average is that of the other variants
            assert base["ema"][0] == base["ema_decay"]
            base["ema"] = []
        for name, each in found.items():
            changed = sorted(where[1:] for where, _, _ in config.differences(base, each, ""))
            if kind == "curriculum":
                assert set(changed) <= set(LAWS)
                continue
            guide = [] if name == "never" else ["guide.z"]
            assert changed == sorted(ADDED[name] if kind == "align" else guide)
        assert len({str(each) for each in found.values()}) == len(found), "two variants are equal"


def resolved(sweep, family) -> dict[str, dict]:
    """The settings of every variant of a family on the digits, by name."""
    how = sweep.laid(sweep.Setting(over=TINY), family, "digits", {}, False)
    found = {}
    for name in how.own:
        run = sweep.Run(Path("runs"), Path("cache/digits"), name, 3, "digits")
        settings = sweep.speedup.settings_of(run, how)
        recipe.check(settings)
        found[name] = config.plain(replace(settings, run=Path("runs")))
    return found


def test_what_alignment_may_depend_on_differs_from_its_pair_in_alignment_alone(bench):
    sweep, family = bench("sweep"), bench("families").FAMILIES["why"]
    found = resolved(sweep, family)
    aligned = [name for name in found if name.startswith("repa")]
    assert {name for row in family.panels.values() for name in row} == {*aligned}

    weight, rate = "curriculum.digits-vit", found["repa"]["optim"]["lr"]
    for name in aligned:
        like = family.like(name)
        assert family.caches.get(like) == family.caches.get(name) or "random" in name
        changed = [where for where, _, _ in config.differences(found[like], found[name], "")]
        assert changed == [f".{weight}"] or (changed[0], len(changed)) == (
            ".align.digits-vit.tap",
            2,
        )
        assert found[like]["curriculum"]["digits-vit"] == 0.0
        net = found[name]["domain"]["net_settings"]["hidden_size"] / NET["hidden_size"]
        own = found[name]["optim"]["lr"]
        assert own == rate or net in (4, 16)

    # Of the variants that are asked for, the pairs are there as well.
    own = dict.fromkeys(found, {})
    assert [*sweep.chosen(own, family, ())] == [*found]
    assert {*sweep.chosen(own, family, ("repa, 1k",))} == {"sit", "sit, 1k", "repa, 1k"}
    words = ["--family", "why", "--data", "fashion", "--variant", "repa, 2k"]
    assert (
        "no variant 'repa, 2k'; there are sit, repa" in CliRunner().invoke(sweep.main, words).output
    )
    words = ["--family", "why", "--data", "digits"]
    assert "why is measured on fashion" in CliRunner().invoke(sweep.main, words).output


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
    likes = {"repa": "repa", "more": "repa", "less": "more"}
    lines = bench("sweep").table(found, likes).splitlines()
    assert lines[0].split() == ["repa", "FD", "2.000", "(1.000", "to", "4.000)"]
    assert "-1.000, ratio 0.500 (0.500 to 0.500) to repa, better with 3 of 3" in lines[1]
    assert "+1.100, " in lines[2] and "to more, better with 0 of 3 seeds (p = 0.25)" in lines[2]
