"""One self-contained page of HTML: styles, scripts, pictures and charts lie in the file itself."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from reed import picture
from reed.cache import files
from reed.errors import ReedError

HERE = Path(__file__).parent
CLUTTER = ["sendChartToCloud", "lasso2d", "select2d", "zoomIn2d", "zoomOut2d", "pan2d"]
MARGIN = {"l": 10, "r": 10, "t": 30, "b": 10}  # axes take what their labels need
# below, where it hides no curve and a phone has room
LEGEND = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
# seen by those who tell few colours apart, at 3:1 or more on the light ground and on the dark one
COLOURS = ("#0f77bd", "#cf5a00", "#008f68", "#b8579c", "#9a6b12", "#7a7a85", "#7c66d6", "#cc4055")
POINTS, ROWS = 1000, 200  # the most that a line is drawn from, and that a table shows


@dataclass(frozen=True)
class Chart:
    """A figure of plotly, and what it shows in words and, for those who cannot see it, in numbers.

    rows: the table below it, of text and numbers, one value per name of `columns`; note: what is
    to be said of the table.
    """

    title: str
    figure: Any
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    @property
    def html(self) -> str:
        """The element that page.js turns into a chart; plotly itself is in the page once."""
        return self.figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            default_height="20rem",
            config={"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": CLUTTER},
        )


def plotly() -> Any:
    """plotly.graph_objects; ReedError naming the extra where it is not installed."""
    return picture.library("plotly.graph_objects")


def figure(x: str, y: str, **layout: Any) -> Any:
    """An empty figure of plotly in the pages' look; x, y: names of the axes, as text."""
    look = {"margin": MARGIN, "legend": LEGEND, "colorway": COLOURS, "template": "none"}
    axes = {"xaxis_title": _literal(x), "yaxis_title": _literal(y)}
    return plotly().Figure(layout=look | axes | layout)


def line_chart(title: str, caption: str, x: str, y: str, lines: dict[str, Any]) -> Chart:
    """Lines {name: (xs, ys)} over one axis, and a row of its table for every x; names are text.

    A line of more than 1,000 points is drawn from every n-th and its last one, a table of more
    than 200 rows shows every n-th and its last one, and both are said below the chart.
    """
    graph, chart = plotly(), figure(x, y, hovermode="x unified")
    table: dict[Any, dict[str, Any]] = {}
    for name, (xs, ys) in lines.items():
        kept = thinned(range(len(xs)), POINTS)
        drawn = {"x": [xs[i] for i in kept], "y": [ys[i] for i in kept]}
        chart.add_trace(graph.Scatter(**drawn, name=_literal(name)))
        for at, value in zip(xs, ys, strict=True):
            table.setdefault(at, {})[name] = value
    rows = [[at, *(row.get(name, "") for name in lines)] for at, row in sorted(table.items())]
    shown = thinned(rows, ROWS)
    note = f"{len(shown)} of {len(rows):,} rows, evenly spaced." if len(shown) < len(rows) else ""
    if any(len(xs) > POINTS for xs, _ in lines.values()):
        caption += f" Drawn from at most {POINTS:,} points of each line, evenly spaced."
    return Chart(title, chart, caption, [x, *lines], shown, note)


def thinned(items: Sequence[Any], most: int) -> list[Any]:
    """Every n-th of some items and the last one: at most `most`, all where they are no more."""
    step = -(-(len(items) - 1) // max(most - 1, 1))
    return [*items[: -1 : max(step, 1)], *items[-1:]]


def png(image: np.ndarray, enlarge: int = 1) -> str:
    """[H, W, C] uint8 as the address of a picture that lies in the page."""
    file = BytesIO()
    picture.save_png(image, file, enlarge)
    return data_url(file.getvalue(), "image/png")


def data_url(content: bytes, kind: str) -> str:
    """Bytes of a MIME type as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def write(path: Path, template: str, *, option: str = "--out", **values: Any) -> None:
    """Fill a template of this folder and write the page; ReedError where that cannot be.

    option: of the command, that names the file; values: what the template shows. Text is escaped;
    a value that a script reads is written by the filter `tojson`, which escapes too.
    """
    text = _environment().get_template(template).render(values)
    try:
        files.write_atomic(path, text.encode())
    except OSError as error:
        raise ReedError(
            f"cannot write {path}: {error.strerror}; choose another {option}"
        ) from error


def _literal(text: str) -> str:
    """Text as plotly shows it as it is: it reads some HTML."""
    return escape(text, quote=False)


@cache
def _environment() -> Any:
    jinja2, offline = picture.library("jinja2"), picture.library("plotly.offline")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "style": (HERE / "page.css").read_text(),
        "script": lambda name: (HERE / name).read_text(),
        "plotly_script": offline.get_plotlyjs,
    }
    environment.filters["number"] = _number
    return environment


def _number(value: Any) -> str:
    """A number as people read it: whole ones with separators, others to four digits."""
    if value is None:
        return "not known"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
