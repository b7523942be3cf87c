"""Ranges of earlier runs of a recipe, and a run that leaves them; points of other runs."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from reed import config, pipelines
from reed.cli.train import main
from reed.errors import ReedError
from reed.train import expected
from reed.train.log import RunLog
from reed.train.run_data import RunData
from reed.train.settings import Reference, TrainConfig
from reed.view.pages import scores

SETTINGS = {
    "shards": "cache/mine",
    "run": "runs/x",
    "steps": 40,
    "batch": 8,
    "data": {"x": "pixels/pixels"},
    "domain": {},
    "align": {"vit": {"target": "vit/tokens", "tap": 2}},
    "curriculum": {"diffusion": 1.0, "vit": 0.5},
}
DATA = RunData("image", "ranged:PIPELINE", 8, {}, {})


def a_run(place: Path, seed: int, shift: float = 0.0, **over) -> Path:
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(SETTINGS | {"seed": seed} | over))
    with RunLog(place, 0) as log:
        for step in (10, 20, 40):
            values = {"diffusion": 1 / step + shift, "cos/vit": step / 100, "grad_norm": 1.0}
            log.write(step, values | {"samples_per_s": 7.0 + shift, "loss": 0.0})
    return place


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ranged.py").write_text("")
    return [a_run(tmp_path / f"seed={seed}", seed, seed / 100) for seed in range(3)]


def settings(**over) -> TrainConfig:
    return config.build(TrainConfig, SETTINGS | over)


def test_ranges_are_the_least_and_the_greatest_value_and_between_steps_a_straight_line(runs):
    found = expected.write(runs, Path("ranged.expected.json"))
    assert found.runs == 3
    assert list(found.ranges) == ["diffusion", "cos/vit", "grad_norm", "loss"]
    diffusion = found.ranges["diffusion"]
    # Student's law with 2 degrees of freedom: F(t) = 1/2 + t / sqrt(8 + 4 t^2), 4 quantities.
    tail = 0.01 / 8
    t = (1 - 2 * tail) * math.sqrt(2 / (4 * tail * (1 - tail)))
    assert 0.5 - t / math.sqrt(8 + 4 * t * t) == pytest.approx(tail)
    slack = t * 0.01 * math.sqrt(4 / 3)
    assert diffusion.at(20) == pytest.approx((0.05, 0.07, slack), abs=1e-6)
    between = ((0.05 + 0.025) / 2, (0.07 + 0.045) / 2, slack)
    assert diffusion.at(30) == pytest.approx(between, abs=1e-6)
    assert found.ranges["cos/vit"].at(20) == (0.2, 0.2, 0.004)  # equal runs: 2 % of the value
    assert diffusion.at(9) is None and diffusion.at(41) is None


def test_a_run_of_the_recipe_is_told_once_what_left_its_range(runs):
    expected.write(runs, Path("ranged.expected.json"))
    watch = expected.watch(settings(seed=9, run="runs/other"), DATA)
    assert watch is not None
    usual = {"diffusion": 0.06, "cos/vit": 0.2, "grad_norm": 1.0}
    high, low = usual | {"diffusion": 0.5}, usual | {"diffusion": -0.5}
    assert watch.unusual(20, usual) == []
    for line in (high, high, usual, high, high, low, low):  # never three in a row on one side
        assert watch.unusual(20, line) == []
    (said,) = watch.unusual(20, low)
    assert said.startswith("step 20: diffusion is -0.5; 3 runs of this recipe had 0.05 to 0.07")
    assert watch.unusual(50, low | {"cos/vit": 9.0}) == []  # there is no range there
    for _ in range(2):
        assert watch.unusual(20, {"grad_norm": 1.1, "cos/vit": 0.1, "diffusion": 0.5}) == []
    said = watch.unusual(20, {"grad_norm": 1.1, "cos/vit": 0.1, "diffusion": 0.5})
    assert [line.split()[2] for line in said] == ["cos/vit", "grad_norm"]


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_run_that_resumes_is_told_what_it_would_have_been_told(runs, stop, capsys):
    """The third value in a row is told, wherever the run stopped, and is not told again."""
    expected.write(runs, Path("ranged.expected.json"))
    place = Path("resumed")
    place.mkdir()
    high, said = {"diffusion": 0.5, "grad_norm": 1.0}, []
    for steps in (range(20, 20 + stop), range(20 + stop, 26)):
        watch = expected.watch(settings(seed=9, run="resumed"), DATA)
        with RunLog(place, steps[0] - 1, unusual=watch.unusual) as log:
            for step in steps:
                log.write(step, high)
        said += capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in said if line] == ["step 22: diffusion is 0.5"]


STEPS = range(20, 801, 20)


def synthetic(seed: int, offset: float = 0.01, odd: str = "") -> list[dict[str, float]]:
    """The log of a run: curves with an offset of the run, drifts, noise, and spiky gradients.

    The run is odd in one way from step 400 on, if any.
    """
    draws = np.random.default_rng(seed)
    own = dict(zip(("loss", "diffusion", "cos/vit", "cos/text"), draws.normal(size=4), strict=True))
    drift, lines = dict.fromkeys(own, 0.0), []
    for step in STEPS:
        line = {"step": step}
        for name, shift in own.items():
            drift[name] = 0.8 * drift[name] + draws.normal(0, 0.006)
            curve = 0.8 - 0.6 * math.exp(-step / 150)
            line[name] = curve if name.startswith("cos/") else 1.4 - curve
            line[name] += offset * shift + drift[name] + draws.normal(0, 0.02)
        line["grad_norm"] = math.exp(draws.normal(0.2, 0.3)) * (5 if draws.random() < 0.05 else 1)
        if step >= 400:
            line["loss"] *= 1.02 ** ((step - 400) / 2) if odd == "loss" else 1
            line["cos/vit"] *= 0.5 if odd == "cos/vit" else 1
            line["grad_norm"] *= 20 if odd == "grad_norm" else 1
        lines.append({name: float(value) for name, value in line.items()} | {"step": step})
    return lines


def ranges_of(runs: list[list[dict[str, float]]]) -> expected.Watch:
    names = [name for name in runs[0][0] if name != "step"]
    times = expected._times(len(runs), len(names))
    by_step = [{line["step"]: line for line in run} for run in runs]
    steps = list(by_step[0])
    ranges = {name: expected._range(name, steps, by_step, times) for name in names}
    return expected.Watch(expected.Expected({}, len(runs), ranges), Path("x"))


def said_of(watch: expected.Watch, run: list[dict[str, float]]) -> list[str]:
    fresh = expected.Watch(watch.expected, watch.path)
    return [line for values in run for line in fresh.unusual(values["step"], values)]


def test_ordinary_runs_are_not_unusual_and_odd_ones_are():
    watch = ranges_of([synthetic(seed) for seed in range(5)])
    assert [said for seed in range(5, 205) for said in said_of(watch, synthetic(seed))] == []
    for odd in ("loss", "cos/vit", "grad_norm"):
        for seed in range(300, 310):
            (said,) = said_of(watch, synthetic(seed, odd=odd))
            assert f": {odd} is" in said and 400 <= int(said.split()[1][:-1]) <= 600


@pytest.mark.parametrize("runs", [3, 5, 8])
def test_a_distance_that_a_run_keeps_is_unusual_as_rarely_as_stated(runs):
    draws, alarms, rounds = np.random.default_rng(runs), 0, 200
    for _ in range(rounds):
        values = draws.normal(size=(runs + 1, 4))  # 4 quantities, each the same at all steps
        lines = [
            [{"step": s, **dict(zip("abcd", v.tolist(), strict=True))} for s in range(4)]
            for v in values
        ]
        alarms += bool(said_of(ranges_of(lines[:-1]), lines[-1]))
    assert alarms <= 0.02 * rounds  # twice what is stated, for chance


def test_a_default_that_came_later_leaves_a_file_as_good_as_it_was(runs):
    path = Path("ranged.expected.json")
    expected.write(runs, path)
    entries = json.loads(path.read_text())
    for name in ("guide", "precision", "ema"):
        del entries[0]["recipe"][name]
    del entries[0]["recipe"]["align"]["vit"]["release"]
    path.write_text(json.dumps(entries))
    assert expected.watch(settings(), DATA) is not None
    assert expected.watch(settings(precision="fp32"), DATA) is None
    expected.write(runs, path)  # replaces it
    assert len(json.loads(path.read_text())) == 1

    entries[0]["recipe"]["no_more"] = 1
    path.write_text(json.dumps(entries))
    assert expected.watch(settings(), DATA) is None


def test_the_digits_have_ranges_of_their_recipe_as_it_is_now():
    place = {"shards": "cache/digits", "run": "runs/x", "seed": 77, "preview": {"every": 5}}
    table = config.merge(pipelines.recipe("digits"), place)
    data = RunData("image", "digits", 1797, {}, {})
    watch = expected.watch(config.build(TrainConfig, table), data)
    assert watch is not None and watch.expected.runs >= 5
    names = {"diffusion", "loss", "cos/digits-vit", "cos/caption-ngrams", "grad_norm"}
    assert watch.expected.ranges.keys() == names

    # What went wrong is seen; a run that learns nothing has the first cosines.
    first = {name: known.low[0] for name, known in watch.expected.ranges.items()}
    said = [line for step in (760, 780, 800) for line in watch.unusual(step, first)]
    assert any("cos/digits-vit" in line for line in said)


@pytest.mark.parametrize("over", [{"steps": 80}, {"batch": 16}, {"curriculum": {"vit": 0.1}}])
def test_a_run_of_another_recipe_is_not_compared(runs, over):
    expected.write(runs, Path("ranged.expected.json"))
    assert expected.watch(settings(**over), DATA) is None


def test_without_a_file_or_away_from_the_pipeline_nothing_is_compared(runs, monkeypatch):
    assert expected.watch(settings(), DATA) is None
    assert pipelines.expected("nowhere_at_all:PIPELINE") is None


def test_ranges_of_other_recipes_stay_in_the_file_and_new_ones_replace_their_own(runs):
    path = Path("ranged.expected.json")
    other = [a_run(Path(f"b/seed={seed}"), seed, batch=16) for seed in range(3)]
    expected.write(runs, path)
    expected.write(other, path)
    expected.write(runs, path)
    assert [entry["recipe"]["batch"] for entry in json.loads(path.read_text())] == [16, 8]


def test_what_gives_no_ranges_is_refused(runs):
    path = Path("ranged.expected.json")
    with pytest.raises(ReedError, match="3 seeds or more, one run of each: 2 with seed 0, 1"):
        expected.write(runs[:2], path)
    odd = a_run(Path("odd"), 7, batch=16)
    with pytest.raises(ReedError, match="recipes: batch is 16 and 8; give runs"):
        expected.write([*runs, odd], path)
    more = {"vit": SETTINGS["align"]["vit"], "text": {"target": "text/tokens", "tap": 2}}
    odd = a_run(Path("more"), 7, align=more)
    with pytest.raises(ReedError, match=r"align.text is \{'target'.* and not set; give runs"):
        expected.write([*runs, odd], path)
    (late := a_run(Path("late"), 8)) and (late / "metrics.jsonl").write_text('{"step": 5}\n')
    with pytest.raises(ReedError, match="no logged step in common"):
        expected.write([*runs, late], path)
    path.write_text("{")
    with pytest.raises(ReedError, match="reed-train report --expect"):
        expected.watch(settings(), DATA)


def test_a_page_and_ranges_are_not_asked_for_at_once(runs):
    words = ["report", *map(str, runs), "--expect", "a.expected.json", "--out", "a.html"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2 and "in place of a page, which --out a.html names" in done.stderr
    assert not Path("a.expected.json").exists()


def test_runs_of_one_seed_count_once(runs):
    again = a_run(Path("again"), 2, 0.02)
    with pytest.raises(ReedError, match="one run of each: 4 with seed 0, 1, 2 were given"):
        expected.write([*runs, again], Path("ranged.expected.json"))


@pytest.mark.parametrize(
    ("column", "values", "part"),
    [
        ("low", [0.1], "not one low, high and slack for each step"),
        ("slack", [0.1, math.nan, 0.1], "not finite"),
        ("steps", [10, 40, 20], "do not increase"),
        ("high", [0.1, None, 0.1], "must be float"),
    ],
)
def test_a_damaged_file_is_refused_before_the_first_step(runs, column, values, part):
    path = Path("ranged.expected.json")
    expected.write(runs, path)
    entries = json.loads(path.read_text())
    entries[0]["ranges"]["loss"][column] = values
    for text, told in ((json.dumps(entries), part), ('{"a": 1}', "no list"), ("[" * 99999, "")):
        path.write_text(text)
        with pytest.raises(ReedError, match=f"cannot read .*{told}.*reed-train report --expect"):
            expected.watch(settings(), DATA)


def test_the_command_writes_the_file_and_a_training_run_reads_it(tmp_path, monkeypatch, capfd):
    tiny = runpy.run_path(str(Path(__file__).with_name("tiny_cache.py")))
    assert tiny
    monkeypatch.chdir(tmp_path)
    runs = [a_run(tmp_path / "sweep" / f"seed={seed}", seed) for seed in range(3)]
    words = ["report", str(runs[0].parent), "--expect", "ranged.expected.json"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert "4 quantities of 3 runs" in done.output
    (tmp_path / "ranged.py").write_text("")
    watch = expected.watch(settings(), DATA)
    with RunLog(tmp_path, 0, (), watch.unusual) as log:
        for step in (10, 20, 30):
            log.write(step, {"diffusion": 3.0})
    assert "step 30: diffusion is 3" in capfd.readouterr().err


def test_points_of_other_runs_are_a_line_of_the_chart_of_their_metric():
    points = {"REPA": {"metric": "fid", "points": {"400000": 7.9, "100000": 19.4}, "source": "x"}}
    (chart,) = scores.charts([], several=False, references=points)
    assert chart.title == "fid" and "REPA: x." in chart.caption


def test_points_that_are_no_steps_are_refused():
    with pytest.raises(ReedError, match="400000"):
        Reference("fid", {"400K": 7.9})
    with pytest.raises(ReedError):
        Reference("fid", {})


def test_published_points_of_imagenet_are_in_its_recipe():
    found = pipelines.recipe("imagenet")["reference"]
    assert (
        found["REED"]["points"]["300000"] == 8.2 and found["SiT-XL/2"]["points"]["7000000"] == 8.3
    )
