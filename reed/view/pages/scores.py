"""The evaluations of runs of any domain, as rows of tables and lines of charts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reed.evaluate.record import Record
from reed.view.pages import page

# entries of a recipe that say how samples were drawn, for all kinds of data
DRAWN = (
    *("sampler", "steps", "guidance", "labels", "grid", "noise", "atoms"),
    *("temperature", "order", "sampling", "seed", "precision", "ema", "rounding"),
)


@dataclass(frozen=True)
class Score:
    """One record of an evaluation.

    Attributes:
        run: Name of the run.
        name: Name of the samples.
        step: Step of the checkpoint; None if it is not known.
        num: Number of samples.
        reference: Path of the reference.
        metrics: Name of a metric -> {"value", and what the value depends on}.
        warnings: Warnings of the evaluation.
        drawn: How the samples were drawn, as text.
        cost: Bytes and seconds of stage one, by column.
    """

    run: str
    name: str
    step: int | None
    num: int | None
    reference: str
    metrics: dict[str, dict[str, Any]]
    warnings: list[str]
    drawn: str
    cost: dict[str, dict[str, float | None]]

    @property
    def way(self) -> str:
        """Name of the samples without the step: how they were drawn."""
        return re.sub(r"^step-\d+-?", "", self.name)


def read(place: Path, run: str) -> list[Score]:
    """Read the evaluations in a run folder, sorted by step; ReedError if one is damaged."""
    paths = [*place.glob("*.eval.json"), *place.glob("samples/*.eval.json")]
    return sorted((_score(path, run) for path in paths), key=lambda s: (s.step or 0, s.name))


def table(scores: Sequence[Score], several: bool) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of a table of evaluations; with several runs it names the run."""
    names = list(dict.fromkeys(name for score in scores for name in score.metrics))
    rows = [
        [
            *([score.run] if several else []),
            score.name,
            score.step,
            *_values(score, names),
            score.num,
            score.reference,
        ]
        for score in scores
    ]
    return [*(["run"] if several else []), "samples", "step", *names, "num", "reference"], rows


def conventions(scores: Sequence[Score]) -> list[list[Any]]:
    """Return rows [metric, what its values depend on, number of such records]."""
    ways: dict[tuple[str, str], int] = {}
    for score in scores:
        for name, metric in score.metrics.items():
            way = name, said({k: v for k, v in metric.items() if k != "value"}) or "by its name"
            ways[way] = ways.get(way, 0) + 1
    return [[name, how, count] for (name, how), count in ways.items()]


def warnings(scores: Sequence[Score], several: bool) -> list[tuple[str, str]]:
    """Return every warning once, with the names of the samples that have it."""
    owners: dict[str, list[str]] = {}
    for score in scores:
        for warning in score.warnings:
            names = owners.setdefault(warning, [])
            names.append(f"{score.run}, {score.name}" if several else score.name)
    return [
        (text, "all" if 1 < len(scores) == len(names) else "; ".join(names))
        for text, names in owners.items()
    ]


def charts(
    scores: Sequence[Score], several: bool, references: Mapping[str, Mapping[str, Any]]
) -> list[page.Chart]:
    """Return a chart of every metric that is known at two steps or more, or of another run.

    A line joins only sets of samples that were drawn in the same way, are of equal size, and were
    measured against the same reference.

    Args:
        scores: The evaluations.
        several: Whether they are of several runs.
        references: Name -> points of another run, as in a recipe (`reed.train.settings`).
    """
    known = [score for score in scores if score.step is not None]
    lines: dict[str, dict[str, tuple[list[Any], list[Any]]]] = {}
    for score in known:
        name_of_line = ", ".join(label(score, known, several)) or score.run
        for name, metric in score.metrics.items():
            if metric["value"] is not None:
                xs, ys = lines.setdefault(name, {}).setdefault(name_of_line, ([], []))
                xs.append(score.step)
                ys.append(metric["value"])

    # Points of another run are shown even where this one has not been measured yet.
    caption = "By the step of the checkpoint that the samples were drawn from."
    told: dict[str, str] = {}
    for name, known_run in references.items():
        points = {int(step): value for step, value in known_run["points"].items()}
        metric, source = known_run["metric"], known_run.get("source", "")
        line = sorted(points), [points[step] for step in sorted(points)]
        lines.setdefault(metric, {})[f"{name} (reference)"] = line
        told[metric] = told.get(metric, "") + f" {name}: {source or 'a reference'}."
    return [
        page.line_chart(name, caption + told.get(name, ""), "step", name, by_label)
        for name, by_label in lines.items()
        if name in told or any(len(xs) > 1 for xs, _ in by_label.values())
    ]


def said(values: dict[str, Any]) -> str:
    """Return plain values as text: "sampler euler; steps 50; guidance (scale 1, low 0)"."""
    return "; ".join(f"{name} {_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_text(item)}" for name, item in value.items()) + ")"
    return "not known" if value is None else str(value)


def _values(score: Score, names: list[str]) -> list[Any]:
    return [score.metrics[name]["value"] if name in score.metrics else "" for name in names]


def label(score: Score, scores: Sequence[Score], several: bool) -> Iterator[str]:
    """Yield the parts of a line's name that distinguish it from the others.

    Args:
        score: The evaluation.
        scores: All evaluations.
        several: Whether they are of several runs, so that the name of the run is a part.
    """
    if several:
        yield score.run
    if len({each.way for each in scores}) > 1:
        yield score.way or score.name
    if len({each.num for each in scores}) > 1:
        yield f"{score.num} samples"
    if len({each.reference for each in scores}) > 1:
        yield f"against {score.reference}"


def _score(path: Path, run: str) -> Score:
    record = Record.read(path)
    recipe, cost = record.recipe, record.stage_one
    # Some facts are known of some columns only, so the names of all facts are collected.
    columns = dict.fromkeys(column for by_column in cost.values() for column in by_column or {})

    return Score(
        run,
        path.name.removesuffix(".eval.json"),
        recipe.get("step"),
        record.samples.get("num"),
        str(record.reference.get("place")),
        record.metrics,
        [str(w) for w in record.warnings],
        said({key: recipe[key] for key in DRAWN if recipe.get(key) is not None}),
        {
            column: {key: (cost.get(key) or {}).get(column) for key in ("bytes", "seconds")}
            for column in columns
        },
    )
