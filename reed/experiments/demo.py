"""What the demos share: train every variant, measure every checkpoint, tabulate, draw."""

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

Point = dict[str, Any]  # what was measured of one checkpoint, with its step
Rows = dict[str, list[Point]]  # run -> its checkpoints in order
COSINES = "Alignment: mean cosine to the teacher"


def option(name: str, default: int, text: str) -> Callable[[Callable], Callable]:
    """An option that is a number of at least 1; text: its help."""
    number = click.IntRange(min=1)
    return click.option(name, type=number, default=default, show_default=True, help=text)


@dataclass(frozen=True)
class Demo:
    """Runs on one cache that differ in alignment alone.

    cache: what they are trained on; out: the folder of runs and results; variants: of the recipe,
    each with what it is aligned to; caveat: what the result does not show.
    """

    cache: Path
    out: Path
    variants: Mapping[str, str]
    caveat: str

    def train(self, steps: int, points: int) -> list[int]:
        """Train every variant; returns the steps of the checkpoints to measure, evenly spaced."""
        library("matplotlib")  # it is missed before the work, not after
        save = max(1, steps // points)
        for run in self.variants:
            train(self.cache, self.out / run, run, *sets({"steps": steps, "every.save": save}))
        # not all that there are: a run that was stopped and resumed has a checkpoint more
        return [*range(save, steps, save), steps]

    def measure(
        self, steps: Sequence[int], measured: Callable[[Path, int], Point], kept: str = "measured"
    ) -> Rows:
        """Measure checkpoints of every run.

        measured: takes a run and a step; what it returns is kept in the run, in the folder `kept`,
        and reused. Each point also has the cosines that the run had logged by then.
        """
        rows: Rows = {run: [] for run in self.variants}
        places = [(run, step) for run in rows for step in steps]
        for run, step in tqdm(places, "measure", unit="checkpoint", dynamic_ncols=True):
            path = self.out / run / kept / f"step-{step:07d}.json"
            if not path.is_file():
                write_atomic(path, _json(measured(self.out / run, step)))
            logged = [line for line in log.read(self.out / run) if line["step"] <= step] or [{}]
            cosines = {name: value for name, value in logged[-1].items() if name[:4] == "cos/"}
            rows[run].append({"step": step} | json.loads(path.read_text()) | cosines)
        return rows

    def report(
        self, found: Any, lines: Sequence[Sequence[str]], notes: str, figure: Any, more: str = ""
    ) -> None:
        """Write demo.json (what was found) and demo.png (the figure), and print the table.

        lines: of the table, the head first; notes: what its columns mean; more: other pictures.
        """
        write_atomic(self.out / "demo.json", _json(found))
        figure.savefig(self.out / "demo.png", dpi=110)
        variants = "\n".join(f"{variant}: {what}" for variant, what in self.variants.items())
        click.echo(f"\n{table(lines)}\n\n{notes}\n{variants}\n\n{self.caveat}")
        click.echo(f"\npictures: {self.out / 'demo.png'}{more}")

    def plot(self, axes: Any, rows: Rows, name: str, title: str) -> None:
        """Draw one measure of every run over the steps."""
        for run, points in rows.items():
            steps, values = [p["step"] for p in points], [p[name] for p in points]
            axes.plot(steps, values, "o-", label=f"{run} ({self.variants[run]})")
        axes.set(xlabel="step", title=title)

    def plot_logged(self, axes: Any, begin: str, label: str, title: str) -> None:
        """Draw what the runs logged under names that begin so; label: of {run}, {what}, {name}."""
        for run, what in self.variants.items():
            lines = log.read(self.out / run)
            for name in sorted(name for name in lines[-1] if name.startswith(begin)):
                text = label.format(run=run, what=what, name=name.partition("/")[2])
                axes.plot([p["step"] for p in lines], [p[name] for p in lines], label=text)
        axes.set(xlabel="step", title=title)


def figure(width: float, height: float) -> Any:
    """An empty figure of matplotlib's; width and height in inches."""
    return library("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")


def legends(axes: Sequence[Any], fontsize: int) -> None:
    """Give a legend to all axes with something in them."""
    for each in axes:
        if each.has_data():
            each.legend(fontsize=fontsize)


def by_step(rows: Rows, columns: Sequence[tuple[str, str, str, str]]) -> list[list[str]]:
    """A table with a line per step; columns: head, run, measure and format of each."""
    lines = [["step", *(head for head, *_ in columns)]]
    for i, first in enumerate(next(iter(rows.values()))):
        cells = [format(rows[run][i].get(name, math.nan), form) for _, run, name, form in columns]
        lines.append([str(first["step"]), *cells])
    return lines


def table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as text, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines
    )


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
