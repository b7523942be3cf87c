"""One self-contained page of HTML: styles, scripts, pictures and charts lie in the file itself."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
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


@dataclass(frozen=True)
class Chart:
    """A figure of plotly, and what it shows in words and, for those who cannot see it, in numbers.

    rows: the table below it, of text and numbers, one value per name of `columns`.
    """

    title: str
    figure: Any
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @property
    def html(self) -> str:
        """The element that page.js turns into a chart; plotly itself is in the page once."""
        return self.figure.to_html(
            full_html=False, include_plotlyjs=False, default_height="20rem",
            config={"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": CLUTTER},
        )  # fmt: skip


def plotly() -> Any:
    """plotly.graph_objects; ReedError naming the extra where it is not installed."""
    return picture.library("plotly.graph_objects")


def line_chart(title: str, caption: str, x: str, y: str, lines: dict[str, Any]) -> Chart:
    """Lines {name: (xs, ys)} over one axis, at most 1,000 points each; its table has them all.

    A line that is longer is drawn from every n-th point and the last one.
    """
    graph = plotly()
    figure = graph.Figure(
        layout={"xaxis_title": x, "yaxis_title": y, "hovermode": "x unified", "margin": MARGIN}
    )
    table: dict[Any, dict[str, Any]] = {}
    for name, (xs, ys) in lines.items():
        kept = _thinned(len(xs))
        figure.add_trace(graph.Scatter(x=[xs[i] for i in kept], y=[ys[i] for i in kept], name=name))
        for at, value in zip(xs, ys, strict=True):
            table.setdefault(at, {})[name] = value
    rows = [[at, *(row.get(name, "") for name in lines)] for at, row in sorted(table.items())]
    return Chart(title, figure, caption, [x, *lines], rows)


def _thinned(length: int, most: int = 1000) -> list[int]:
    step = -(-length // most)
    return sorted({*range(0, length, max(step, 1)), *range(length)[-1:]})


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


@cache
def _environment() -> Any:
    jinja2, offline = picture.library("jinja2"), picture.library("plotly.offline")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {
        "style": (HERE / "page.css").read_text(),
        "script": lambda name: (HERE / name).read_text(),
        "plotly_script": offline.get_plotlyjs,
    }
    environment.filters["number"] = _number
    return environment


def _number(value: Any) -> str:
    """A number as people read it: whole ones with separators, others to four digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
