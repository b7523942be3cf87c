"""Runs beside one another in numbers: in what they differ, what came out, medians over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from reed import config
from reed.view.pages import page, scores
from reed.view.pages.panels import OWN, is_time_bin
from reed.view.pages.run_folder import Run
from reed.wording import counted

SEED = "seed"


@dataclass(frozen=True)
class Table:
    """A table of the page, which the command prints, too.

    Attributes:
        columns: Its header.
        rows: Its rows.
        caption: Text about it.
    """

    columns: list[str]
    rows: list[list[Any]]
    caption: str

    @property
    def lines(self) -> list[str]:
        """The table as lines of text; numbers are on the right of their column."""
        cells = [self.columns, *([page.number(cell) for cell in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        is_number = [
            all(isinstance(cell, int | float) for cell in column)
            for column in zip(*self.rows, strict=True)
        ]

        # A header is on the side of what is below it.
        return [
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, is_number, strict=True)
            ).rstrip()
            for row in cells
        ]


def tables(runs: Sequence[Run], records: Sequence[scores.Score]) -> list[Table]:
    """Compare runs.

    Args:
        runs: The runs.
        records: Their evaluations.

    Returns:
        A table with a row for each run: the settings in which the runs differ, and the last values
        of the losses, the cosines and the metrics. If runs differ by their seeds alone, a table
        with their medians and ranges comes first.
    """
    settings = config.differing([run.settings | {"run": ""} for run in runs])
    results = [_results(run, records) for run in runs]
    names = list(dict.fromkeys(name for each in results for name in each))
    rows = [
        [
            run.name,
            *(config.shown(values[number]) for values in settings.values()),
            run.lines[-1]["step"],
            *(results[number].get(name, "") for name in names),
        ]
        for number, run in enumerate(runs)
    ]
    caption = "Last line of the log, and the latest evaluation."
    each = Table(["run", *settings, "step", *names], rows, caption)
    return [*_over_seeds(runs, settings, results, names), each]


def _results(run: Run, records: Sequence[scores.Score]) -> dict[str, float | None]:
    """Return the last losses, cosines and errors of a run, then the metrics of its last step."""
    last, keys = run.lines[-1], run.keys
    results = {
        key: last[key]
        for key in keys
        if key in last and (key == "loss" or _is_result(key, keys)) and not is_time_bin(key, keys)
    }

    # Metrics of samples that were drawn in different ways are not the same metric.
    known = [score for score in records if score.step is not None]
    ours = sorted((s for s in known if s.run == run.name), key=lambda score: score.step or 0)
    for score in ours:
        way = ", ".join(scores.label(score, known, several=False))
        for name, metric in score.metrics.items():
            results[f"{name} ({way})" if way else name] = metric["value"]
    return results


def _is_result(key: str, keys: Sequence[str]) -> bool:
    """Return whether a logged quantity is a cosine, an error of a representation or a loss."""
    return key.startswith(("cos/", "gram/", "z/")) or (f"weight/{key}" in keys and key not in OWN)


def _over_seeds(
    runs: Sequence[Run],
    settings: dict[str, list[Any]],
    results: Sequence[dict[str, float | None]],
    names: Sequence[str],
) -> Iterator[Table]:
    """Yield a table of runs that are equal but for their seeds, if there are such runs."""
    others = {name: values for name, values in settings.items() if name != SEED}
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, run in enumerate(runs):
        key = tuple(config.shown(values[number]) for values in others.values())
        # What is still in training has no result yet.
        if run.lines[-1]["step"] >= run.settings["steps"]:
            groups.setdefault(key, []).append(number)
    if SEED not in settings or not any(len(group) > 1 for group in groups.values()):
        return

    rows: list[list[Any]] = [
        [*key, len(group), *(spread([results[n].get(name) for n in group]) for name in names)]
        for key, group in groups.items()
    ]
    left_out = len(runs) - sum(map(len, groups.values()))
    more = f" {counted(left_out, 'run')} in training or stopped: left out." if left_out else ""
    caption = f"Median (smallest to largest value) over seeds.{more}"
    yield Table([*others, "seeds", *names], rows, caption)


def spread(values: Sequence[float | None]) -> str:
    """Return "0.41 (0.4 to 0.43)": median, smallest and largest value; says what is missing."""
    known = [value for value in values if value is not None]
    finite = [value for value in known if math.isfinite(value)]
    notes = [f"{len(known)} of {len(values)}"] if 0 < len(known) < len(values) else []
    notes += [f"{len(known) - len(finite)} not finite"] if len(finite) < len(known) else []
    if not finite:
        return "; ".join(notes)
    text = page.number(float(statistics.median(finite)))
    if len(finite) > 1:
        text += f" ({page.number(float(min(finite)))} to {page.number(float(max(finite)))})"
    return "; ".join([text, *notes])
