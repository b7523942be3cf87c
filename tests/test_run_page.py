"""The page of a run, and of several: what it says equals what the folder holds, in a browser."""

from __future__ import annotations

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from reed.cli.train import main
from reed.errors import ReedError
from reed.train.log import RunLog

pytest.importorskip("plotly")

from reed.view.pages import comparison, curves, run, run_folder, scores  # noqa: E402

TINY = runpy.run_path(str(Path(__file__).with_name("tiny_cache.py")))
HOSTILE = "<img src=x onerror=document.title='taken'>&amp;"
SETTINGS = {
    "shards": "no/such/cache",
    "run": "runs/x",
    "steps": 40,
    "batch": 8,
    "precision": "fp32",
    "data": {"x": "pixels/pixels"},
    "align": {"vit": {"target": "vit/tokens", "tap": 2}, "off": {"target": "text/all", "tap": 2}},
    "curriculum": {
        "diffusion": {"kind": "linear", "start": 0.0, "end": 1.0, "ends": "50%"},
        "vit": 0.5,
        "off": 0.0,
    },
    "optim": {"lr": 1e-3, "clip": 1.0, "schedule": 1.0},
    "every": {"log": 10, "save": 20},
}


def line(step: int, shift: float = 0.0, **more) -> dict:
    return {
        "diffusion": 1 / step + shift,
        "cos/vit": step / 100 + shift,
        "loss": -step / 200,
        "grad_norm": 1.5 + shift,
        "weight/diffusion": min(1, (step - 1) / 20),
        "weight/vit": 0.5,
        "lr": 1e-3,
        "samples": 8 * step,
        "samples_per_s": 160.0,
        "wait_share": 0.02,
    } | more


def write_run(place: Path, steps=(10, 20, 30, 40), previews=(), shift=0.0, **over) -> Path:
    """A run folder as the trainer leaves it, but for checkpoints."""
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(SETTINGS | over))
    with RunLog(place, 0) as log:
        for step in steps:
            log.write(step, line(step, shift))
        for step in previews:
            log.picture(step, np.full((8, 8, 3), step, np.uint8))
    return place


def write_score(place: Path, name: str, step, values: dict, num=256, warnings=(), **more) -> None:
    """A record as reed-eval writes it."""
    record = {
        "samples": {"place": "s.npz", "num": num},
        "reference": {"place": "cache/digits"},
        "metrics": {k: {"value": v, "features": "digits-mlp", "k": 3} for k, v in values.items()},
        "recipe": {"step": step, "sampler": "euler", "steps": 50},
        "stage_one": {"bytes": {"vit": 9_200_000}, "seconds": {"vit": None}},
        "warnings": list(warnings),
    } | more
    (place / "samples").mkdir(exist_ok=True)
    (place / "samples" / f"{name}.eval.json").write_text(json.dumps(record))


def report(*words) -> str:
    """What `reed-train report` says; "Error: ..." is one line."""
    found = CliRunner().invoke(main, ["report", *map(str, words)])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.output.strip()


TABLE = """return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map(
    (row) => [...row.cells].map((cell) => cell.textContent.trim()))"""


def table_in(browser, place: str) -> list[list[str]]:
    return browser.execute_script(TABLE, place)


def test_a_run_of_the_trainer_has_a_page(tmp_path, open_page):
    cache = TINY["build"](tmp_path / "cache")
    settings = TINY["settings"](cache, tmp_path / "trained", preview={"every": 10, "num": 4})
    place = TINY["trained"](settings)
    assert report(place) == str(place / "report.html")
    browser = open_page(place / "report.html")
    assert browser.title == "Run trained"
    facts = dict(table_in(browser, ".facts"))
    sizes = {k: v.numel() for k, v in _weights(place).items() if "pos_embed" not in k}
    heads = sum(size for name, size in sizes.items() if name.startswith("heads."))
    assert facts["parameters of the alignment heads"] == f"{heads:,}"
    assert facts["parameters of the net"] == f"{sum(sizes.values()) - heads:,}"
    assert facts["steps"] == "20 of 20" and facts["samples seen"] == "320"
    assert facts["epochs"] == "5" and facts["latest checkpoint"] == "20"
    log = [json.loads(text) for text in (place / "metrics.jsonl").read_text().splitlines()]
    shown = table_in(browser, "#alignment")
    assert shown == [
        [str(e["step"]), f"{e['cos/digits-vit']:.4g}", f"{e['cos/caption-ngrams']:.4g}"]
        for e in log
    ]
    said = [row[0] for row in table_in(browser, "#cost")]
    assert len(said) == 3 and "digits-vit" in str(table_in(browser, "#cost"))
    assert browser.execute_script("return document.querySelectorAll('.strip img').length") == 2
    assert "As the recipe" not in browser.page_source  # its sizes are not those of the recipe
    assert ["steps", "800", "20"] in table_in(browser, "#settings")


def _weights(place):
    from safetensors.torch import load_file

    return load_file(place / "step-0000020" / "model.safetensors")


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """A page of two runs, one of them with a hostile name, hostile samples and warnings."""
    folder = tmp_path_factory.mktemp("runs")
    plain = write_run(folder / "plain", previews=(10, 20, 40))
    other = write_run(folder / HOSTILE, previews=(20,), shift=0.25, seed=1, note=HOSTILE)
    for step, value in ((20, 5.0), (40, 2.5)):
        for place, more in ((plain, 0), (other, 1)):
            write_score(
                place,
                f"step-{step:07d}-euler50",
                step,
                {"fd": value + more, HOSTILE: 1.0},
                warnings=["few samples", HOSTILE],
            )
    out = folder / "compared.html"
    run.write([plain, other], out)
    return out


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_a_page_fits_its_screen_and_draws_its_charts(compared, open_page, width, dark):
    browser = open_page(compared, width, dark)
    ask = browser.execute_script
    assert ask("return document.documentElement.scrollWidth") <= width
    charts = ask("return document.querySelectorAll('.plotly-graph-div').length")
    drawn = "return [...document.querySelectorAll('.plotly-graph-div')].filter((c) => "
    assert charts == 11
    assert ask(drawn + "c.querySelector('.js-line')).length") == charts
    ground = ask("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)")
    ink = ask("return getComputedStyle(document.querySelector('.xtitle')).fill")
    assert ink == ask("return getComputedStyle(document.body).color")


def test_charts_follow_the_place_that_they_have(compared, open_page):
    browser = open_page(compared)
    narrow = """const done = arguments[0]; document.body.style.maxWidth = '30rem';
        requestAnimationFrame(() => setTimeout(done, 300))"""
    browser.execute_async_script(narrow)  # the window stays as wide as it was
    wide = """return [...document.querySelectorAll('.plotly-graph-div')].map((chart) =>
        chart.querySelector('svg').getBoundingClientRect().width - chart.clientWidth)"""
    assert all(abs(more) < 2 for more in browser.execute_script(wide))


def test_legends_leave_the_curves_alone_on_a_phone(compared, open_page):
    browser = open_page(compared, 360)
    pairs = browser.execute_script(
        """return [...document.querySelectorAll('.plotly-graph-div')].map((chart) =>
        [chart.querySelector('.legend').getBoundingClientRect().top,
         chart.querySelector('.xtitle').getBoundingClientRect().bottom,
         chart.querySelector('.nsewdrag').getBoundingClientRect().height])"""
    )
    assert len(pairs) == 11
    assert all(legend >= title - 1 and height > 80 for legend, title, height in pairs), pairs


def test_text_from_elsewhere_is_text(compared, open_page):
    browser = open_page(compared)
    assert browser.title == f"Runs plain, {HOSTILE}"
    images = "return [...document.images].filter((i) => !i.src.startsWith('data:image/png')).length"
    # an <img> of a reel that shows nothing yet has no address
    assert (
        browser.execute_script(images + " - document.querySelectorAll('.large[hidden]').length")
        == 0
    )
    legend = browser.execute_script("return document.querySelector('.legend').textContent")
    assert legend == f"plain{HOSTILE}"
    assert HOSTILE in [row[0] for row in table_in(browser, "#evaluation details")]
    assert HOSTILE in browser.find_element("css selector", "#evaluation > ul").text
    assert ["note", "absent", HOSTILE] in table_in(browser, "#settings")


def test_runs_are_compared_number_by_number(compared, open_page):
    browser = open_page(compared)
    first = table_in(browser, "#loss .loggable")
    assert first == [[str(s), f"{1 / s:.4g}", f"{1 / s + 0.25:.4g}"] for s in (10, 20, 30, 40)]
    assert table_in(browser, "#evaluation > .scroll") == [
        [name, f"step-{step:07d}-euler50", str(step), f"{value:g}", "1", "256", "cache/digits"]
        for name, more in (("plain", 0), (HOSTILE, 1))
        for step, value in ((20, 5.0 + more), (40, 2.5 + more))
    ]
    assert table_in(browser, "#evaluation .chart")[:2] == [["20", "5", "6"], ["40", "2.5", "3.5"]]
    assert ["no/such/cache", "vit", "9.2 MB", "not known", f"plain, {HOSTILE}"] in table_in(
        browser, "#cost"
    )
    assert ["seed", "absent", "1"] in table_in(browser, "#settings")
    warned = browser.find_element("css selector", ".warnings").text
    assert warned.count("the cache cannot be looked at: no cache at no/such/cache") == 2


def test_the_keyboard_moves_through_the_pictures(compared, open_page):
    from selenium.webdriver.common.keys import Keys

    browser = open_page(compared, 360)
    slider = browser.find_element("css selector", ".film input")
    said = browser.find_element("css selector", ".film output")
    shown = """return [...document.querySelectorAll('.large')].map((img) => img.hidden ? '' :
        img.alt.replace(/.* step/, 'step'))"""
    assert said.text == "step 40" and browser.execute_script(shown) == ["step 40", "step 20"]
    slider.send_keys(Keys.ARROW_LEFT)
    assert said.text == slider.get_attribute("aria-valuetext") == "step 20"
    assert browser.execute_script(shown) == ["step 20", "step 20"]
    marked = "return [...document.querySelectorAll('.now')].map((img) => img.dataset.step)"
    assert browser.execute_script(marked) == ["20", "20"]
    slider.send_keys(Keys.SHIFT, Keys.TAB)
    assert browser.switch_to.active_element.text == "Earlier"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert said.text == "step 10" and browser.execute_script(shown) == ["step 10", ""]
    assert "No picture of this step" in browser.find_elements("css selector", ".reel")[1].text
    same = "const [a, b] = document.querySelectorAll('.large, .strip img'); return a.src === b.src"
    assert browser.execute_script(same)


def test_the_keyboard_makes_an_axis_logarithmic(compared, open_page):
    from selenium.webdriver.common.keys import Keys

    browser = open_page(compared)
    kinds = """return [...document.querySelectorAll('#loss .plotly-graph-div')].map(
        (chart) => chart._fullLayout.yaxis.type)"""
    button = browser.find_element("css selector", "button[data-log]")
    assert browser.execute_script(kinds) == ["linear", "linear"]
    button.send_keys(Keys.SPACE)
    assert browser.execute_script(kinds) == ["log", "linear"]  # the total is negative
    assert button.get_attribute("aria-pressed") == "true"
    button.send_keys(Keys.ENTER)
    assert browser.execute_script(kinds) == ["linear", "linear"]


def test_an_empty_run_says_what_would_fill_it(tmp_path, open_page):
    place = write_run(tmp_path / "bare", steps=(10,))
    report(place)
    page = open_page(place / "report.html").find_element("css selector", "body").text
    for part in ("--set preview.every=1000", "reed-sample --run", "not recorded", "step 10 of 40"):
        assert part in page, part


def test_curves_hold_what_is_logged_and_what_is_planned(tmp_path):
    found = run_folder.read(write_run(tmp_path / "a", steps=(10, 20)), "a")
    groups = {group.place: group.curves for group in curves.groups([found])}
    weights = groups["curriculum"][0].chart
    assert list(weights.columns) == [
        "step",
        "diffusion",
        "diffusion, planned",
        "vit",
        "vit, planned",
    ]
    rows = {row[0]: row[1:] for row in weights.rows}
    assert rows[10] == [9 / 20, 9 / 20, 0.5, 0.5]
    assert rows[40] == ["", 1.0, "", 0.5] and rows[21][1] == 1.0 and rows[20][1] == 19 / 20
    traces = {trace.name: trace for trace in weights.figure.data}
    assert traces["diffusion"].line.color == traces["diffusion, planned"].line.color
    assert traces["diffusion, planned"].line.dash == "dot"
    assert [each.log for each in groups["loss"]] == [True, False]
    assert groups["loss"][0].chart.title == "Loss: diffusion"


@pytest.mark.parametrize(("ends", "known"), [("2 epochs", False), ("80 samples", True)])
def test_a_plan_in_epochs_needs_the_cache(tmp_path, ends, known):
    ramp = {"kind": "step", "start": 0.0, "end": 1.0, "begins": ends}
    weights = {"diffusion": ramp, "vit": 0.5, "off": 0.0}
    found = run_folder.read(write_run(tmp_path / "a", curriculum=weights), "a")
    plan, problem = curves.planned(found)
    assert ("weight/diffusion" in plan) == known and bool(problem) != known
    assert known or "Not for diffusion of a: the length of its epochs is not known" in problem
    if known:
        steps, values = plan["weight/diffusion"]
        assert dict(zip(steps, values, strict=True))[11] == 1 and values[steps.index(10)] == 0


def test_what_else_is_logged_is_shown(tmp_path):
    place = write_run(tmp_path / "a")
    with RunLog(place, 40) as log:
        log.write(50, line(50, novelty=3.0))
    group = curves.groups([run_folder.read(place, "a")])[-1]
    assert group.title == "Others" and group.curves[0].chart.rows == [[50, 3.0]]


def test_guides_whose_names_have_slashes_or_are_taken_have_panels_of_their_own(tmp_path):
    place = write_run(tmp_path / "a")
    more = {"weight/lr": 1.0, "weight/a/b": 1.0, "z/lr": 5.0, "z/lr/t0": 6.0}
    more |= {"z/a/b": 1.0, "z/a/b/t0.2": 2.0, "z/a/c": 3.0}
    with RunLog(place, 40) as log:
        log.write(50, line(50, **more))
    groups = {g.place: g.curves for g in curves.groups([run_folder.read(place, "a")])}
    panels = {each.chart.title: each.chart for each in groups["guides"]}
    assert list(panels) == ["Error of lr", "Error of a/b", "Error of a/c: a/c"]
    assert panels["Error of a/b"].columns == ["step", "a/b", "a/b/t0.2"]
    assert panels["Error of lr"].rows == [[50, 5.0, 6.0]]
    # The learning rate is not the loss of the guide that is called lr.
    assert [each.chart.title for each in groups["loss"]] == ["Loss: diffusion", "Total loss"]


def test_a_long_run_keeps_to_a_size(tmp_path, monkeypatch):
    place = write_run(tmp_path / "a", steps=range(1, 3001), previews=range(1, 101))
    monkeypatch.setattr(run, "MANY", 7)
    run.write([place], tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert "7 of 100 pictures of a are shown, evenly spaced" in text
    assert text.count('data-kind="pixels"') == 7 and 'data-step="100"' in text
    assert "of 3,000 rows, evenly spaced." in text
    monkeypatch.setattr(run, "HEAVY", 300)
    assert len(run._light(run_folder.read(place, "a").previews)) == 3
    monkeypatch.setattr(run, "HEAVY", 1200)  # shared by the runs of a sweep
    assert [len(run._light(run_folder.read(place, "a").previews, n)) for n in (4, 16)] == [7, 3]


def test_training_time_is_that_between_the_lines(tmp_path):
    found = run_folder.read(write_run(tmp_path / "a", batch=0), "a")
    facts = run_folder.facts(found)
    assert facts["training time"] == "2 s"  # 40 steps of 8 samples, 160 a second
    assert facts["cache"] == "no/such/cache (not there)" and facts["epochs"] is None
    assert facts["parameters of the net"] is None and facts["aligned to"] == "vit/tokens"
    assert run_folder._duration([line(1, samples=7200, samples_per_s=1.0)]) == "2 h 0 min"
    assert run_folder._duration([line(1, samples=90, samples_per_s=1.0)]) == "1 min 30 s"
    assert run_folder._duration([{"step": 1}]) is None


def test_what_went_wrong_heads_the_page(tmp_path):
    place = write_run(tmp_path / "a", steps=(10, 20), previews=(10,))
    (place / "previews" / "step-0000020.png").write_text("no picture")
    with RunLog(place, 20) as log:
        log.write(30, line(30, grad_norm=math.nan, loss=math.inf))
    with open(place / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "los')
    found = run_folder.read(place, "a").warnings
    parts = (
        "no cache at no/such/cache",
        "step-0000020.png is no PNG and is left out",
        "the last line of",
        "1 of 3 lines of the log have numbers that are not finite (loss, grad_norm), the first at "
        "step 30",
        "the log ends at step 30 of 40",
    )
    assert len(found) == len(parts)
    for part, warning in zip(parts, found, strict=True):
        assert part in warning
    run.write([place], tmp_path / "a.html")
    assert "cut short" in (tmp_path / "a.html").read_text()


def test_records_of_every_domain_are_read(tmp_path):
    place = write_run(tmp_path / "a")
    designs = {
        "step": 40,
        "cache": "cache/test",
        "structures": 12,
        "sampling": "steps500-T0.1",
        "perplexity": 6.5,
        "perplexity_at": {"0.1": 2.0, "1": 15.0},
    }
    (place / "step-0000040.eval.json").write_text(json.dumps(designs))
    write_score(place, "step-0000020-euler", None, {"uniqueness": None, "validity": 0.5})
    unknown, design = scores.read(place, "a")
    assert design.metrics["perplexity_at 0.1"] == {"value": 2.0}
    columns, rows = scores.table([unknown, design], several=False)
    assert columns == [
        "samples",
        "step",
        "uniqueness",
        "validity",
        "perplexity",
        "perplexity_at 0.1",
        "perplexity_at 1",
        "num",
        "reference",
    ]
    assert rows[0][1:4] == [None, None, 0.5]
    assert rows[1] == ["step-0000040", 40, "", "", 6.5, 2.0, 15.0, 12, "cache/test"]
    assert ["validity", "features digits-mlp; k 3", 1] in scores.conventions([unknown, design])


def test_only_numbers_that_can_be_compared_make_a_line(tmp_path):
    place = write_run(tmp_path / "a")
    for step, num in ((20, 256), (40, 256), (40, 1000)):
        write_score(place, f"step-{step:07d}-n{num}", step, {"fd": step / num}, num=num)
    write_score(place, "step-0000040-n256-x", 40, {"once": 1.0}, num=256)
    (chart,) = scores.charts(scores.read(place, "a"), several=False, references={})
    assert list(chart.columns) == ["step", "n256, 256 samples", "n1000, 1000 samples"]
    assert chart.rows == [[20, 20 / 256, ""], [40, 40 / 256, 40 / 1000]]


def test_warnings_are_said_once_with_their_samples(tmp_path):
    place = write_run(tmp_path / "a")
    write_score(place, "one", 20, {"fd": 1.0}, warnings=["few", "near"])
    write_score(place, "two", 40, {"fd": 1.0}, warnings=["few"])
    found = scores.read(place, "a")
    assert scores.warnings(found, False) == [("few", "all"), ("near", "one")]
    assert scores.warnings(found, True)[1] == ("near", "a, one")


def test_sample_sets_are_shown_with_how_they_were_drawn(tmp_path):
    place = write_run(tmp_path / "a")
    for step in (10, 20, 30, 40):
        with RunLog(place / "samples", 0) as log:
            log.picture(step, np.zeros((4, 4, 1), np.uint8))
        name = place / "samples" / f"step-{step:07d}.png"
        (place / "samples" / "previews" / name.name).rename(name)
        name.with_suffix(".json").write_text(json.dumps({"num": 100, "sampler": "heun"}))
    found, said = run._sets([run_folder.read(place, "a")])
    assert [each["step"] for each in found] == [20, 30, 40]
    assert found[0]["drawn"] == "sampler heun" and found[0]["num"] == 100
    assert said == ["a: the latest 3 of 4 sample sets"]


@pytest.fixture
def swept(tmp_path):
    """The folder of a sweep of two learning rates and three seeds; one run was stopped."""
    folder = tmp_path / "digits-sweep"
    for number, (lr, seed) in enumerate((lr, seed) for lr in (1e-3, 2e-3) for seed in (2, 9, 10)):
        settings = {"optim": {"lr": lr, "clip": 1.0}, "seed": seed, "run": f"r{number}"}
        steps = (10, 20) if (lr, seed) == (2e-3, 10) else (10, 40)
        place = write_run(folder / f"optim.lr={lr}-seed={seed}", steps, shift=number, **settings)
        if lr == 1e-3:
            write_score(place, "step-0000010-euler", 10, {"fd": 90.0})
            write_score(place, "step-0000040-euler", 40, {"fd": 5.0 + number})
    (folder / "optim.lr=3e-3-seed=2").mkdir()
    (folder / "optim.lr=3e-3-seed=2" / "config.json").write_text(json.dumps(SETTINGS))
    return folder


def test_a_sweep_is_compared_by_runs_and_over_seeds(swept, open_page):
    """Values are 1/40 + n for the diffusion loss and 0.4 + n for the cosine of run n."""
    said = report(swept).splitlines()
    assert said[-1] == str(swept / "report.html")
    assert f"{swept}/optim.lr=3e-3-seed=2 has logged nothing yet and is left out" == said[0]
    header, *rows = [line.split("  ") for line in said[1:4]]
    assert [cell.strip() for cell in header if cell.strip()] == [
        *("optim.lr", "seeds", "diffusion", "cos/vit", "loss", "fd")
    ]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells == [
        [*("0.001", "3", "1.025 (0.025 to 2.025)", "1.4 (0.4 to 2.4)")]
        + ["-0.2 (-0.2 to -0.2)", "6 (5 to 7)"],
        ["0.002", "2", "3.525 (3.025 to 4.025)", "3.9 (3.4 to 4.4)", "-0.2 (-0.2 to -0.2)"],
    ]
    assert said[4].endswith("over seeds. 1 run in training or stopped: left out.")

    browser = open_page(swept / "report.html")
    table = table_in(browser, "#comparison")
    assert table[:2] == [cells[0], [*cells[1], ""]]
    assert [row[0] for row in table[2:]] == [  # 10 comes after 9
        f"optim.lr={lr}-seed={seed}" for lr in (1e-3, 2e-3) for seed in (2, 9, 10)
    ]
    assert table[3] == [*("optim.lr=0.001-seed=9", "9", "0.001", "40", "1.025", "1.4", "-0.2", "6")]
    assert table[7][3:5] == ["20", "5.05"] and table[7][-1] == ""


def test_runs_without_swept_seeds_are_compared_one_by_one(tmp_path):
    """Metrics of samples that were drawn in two ways are two metrics."""
    one = write_run(tmp_path / "one")
    two = write_run(tmp_path / "two", steps=(10, 40), optim={"lr": 1.0}, run="runs/y")
    for place in (one, two):
        write_score(place, "step-0000040-euler", 40, {"fd": 2.0})
    write_score(two, "step-0000040-heun", 40, {"fd": 1.0})
    found = [run_folder.read(place, place.name) for place in (one, two)]
    records = [score for each in found for score in scores.read(each.place, each.name)]
    (table,) = comparison.tables(found, records)
    names = ["diffusion", "cos/vit", "loss", "fd (euler)", "fd (heun)"]
    assert table.columns == ["run", *LR, "step", *names]
    assert [row[0] for row in table.rows] == ["one", "two"]
    assert [row[-2:] for row in table.rows] == [[2.0, ""], [2.0, 1.0]]


LR = ["optim.lr", "optim.clip", "optim.schedule"]  # the settings that differ in that test


def test_a_spread_says_what_it_leaves_out():
    assert comparison.spread([1.0, 3.0, 2.0]) == "2 (1 to 3)"
    assert comparison.spread([0.5]) == "0.5" and comparison.spread([None, None]) == ""
    assert comparison.spread([1.0, None, 2.0]) == "1.5 (1 to 2); 2 of 3"
    assert comparison.spread([1.0, math.nan, math.inf]) == "1; 2 not finite"
    assert comparison.spread([math.nan]) == "1 not finite"


def test_a_sweep_that_has_not_begun_is_one_line(tmp_path):
    for name in "ab":
        (tmp_path / "s" / name).mkdir(parents=True)
        (tmp_path / "s" / name / "config.json").write_text(json.dumps(SETTINGS))
    said = report(tmp_path / "s")
    assert said == f"Error: none of the 2 runs in {tmp_path}/s has logged anything yet"


LOG = '{"step": 10, "loss": 1.0}\n'


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ({}, "is no run (no config.json); name a folder of reed-train --run"),
        ({"config.json": "{"}, "cannot read"),
        ({"config.json": "{}"}, "is no configuration of a run: shards, steps, data, align"),
        ({"config.json": None}, "has logged nothing yet; the first line comes at step 10"),
        ({"config.json": None, "metrics.jsonl": LOG + "{\n" + LOG}, "metrics.jsonl, line 2: "),
        ({"config.json": None, "metrics.jsonl": "[1]\n"}, "line 1: it has no step"),
        (
            {"config.json": None, "metrics.jsonl": '{"step": 1, "loss": "x"}\n'},
            "loss is 'x', not a n",
        ),
        ({"config.json": None, "metrics.jsonl": b"\xff\n"}, "metrics.jsonl: 'utf-8' codec"),
        ({"config.json": None, "metrics.jsonl": LOG, "x.eval.json": "{"}, "cannot read"),
        (
            {"config.json": None, "metrics.jsonl": LOG, "x.eval.json": '{"metrics": {"a": 1}}'},
            "is no record of an evaluation: samples, reference, warnings missing",
        ),
        (
            {
                "config.json": None,
                "metrics.jsonl": LOG,
                "x.eval.json": '{"samples": {}, "reference": {}, "metrics": {}, "warnings": [], '
                '"recipe": {"step": "x"}}',
            },
            "the step of the recipe missing or of another form; move it away",
        ),
    ],
)
def test_a_folder_that_cannot_be_shown_is_one_line(tmp_path, files, part):
    place = tmp_path / "a"
    place.mkdir()
    for name, content in files.items():
        content = json.dumps(SETTINGS) if content is None else content
        (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    said = report(place)
    assert said.startswith("Error: ") and part in said and "\n" not in said
    assert not (place / "report.html").exists()


def test_runs_that_cannot_be_told_apart_are_refused(tmp_path):
    one, two = write_run(tmp_path / "a" / "same"), write_run(tmp_path / "b" / "same")
    assert "several runs make one page: name it with --out FILE" in report(one, two)
    with pytest.raises(ReedError, match="one run is named twice"):
        run.write([one, tmp_path / "a" / ".." / "a" / "same"], tmp_path / "x.html")
    said = report(one, two, "--out", tmp_path / "x.html").splitlines()
    assert said[-1] == str(tmp_path / "x.html")
    assert f"<title>Runs {one}, {two}</title>" in (tmp_path / "x.html").read_text()


def test_a_page_needs_no_torch(tmp_path):
    place = write_run(tmp_path / "a")
    code = (
        "import sys\nfrom pathlib import Path\nfrom reed.view.pages import run\n"
        "run.write([Path(sys.argv[1])], Path(sys.argv[2]))\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, place, tmp_path / "x.html"], check=True)


def test_the_charts_mark_the_release_of_a_target(tmp_path):
    """A release at a known time is planned, too; one on a plateau is known from the log alone."""
    shown = {}
    for name, spec in (("fixed", {"at": "50%", "ramp": "25%"}), ("plateau", {"on": "plateau"})):
        align = SETTINGS["align"] | {"vit": {"target": "vit/tokens", "tap": 2, "release": spec}}
        place = write_run(tmp_path / name, steps=(10, 20), align=align)
        with RunLog(place, 20) as log:
            for step in (30, 40):
                log.write(step, line(step, **{"release/vit": 20}))
        one = run_folder.read(place, name)
        charts = {each.place: each.curves for each in curves.groups([one])}
        assert "others" not in charts
        shown[name] = [each.chart for each in [*charts["alignment"], *charts["curriculum"]]]
        cosine, weight, rate = shown[name]
        for chart in (cosine, weight):
            assert [shape.x0 for shape in chart.figure.layout.shapes] == [20]
            assert "Dashed: the release of vit at step 20." in chart.caption
        assert not rate.figure.layout.shapes
        planned = dict(zip(*curves.planned(one)[0]["weight/vit"], strict=True))
        half = 0.25 if name == "fixed" else 0.5
        assert planned[1] == 0.5 and planned[26] == pytest.approx(half, abs=0.06)
        assert planned[40] == (0 if name == "fixed" else 0.5)
