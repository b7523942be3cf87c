"""Measuring one set of samples after another, and the table over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from reed.cli import averages
from reed.cli.common import either
from reed.errors import ReedError


@dataclass(frozen=True)
class Measured:
    """What a command measures: samples, or a run with one of its averages.

    Attributes:
        place: File or folder of samples, or a run.
        average: Name of the average of a run; True for the first.
    """

    place: Path
    average: bool | str = True

    @property
    def label(self) -> str:
        """What it is called in a table, if no other one is called so."""
        name = self.place.stem if self.place.is_file() else self.place.name
        return f"{name}, {self.average}" if isinstance(self.average, str) else name


def asked(places: Sequence[Path], run: Path | None, ema: tuple[str, ...]) -> list[Measured]:
    """Return what the words of a command name, each once.

    Args:
        places: What is named by position.
        run: The value of --run.
        ema: The values of --ema.

    Raises:
        click.UsageError: Nothing is named, or --run and a position name two.
        ReedError: --ema is given for what is no run.
    """
    if run is not None:
        places = [place for place in (either(each, run) for each in places or [run]) if place]
    if not places:
        raise click.UsageError("Missing argument 'SAMPLES'.")

    found: list[Measured] = []
    for place in dict.fromkeys(places):
        if ema and place.exists() and not (place / "config.json").is_file():
            raise ReedError(
                f"--ema {ema[0]} names an average of a run, and {place} holds samples, which were "
                "drawn already; leave out --ema"
            )
        found += [Measured(place, each) for each in averages.names(place, None, ema)]
    return found


def table(measured: Sequence[Measured], metrics: Sequence[dict[str, dict[str, Any]]]) -> str:
    """Return a table with a line for each set and a column for each metric.

    Args:
        measured: The sets.
        metrics: Metrics of their records, in the same order.
    """
    labels = [each.label for each in measured]
    if len(set(labels)) < len(labels):  # such as sets of two runs
        labels = [f"{each.place}".removesuffix(each.place.name) + each.label for each in measured]
    names = list(dict.fromkeys(name for each in metrics for name in each))
    lines = [["samples", *names]]
    for label, values in zip(labels, metrics, strict=True):
        lines.append([label, *(_shown(values, name) for name in names)])

    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )


def _shown(values: dict[str, dict[str, Any]], name: str) -> str:
    return f"{values[name]['value']:.4f}" if name in values else "-"
