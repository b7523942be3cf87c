"""The frame of every HTML page: in a real browser, from disk, on a phone, in the dark."""

from __future__ import annotations

import re

import jinja2
import pytest

from reed.errors import ReedError
from reed.view.pages import page

TEMPLATE = """{% extends "base.html" %}{% import "parts.html" as parts %}
{% block title %}{{ name }}{% endblock %}
{% block main %}{{ parts.chart(chart) }}{{ parts.table(["key", "value"], rows) }}
<script id="data" type="application/json">{{ rows | tojson }}</script>{% endblock %}"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    pytest.importorskip("plotly")
    environment = page._environment()
    loader = jinja2.ChoiceLoader([jinja2.DictLoader({"t.html": TEMPLATE}), environment.loader])
    monkeypatch.setattr(environment, "loader", loader)
    lines = {"loss": (list(range(3000)), [1 / (1 + i) for i in range(3000)])}
    chart = page.line_chart("Loss", "falls", "step", "loss", lines)
    path = tmp_path / "page.html"
    hostile = "</script><script>document.title = 'taken'</script>"
    page.write(
        path,
        "t.html",
        name="A <page>",
        chart=chart,
        rows=[[hostile, 12345]],
        command="a test",
        version="0",
    )
    return path


def test_long_lines_and_tables_are_thinned_and_their_ends_kept():
    pytest.importorskip("plotly")
    long = (list(range(2500)), list(range(2500)))
    chart = page.line_chart("t", "c", "x", "y", {"a": long})
    drawn = chart.figure.data[0].x
    assert 500 < len(drawn) <= 1000 and drawn[0] == 0 and drawn[-1] == 2499
    assert chart.caption == "c Drawn from at most 1,000 points of each line, evenly spaced."
    shown = [row[0] for row in chart.rows]
    assert 100 < len(shown) <= 200 and shown[0] == 0 and shown[-1] == 2499
    assert chart.note == f"{len(shown)} of 2,500 rows, evenly spaced."
    short = page.line_chart("t", "c", "x", "y", {"a": ([1, 2], [3, 4])})
    assert short.rows == [[1, 3], [2, 4]] and short.caption == "c" and not short.note


@pytest.mark.parametrize("length", [0, 1, 2, 3, 199, 200, 201, 399, 400, 401, 100_000])
def test_thinning_keeps_the_ends_and_the_limit(length):
    kept = page.thinned(range(length), 200)
    assert kept == sorted(set(kept)) and len(kept) <= 200
    assert len(kept) == length if length <= 200 else len(kept) > 66
    assert kept[:1] == [0][:length] and kept[-1:] == [length - 1][:length]


def luminance(colour: str) -> float:
    """Relative luminance after WCAG 2.1."""
    levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in levels]
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_lines_stand_out_from_both_grounds():
    grounds = re.findall(r"--raised: (#\w{6})", (page.HERE / "page.css").read_text())
    assert len(grounds) == 2
    for colour in page.COLOURS:
        for ground in grounds:
            low, high = sorted([luminance(colour), luminance(ground)])
            assert (high + 0.05) / (low + 0.05) >= 3, (colour, ground)


def test_what_is_not_known_is_said():
    assert [page.number(x) for x in (None, 1234, 0.123456, "a")] == [
        "not known",
        "1,234",
        "0.1235",
        "a",
    ]


def test_a_page_that_cannot_be_written_is_one_line(written, tmp_path):
    with pytest.raises(ReedError, match="cannot write .*choose another --out"):
        page.write(
            tmp_path / "page.html" / "below",
            "t.html",
            name="",
            rows=[],
            command="",
            version="",
            chart=page.line_chart("t", "c", "x", "y", {}),
        )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_a_page_stands_in_a_browser(written, open_page, width, dark):
    browser = open_page(written, width, dark)
    assert browser.title == "A <page>"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    drawn = browser.execute_script("return document.querySelectorAll('.js-line').length")
    assert drawn == 1
    high = "return document.querySelector('.plotly-graph-div').getBoundingClientRect().height"
    assert browser.execute_script(high) == 20 * 16
    text = browser.execute_script(
        "return getComputedStyle(document.querySelector('.chart .xtitle')).fill"
    )
    ink = browser.execute_script("return getComputedStyle(document.body).color")
    assert text == ink
    kept = browser.execute_script("return JSON.parse(document.getElementById('data').textContent)")
    assert kept[0][1] == 12345 and kept[0][0].startswith("</script>")


def test_the_first_key_skips_to_the_content(written, open_page):
    from selenium.webdriver.common.keys import Keys

    browser = open_page(written)
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the content"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.current_url.endswith("#main")
