"""The evaluations of a run, of whatever domain, as rows of tables and lines of charts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reed.evaluate.record import Record
from reed.view.pages import page

# of a recipe: how samples of any kind were drawn
DRAWN = (
    *("sampler", "steps", "guidance", "labels", "grid", "noise", "atoms"),
    *("temperature", "order", "sampling", "seed", "precision", "ema", "rounding"),
)


@dataclass(frozen=True)
class Score:
    """One record of an evaluation.

    run: the name of its run; name: of the samples; step: of the checkpoint, None where that is
    not known; metrics: name -> {value, and what it depends on}; cost: of stage one, by column.
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
        """How the samples were drawn as their name tells it: without the step."""
        return re.sub(r"^step-\d+-?", "", self.name)


def read(place: Path, run: str) -> list[Score]:
    """The evaluations that lie in a run folder, by step; ReedError for one that is damaged."""
    paths = [*place.glob("*.eval.json"), *place.glob("samples/*.eval.json")]
    return sorted((_score(path, run) for path in paths), key=lambda s: (s.step or 0, s.name))


def table(scores: Sequence[Score], several: bool) -> tuple[list[str], list[list[Any]]]:
    """The names of the columns and a row per evaluation; several: name the run, too."""
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
    """[metric, how it was taken, in how many records], each way once."""
    ways: dict[tuple[str, str], int] = {}
    for score in scores:
        for name, metric in score.metrics.items():
            way = name, said({k: v for k, v in metric.items() if k != "value"}) or "by its name"
            ways[way] = ways.get(way, 0) + 1
    return [[name, how, count] for (name, how), count in ways.items()]


def warnings(scores: Sequence[Score], several: bool) -> list[tuple[str, str]]:
    """Every warning word by word, once, and the samples that it is of."""
    found: dict[str, list[str]] = {}
    for score in scores:
        for warning in score.warnings:
            names = found.setdefault(warning, [])
            names.append(f"{score.run}, {score.name}" if several else score.name)
    everything = len(scores) > 1
    return [
        (text, "all" if everything and len(names) == len(scores) else "; ".join(names))
        for text, names in found.items()
    ]


def charts(scores: Sequence[Score], several: bool) -> list[page.Chart]:
    """A chart of every metric that some samples have at two steps or more.

    Only what was drawn in one way, as many times and measured against one reference makes a line.
    """
    known = [score for score in scores if score.step is not None]
    lines: dict[str, dict[str, tuple[list[Any], list[Any]]]] = {}
    for score in known:
        label = ", ".join(_label(score, known, several)) or score.run
        for name, metric in score.metrics.items():
            if metric["value"] is not None:
                xs, ys = lines.setdefault(name, {}).setdefault(label, ([], []))
                xs.append(score.step)
                ys.append(metric["value"])
    caption = "By the step of the checkpoint that the samples were drawn from."
    return [
        page.line_chart(name, caption, "step", name, found)
        for name, found in lines.items()
        if any(len(xs) > 1 for xs, _ in found.values())
    ]


def said(values: dict[str, Any]) -> str:
    """Plain values in a line of text: "sampler euler; steps 50; guidance: scale 1, low 0"."""
    return "; ".join(f"{name} {_said(value)}" for name, value in values.items())


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_said(each)}" for name, each in value.items()) + ")"
    return "not known" if value is None else str(value)


def _values(score: Score, names: list[str]) -> list[Any]:
    return [score.metrics[name]["value"] if name in score.metrics else "" for name in names]


def _label(score: Score, scores: Sequence[Score], several: bool) -> Iterator[str]:
    """What tells a line from the others."""
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
    columns = dict.fromkeys(column for each in cost.values() for column in each or {})
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
