"""The frame of every HTML page: in a real browser, from disk, on a phone, in the dark."""

from __future__ import annotations

import jinja2
import pytest

from reed.errors import ReedError
from reed.pages import page

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
    page.write(path, "t.html", name="A <page>", chart=chart, rows=[[hostile, 12345]],
               command="a test", version="0")  # fmt: skip
    return path


def test_long_lines_are_thinned_and_their_ends_kept():
    pytest.importorskip("plotly")
    chart = page.line_chart("t", "c", "x", "y", {"a": (list(range(2500)), list(range(2500)))})
    drawn = chart.figure.data[0].x
    assert len(drawn) <= 1001 and drawn[0] == 0 and drawn[-1] == 2499
    assert len(chart.rows) == 2500 and list(chart.columns) == ["x", "a"]


def test_a_page_that_cannot_be_written_is_one_line(written, tmp_path):
    with pytest.raises(ReedError, match="cannot write .*choose another --out"):
        page.write(tmp_path / "page.html" / "below", "t.html", name="", rows=[], command="",
                   version="", chart=page.line_chart("t", "c", "x", "y", {}))  # fmt: skip


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
