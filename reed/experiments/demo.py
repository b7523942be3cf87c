"""Steps that the demos share: train every variant, measure every checkpoint, tabulate, draw."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from reed.cache.files import write_atomic
from reed.experiments.command import sets, train
from reed.picture import library
from reed.train import log

Point = dict[str, Any]  # the measures of one checkpoint, and its step
Rows = dict[str, list[Point]]  # run -> its checkpoints, in order
COSINES = "Alignment: mean cosine to the teacher"


def option(name: str, default: int, text: str) -> Callable[[Callable], Callable]:
    """Return an option for a number of at least 1, with ``text`` as its help."""
    number = click.IntRange(min=1)
    return click.option(name, type=number, default=default, show_default=True, help=text)


@dataclass(frozen=True)
class Demo:
    """A demo: runs on one cache that differ in alignment alone.

    Attributes:
        cache: Folder of the cache.
        out: Folder of the runs and results.
        variants: Variants of the recipe, each with a description of its targets.
        caveat: What the result does not show.
    """

    cache: Path
    out: Path
    variants: Mapping[str, str]
    caveat: str

    def train(self, steps: int, points: int) -> list[int]:
        """Train every variant and return the checkpoints to measure.

        Args:
            steps: Optimizer steps of each run.
            points: Number of checkpoints, evenly spaced.
        """
        library("matplotlib")  # a missing library should stop the demo before the work, not after
        save = max(1, steps // points)
        for run in self.variants:
            train(self.cache, self.out / run, run, *sets({"steps": steps, "every.save": save}))
        # Not every checkpoint: a run that was stopped and resumed has one more.
        return [*range(save, steps, save), steps]

    def measure(
        self, steps: Sequence[int], measured: Callable[[Path, int], Point], kept: str = "measured"
    ) -> Rows:
        """Measure checkpoints of every run.

        Args:
            steps: The checkpoints.
            measured: Function that takes the folder of a run and a step, and returns measures.
            kept: Folder in the run that keeps the measures, to reuse them.

        Returns:
            The measures, and the cosines that the run had logged by then.
        """
        rows: Rows = {run: [] for run in self.variants}
        checkpoints = [(run, step) for run in rows for step in steps]
        for run, step in tqdm(checkpoints, "measure", unit="checkpoint", dynamic_ncols=True):
            path = self.out / run / kept / f"step-{step:07d}.json"
            if not path.is_file():
                write_atomic(path, _json(measured(self.out / run, step)))

            # A run logs at other steps than it saves: take the last line up to the checkpoint.
            logged = [line for line in log.read(self.out / run) if line["step"] <= step] or [{}]
            cosines = {name: value for name, value in logged[-1].items() if name[:4] == "cos/"}
            rows[run].append({"step": step} | json.loads(path.read_text()) | cosines)
        return rows

    def report(
        self, results: Any, lines: Sequence[Sequence[str]], notes: str, figure: Any, more: str = ""
    ) -> None:
        """Write demo.json (the results) and demo.png (the figure), and print the table.

        Args:
            results: The results.
            lines: Lines of the table, with its header first.
            notes: Explanation of the columns.
            figure: A figure of matplotlib.
            more: Paths of other pictures, for the last line.
        """
        write_atomic(self.out / "demo.json", _json(results))
        figure.savefig(self.out / "demo.png", dpi=110)
        variants = "\n".join(f"{variant}: {text}" for variant, text in self.variants.items())
        click.echo(f"\n{table(lines)}\n\n{notes}\n{variants}\n\n{self.caveat}")
        click.echo(f"\npictures: {self.out / 'demo.png'}{more}")

    def plot(self, axes: Any, rows: Rows, name: str, title: str) -> None:
        """Draw one measure of every run over the steps."""
        for run, points in rows.items():
            steps, values = [p["step"] for p in points], [p[name] for p in points]
            axes.plot(steps, values, "o-", label=f"{run} ({self.variants[run]})")
        axes.set(xlabel="step", title=title)

    def plot_logged(self, axes: Any, begin: str, label: str, title: str) -> None:
        """Draw the logged values whose names begin with ``begin``.

        Args:
            axes: Axes of matplotlib.
            begin: Beginning of the names.
            label: Label of a curve, in which {run}, {what} and {name} are replaced.
            title: Title of the axes.
        """
        for run, description in self.variants.items():
            lines = log.read(self.out / run)
            for name in sorted(name for name in lines[-1] if name.startswith(begin)):
                text = label.format(run=run, what=description, name=name.partition("/")[2])
                axes.plot([p["step"] for p in lines], [p[name] for p in lines], label=text)
        axes.set(xlabel="step", title=title)


def figure(width: float, height: float) -> Any:
    """Return an empty figure of matplotlib; width and height are in inches."""
    return library("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")


def legends(axes: Sequence[Any], fontsize: int) -> None:
    """Give a legend to all axes that hold data."""
    for panel in axes:
        if panel.has_data():
            panel.legend(fontsize=fontsize)


def by_step(rows: Rows, columns: Sequence[tuple[str, str, str, str]]) -> list[list[str]]:
    """Return a table with one line per step.

    Args:
        rows: Measures of every run.
        columns: Header, run, measure and number format of each column.
    """
    lines = [["step", *(head for head, *_ in columns)]]
    for i, first in enumerate(next(iter(rows.values()))):
        cells = [format(rows[run][i].get(name, math.nan), form) for _, run, name, form in columns]
        lines.append([str(first["step"]), *cells])
    return lines


def table(lines: Sequence[Sequence[str]]) -> str:
    """Format lines of cells as text, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines
    )


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
