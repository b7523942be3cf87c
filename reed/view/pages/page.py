"""Self-contained HTML pages: styles, scripts, pictures and charts are in the file itself."""

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
MARGIN = {"l": 10, "r": 10, "t": 30, "b": 10}  # axes take the room that their labels need
# below the chart, where it hides no curve and fits on a phone
LEGEND = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
# for colour-blind readers; contrast of at least 3:1 on the light and on the dark background
COLOURS = ("#0f77bd", "#cf5a00", "#008f68", "#b8579c", "#9a6b12", "#7a7a85", "#7c66d6", "#cc4055")
POINTS, ROWS = 1000, 200  # most points of a line, and rows of a table


@dataclass(frozen=True)
class Chart:
    """A plotly figure with a caption, and with a table for readers who cannot see it.

    Attributes:
        title: Title of the chart.
        figure: The figure.
        caption: Text below it.
        columns: Header of the table.
        rows: Rows of the table, texts or numbers, one value per column.
        note: Text about the table.
    """

    title: str
    figure: Any
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    @property
    def html(self) -> str:
        """HTML element that page.js turns into a chart; the page has plotly only once."""
        return self.figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            default_height="20rem",
            config={"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": CLUTTER},
        )


def plotly() -> Any:
    """Import plotly.graph_objects; ReedError naming the extra if it is not installed."""
    return picture.library("plotly.graph_objects")


def figure(x: str, y: str, **layout: Any) -> Any:
    """Return an empty plotly figure in the style of the pages; x and y name the axes."""
    look = {"margin": MARGIN, "legend": LEGEND, "colorway": COLOURS, "template": "none"}
    axes = {"xaxis_title": _literal(x), "yaxis_title": _literal(y)}
    return plotly().Figure(layout=look | axes | layout)


def line_chart(title: str, caption: str, x: str, y: str, lines: dict[str, Any]) -> Chart:
    """Return a chart of lines, whose table has a row for every x.

    A line of more than POINTS points is drawn from every n-th point and the last one. A table of
    more than ROWS rows shows every n-th row and the last one. The chart says so.

    Args:
        title: Title of the chart.
        caption: Text below it.
        x: Name of the x axis.
        y: Name of the y axis.
        lines: Coordinates (xs, ys) by name of the line.
    """
    graph, chart = plotly(), figure(x, y, hovermode="x unified")
    table: dict[Any, dict[str, Any]] = {}
    for name, (xs, ys) in lines.items():
        kept = thinned(range(len(xs)), POINTS)
        drawn = {"x": [xs[i] for i in kept], "y": [ys[i] for i in kept]}
        chart.add_trace(graph.Scatter(**drawn, name=_literal(name)))
        for position, value in zip(xs, ys, strict=True):
            table.setdefault(position, {})[name] = value
    rows = [[at, *(row.get(name, "") for name in lines)] for at, row in sorted(table.items())]
    shown = thinned(rows, ROWS)
    note = f"{len(shown)} of {len(rows):,} rows, evenly spaced." if len(shown) < len(rows) else ""
    if any(len(xs) > POINTS for xs, _ in lines.values()):
        caption += f" Drawn from at most {POINTS:,} points of each line, evenly spaced."
    return Chart(title, chart, caption, [x, *lines], shown, note)


def thinned(items: Sequence[Any], most: int) -> list[Any]:
    """Return every n-th item and the last one, at most `most`; all if there are no more."""
    step = -(-(len(items) - 1) // max(most - 1, 1))
    return [*items[: -1 : max(step, 1)], *items[-1:]]


def png(image: np.ndarray, enlarge: int = 1) -> str:
    """Return an image, uint8 [H, W, C], as a data URL of a PNG."""
    file = BytesIO()
    picture.save_png(image, file, enlarge)
    return data_url(file.getvalue(), "image/png")


def data_url(content: bytes, kind: str) -> str:
    """Return bytes of a MIME type as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def write(path: Path, template: str, *, option: str = "--out", **values: Any) -> None:
    """Fill a template of this folder and write the page.

    The template escapes text. Values for scripts pass the filter `tojson`, which escapes too.

    Args:
        path: File of the page.
        template: Name of the template.
        option: Option of the command that names the file, for messages.
        **values: Values for the template.

    Raises:
        ReedError: The file cannot be written.
    """
    text = _environment().get_template(template).render(values)
    try:
        files.write_atomic(path, text.encode())
    except OSError as error:
        raise ReedError(
            f"cannot write {path}: {error.strerror}; choose another {option}"
        ) from error


def _literal(text: str) -> str:
    """Escape text for plotly, which interprets some HTML."""
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
    environment.filters["number"] = number
    return environment


def number(value: Any) -> str:
    """Format a number: integers with separators, others to four digits."""
    if value is None:
        return "not known"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
