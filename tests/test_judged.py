"""The arithmetic of bench-speedup on real data, on cases whose answers are known."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest

BENCH = Path(__file__).with_name("bench")


@pytest.fixture
def bench(monkeypatch):
    """A module of the benchmarks by name."""
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


def test_an_interval_covers_the_mean_and_equal_values_have_none(bench):
    paired = bench("paired")
    assert paired.bootstrap([2.0] * 5) == paired.Interval(2.0, 2.0, 2.0)
    found = paired.ratio([0.5, 2.0])
    assert found.mean == pytest.approx(1.0)
    assert (found.low, found.high) == pytest.approx((0.5, 2.0))  # both draws alike: one in four
    assert found.text(2) == "1.00 (0.50 to 2.00)"
    draws = np.random.default_rng(1).normal(3.0, 1.0, 400)
    wide = paired.bootstrap(draws)
    assert (wide.high - wide.low) / 2 == pytest.approx(1.96 * draws.std() / 20, rel=0.1)


def test_the_sign_test_is_the_binomial(bench):
    paired = bench("paired")
    assert paired.sign_test([1] * 5, [2] * 5) == (5, 5, 0.0625)
    assert paired.sign_test([3, 1, 1, 1, 1, 1], [2] * 6) == (5, 6, 14 / 64)
    assert paired.sign_test([1, 2], [2, 1]) == (1, 2, 1.0)
    assert paired.sign_test([1, 2], [1, 2]) == (0, 0, 1.0)


def test_the_table_counts_steps_on_the_logarithm_of_the_distance(bench, tmp_path, capsys):
    table = bench("judged_table")

    def record(factor: float) -> dict[str, dict[str, float]]:
        """FD falls by a power of the step, so that log FD is linear in log step."""
        rest = {"kid": 0.001, "accuracy": 0.5, "nearest": 1.0, "copies": 0.01}
        return {str(s): {"fd": 100 * (factor * s / 100) ** -0.5, **rest} for s in (100, 200, 400)}

    places = {}
    for variant, factor in {"sit": 1.0, "repa": 1.6, "reed": 0.5}.items():
        for seed in range(3):
            places[variant, seed] = tmp_path / f"{variant}-{seed}.json"
            if (variant, seed) != ("reed", 2):
                places[variant, seed].write_text(json.dumps(record(factor)))
    floor = {"fd": 3.0, "kid": 0.0, "accuracy": 0.9, "nearest": 1.0, "copies": 0.01}
    (tmp_path / "floor.json").write_text(json.dumps(floor))
    table.publish(tmp_path, places, "tiny")
    said = capsys.readouterr().out
    assert said == (tmp_path / "table.md").read_text() + (
        f"\n{tmp_path / 'table.md'}, {tmp_path / 'curves.png'}\n"
    )
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines()[2:7]]
    rows = {line[0]: line for line in lines}
    assert said.startswith("tiny: 2 seeds, 400 steps") and rows["sit"][2:5] == ["", "", ""]
    end = f"{1.6**-0.5:.3f}"
    assert rows["repa"][2] == f"{end} ({end} to {end})"
    assert rows["repa"][3] == "2 of 2, p = 0.500"
    assert rows["repa"][4] == "1.60 (1.60 to 1.60)"
    assert rows["reed"][4] == "at most 1.00 (1.00 to 1.00), not reached in 2"

    # Numbers that are known since later are shown where they are there.
    floor |= {"samples": 6, "reference": 7, "largest": 0.5}
    floor |= {"training": {"fd": 4.56, "kid": 0.0012}}
    (tmp_path / "floor.json").write_text(json.dumps(floor))
    table.publish(tmp_path, places, "tiny")
    said = capsys.readouterr().out
    assert said.startswith("tiny: 2 seeds, 400 steps, 6 samples against 7 held-out images\n")
    assert "| 0.900 (0.500 are of the largest class) |" in said
    assert "\n| training images | 4.6 |  |  |  | 1.20 |  |  |  |\n" in said

    places = {key: place.with_suffix(".none") for key, place in places.items()}
    with pytest.raises(click.ClickException, match="no seed has all of sit, repa, reed yet"):
        table.publish(tmp_path, places, "tiny")


def test_a_judge_knows_real_images_copies_and_classes(bench, tmp_path):
    judge = bench("judge")
    draws = np.random.default_rng(0)

    def features(count: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 3
        x = draws.normal(size=(count, 6)) + 4 * np.eye(6)[labels] + shift
        return x.astype(np.float32), labels

    (train, labels), (real, _), (other, given) = features(600), features(600), features(300)
    made = judge.Judge(train, real, other, labels, given)
    made.save(tmp_path / "judge.npz")
    found = judge.Judge.load(tmp_path / "judge.npz")
    floor = found.floor()
    assert floor["nearest"] == 1.0 and floor["accuracy"] > 0.9
    assert floor["copies"] == pytest.approx(0.01, abs=0.005)
    assert floor["fd"] < 0.5 and abs(floor["kid"]) < 1

    copied = found.measure(train[:300], labels[:300])
    assert copied["nearest"] < 0.01 and copied["copies"] == 1.0
    moved = found.measure(other + 1.0, given)
    assert moved["fd"] - floor["fd"] == pytest.approx(6.0, abs=1.0) and moved["kid"] > floor["kid"]
    wrong = found.measure(other, (given + 1) % 3)
    assert wrong["accuracy"] < 0.1 and wrong["fd"] == floor["fd"]
    near = judge.nearest(other[:5], train)
    brute = np.sqrt(np.square(other[:5, None] - train).sum(2)).min(1)
    assert near == pytest.approx(brute, rel=1e-3)


def test_few_held_out_images_that_are_alike_do_not_set_the_mark(bench):
    """Both halves hold the same ten things, as an emoji in six skin tones; training has others."""
    judge = bench("judge")
    draws = np.random.default_rng(0)

    def features(things: np.ndarray, each: int) -> np.ndarray:
        return np.repeat(things, each, 0) + 0.1 * draws.normal(size=(each * len(things), 4))

    def made(held: np.ndarray, known: np.ndarray):
        labels = np.arange(len(known)) % 2
        return judge.Judge(known, held[::2], held[1::2], labels, np.arange(len(held) // 2) % 2)

    known = features(draws.normal(size=(600, 4)), 1)
    alike = made(features(draws.normal(size=(10, 4)), 20), known).floor()
    assert (alike["samples"], alike["reference"], alike["largest"]) == (100, 100, 0.5)
    assert alike["training"]["fd"] > 10 * alike["fd"]
    assert alike["training"]["kid"] > 5 * abs(alike["kid"])
    # Of things that are all different, both are as near.
    apart = made(features(draws.normal(size=(200, 4)), 1), known).floor()
    assert apart["training"]["fd"] < 3 * apart["fd"] and abs(apart["training"]["kid"]) < 0.3

    # For the classes of the others, in their shares; more than there are come twice.
    x = np.arange(6.0)[:, None] + np.zeros((6, 3))
    few = judge.Judge(x, x, x, np.array([0, 0, 0, 0, 1, 1]), np.array([1] * 6))
    assert few.training() == few.to_real(x[np.random.default_rng(0).choice([4, 5], 6)])


def test_copies_are_found_where_some_held_out_images_are_copies(bench):
    """The threshold was 0 where more than 1 % of the held-out images are: nothing lay below it."""
    judge = bench("judge")
    train, real, other = np.random.default_rng(0).normal(size=(3, 400, 8)).astype(np.float32) + 50
    labels = np.zeros(400, int)
    clean = judge.Judge(train, real, other, labels, labels)
    assert clean.near == np.quantile(clean.distances, 0.01)
    assert clean.floor()["copies"] == 0.01  # 4 of 400
    other[:20] = train[:20]
    made = judge.Judge(train, real, other, labels, labels)
    assert made.near == pytest.approx(clean.near, rel=0.1)
    assert made.floor()["copies"] == pytest.approx(0.06, abs=0.003)
    assert made.measure(train, labels)["copies"] == 1.0
    same = judge.Judge(train, real, train[:50], labels, labels[:50])
    assert same.near == 0.0 and not same.distances.any()


def test_every_setting_fits_its_recipe(bench, tmp_path):
    judged = bench("judged")
    for data in judged.DATA:
        for name in ("cpu", "gpu"):
            setting = judged.setting_of(data, name)
            for variant in judged.VARIANTS:
                run = judged.Run(data, tmp_path, tmp_path / "cache", variant, 7)
                settings = judged.settings_of(run, setting)
                assert settings.every.save == settings.steps // setting.points
                assert settings.seed == 7 and settings.run == run.folder
    assert judged.setting_of("emoji", "gpu").build["source.resolution"] == 64


def test_missing_data_say_which_command_fetches_them(bench, tmp_path, monkeypatch):
    judged = bench("judged")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(click.ClickException, match="make data-emoji"):
        judged.prepare(judged.Run("emoji", tmp_path, tmp_path, "sit", 0), judged.Setting())


def test_records_of_another_judge_are_not_mixed(bench, tmp_path):
    judged = bench("judged")
    judged.write_floor(tmp_path, {"fd": 144.0})
    judged.write_floor(tmp_path, {"fd": 139.0})  # nothing was judged yet
    (tmp_path / "sit-0").mkdir()
    (tmp_path / "sit-0" / "judged-1000.json").write_text("{}")
    judged.write_floor(tmp_path, {"fd": 139.001})
    with pytest.raises(click.ClickException, match=r"FD of 139.0, now it is 144.0, so the 1 rec"):
        judged.write_floor(tmp_path, {"fd": 144.0})
    assert json.loads((tmp_path / "floor.json").read_text()) == {"fd": 139.001}


def test_some_images_of_a_data_set_are_of_all_its_classes(bench, tmp_path):
    """Class folders come one after another: the first images are of one class."""
    judge, layouts = bench("judge"), importlib.import_module("reed.experiments.real_layouts")
    tiny = SimpleNamespace(
        **importlib.import_module("runpy").run_path(str(BENCH.with_name("tiny_real.py")))
    )
    content = tiny.image(0)
    pictures = [layouts.Picture(c, f"{i}.png", c, content) for c in "abcd" for i in range(25)]
    layouts.pack(tmp_path / "test.zip", pictures, 100)
    found = judge.from_files(tmp_path / "test.zip", {"resolution": 4}, (*"abcd",), 40)
    counts = np.bincount(found.labels, minlength=4)
    assert counts.sum() == 40 and counts.min() >= 5
    again = judge.from_files(tmp_path / "test.zip", {"resolution": 4}, (*"abcd",), 40)
    assert np.array_equal(again.labels, found.labels)


def test_images_in_files_come_in_the_order_and_the_classes_of_the_cache(bench, tmp_path, capsys):
    judge, layouts = bench("judge"), importlib.import_module("reed.experiments.real_layouts")
    tiny = SimpleNamespace(
        **importlib.import_module("runpy").run_path(str(BENCH.with_name("tiny_real.py")))
    )
    pictures = [layouts.Picture(c, f"{i}.png", c, tiny.image(i)) for i, c in enumerate("bcab")]
    layouts.pack(tmp_path / "test.zip", pictures, 4)
    found = judge.from_files(tmp_path / "test.zip", {"resolution": 8}, ("a", "b"), 10)
    assert found.images.shape == (3, 8, 8, 3) and sorted(found.labels) == [0, 1, 1]
    assert (
        "test.zip: 1 of 4 images are left out: they cannot be read, or" in capsys.readouterr().err
    )
    assert judge.classes_of(tmp_path / "test.zip") == ("a", "b", "c")
    halves = judge.split(found, 5)
    assert [len(half.images) for half in halves] == [2, 1]
    assert math.isclose(sum(half.labels.sum() for half in halves), 2)


def test_scenes_are_judged_from_end_to_end(bench, tmp_path, monkeypatch):
    judged = bench("judged")
    small = {"hidden_size": 16, "depth": 3, "num_heads": 1}
    tiny = judged.Setting(
        over={"steps": 2, "batch": 4, "precision": "fp32", "domain": {"net_settings": small}},
        images=24,
        points=1,
        drawn=6,
        real=20,
        options=judged.SampleOptions(steps=1),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(judged, "setting_of", lambda data, name: tiny)

    def inline(runs, setting):
        for run in runs:
            judged.measured(run, setting)

    monkeypatch.setattr(judged, "measure_all", inline)
    words = ["--data", "scenes", "--seeds", "1", "--variant", "sit", "--variant", "repa"]
    judged.main(words, standalone_mode=False)
    root = tmp_path / "runs/bench/judged-scenes-cpu"
    table = (root / "table.md").read_text()
    assert "| repa |" in table and "1 seed, 2 steps" in table and (root / "curves.png").is_file()

    monkeypatch.setattr(judged, "draw", None)  # a rerun finds everything measured
    judged.main(words, standalone_mode=False)
    judged.main([*words, "--table"], standalone_mode=False)
    assert (root / "table.md").read_text() == table


def test_a_figure_has_a_dot_for_each_seed_and_passes_over_what_is_missing(
    bench, tmp_path, monkeypatch
):
    dots, kept = bench("dots"), []
    pyplot = dots.plotting()
    monkeypatch.setattr(pyplot, "close", kept.append)
    found = {"plain": {0: {"fcd": 3.0}, 1: {"fcd": None}}, "aligned": {0: {"fcd": 2.0}, 1: {}}}
    measure = bench("paired").Measure
    heads = (measure("fcd", "FCD"), measure("novelty", "novel"))  # the latter is known of no run
    dots.draw_measures(found, heads, tmp_path / "seeds.png", "1 seed")
    assert (tmp_path / "seeds.png").is_file()
    (axes,) = kept[0].axes
    drawn = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    assert [list(row) for row in drawn] == [[3.0], [2.0]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["plain", "aligned"]
