"""Charts of the logs of runs: all quantities of one run, or all runs per quantity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reed.train.curriculum import Schedule, lengths_of
from reed.train.release import Release
from reed.view.pages import page
from reed.view.pages.panels import MARK, Panel, panels, short
from reed.view.pages.run_folder import Run, per_step

PLANNED = ", planned"  # ending of the names of planned lines
Line = tuple[Sequence[int], Sequence[float | None]]  # steps, values


@dataclass(frozen=True)
class Curve:
    """A chart of the page.

    Attributes:
        chart: The chart.
        log: Whether its y axis may be logarithmic.
    """

    chart: page.Chart
    log: bool


@dataclass(frozen=True)
class Group:
    """Charts under one heading.

    Attributes:
        place: Name of the heading in links.
        title: The heading.
        curves: The charts.
    """

    place: str
    title: str
    curves: list[Curve]

    @property
    def log(self) -> bool:
        """Whether a y axis of a chart may be logarithmic."""
        return any(curve.log for curve in self.curves)


def groups(runs: Sequence[Run]) -> list[Group]:
    """Return charts of every logged quantity under headings, without empty headings."""
    keys = list(dict.fromkeys(key for run in runs for key in run.keys))
    plans = {run.name: planned(run) for run in runs}
    notes = list(dict.fromkeys(note for _, note in plans.values() if note))
    result = []
    for place, title, group in panels(keys, " ".join(notes)):
        curves = [curve for panel in group for curve in _curves(panel, runs, plans)]
        if curves:
            result.append(Group(place, title, curves))
    return result


def planned(run: Run) -> tuple[dict[str, Line], str]:
    """Return the schedules of the recipe as lines, and a note on those that are not known.

    The value at step n is the one that the n-th optimizer step uses, as in the log.

    Returns:
        The lines "weight/NAME" and "lr", and the note, which may be empty.
    """
    settings, lines, unknown = run.settings, {}, []
    steps, batch = settings["steps"], per_step(run)
    epoch = run.data.samples if run.data and not settings.get("one_per") else None
    for key, schedule, factor in _schedules(run):
        times: list[Any] = [(ramp.begins, ramp.ends) for ramp in schedule.ramps]
        release = _release(run, key)
        times += [(release.at, release.ramp)] if release else []
        text = " ".join(f"{first} {second}" for first, second in times)
        if ("epoch" in text and not (epoch and batch)) or ("sample" in text and not batch):
            unknown.append(short(key))
            continue

        # 200 even steps draw every ramp; its corners and the steps before them keep jumps sharp.
        lengths = steps, batch or 1, epoch or 1
        schedule = schedule.resolve(*lengths)
        if release:
            schedule = release.resolve(lengths_of(*lengths), key).within(schedule)
        corners = {int(p) for ramp in schedule.ramps for p in (ramp.begins, ramp.ends)}
        evenly = {round(i * (steps - 1) / 199) for i in range(200)}
        candidates = evenly | corners | {step - 1 for step in corners}
        chosen = sorted(step for step in candidates if 0 <= step < steps)
        lines[key] = [step + 1 for step in chosen], [factor * schedule(step) for step in chosen]
    note = f"Not for {', '.join(unknown)} of {run.name}: the length of its epochs is not known."
    return lines, note if unknown else ""


def _schedules(run: Run) -> list[tuple[str, Schedule, float]]:
    """Return (key in the log, schedule, factor of its value) of everything that is not off."""
    weights, optim = run.settings["curriculum"], run.settings["optim"]
    logged = [key.removeprefix("weight/") for key in run.keys if key.startswith("weight/")]
    schedules = []
    for name in dict.fromkeys([*logged, *weights]):
        schedule = Schedule.of(weights.get(name, 1.0), f"curriculum.{name}")
        if name in logged or not schedule.is_off():
            schedules.append((f"weight/{name}", schedule, 1.0))
    lr = Schedule.of(optim.get("schedule", 1.0), "optim.schedule")
    return [*schedules, ("lr", lr, optim.get("lr", 0.0))]


def _release(run: Run, key: str) -> Release | None:
    """Return the release of the target whose weight is logged under a key."""
    table = run.settings["align"].get(short(key)) if key.startswith("weight/") else None
    return Release.of((table or {}).get("release", ""), f"align.{short(key)}.release")


def _released(parts: list[tuple[str, Run, str]]) -> dict[str, int]:
    """Return the steps at which the targets of parts (label, run, key) are released, by label."""
    steps = {}
    for label, run, key in parts:
        values = run.logged(MARK + short(key))[1]
        if values and values[-1] is not None and key.startswith(("cos/", "gram/", "weight/")):
            steps[label] = int(values[-1])
    return steps


def _curves(
    panel: Panel, runs: Sequence[Run], plans: dict[str, tuple[dict[str, Line], str]]
) -> list[Curve]:
    """Return one chart of all quantities of a single run, or one chart per quantity of all runs."""
    if len(runs) == 1:
        parts = [(short(key), runs[0], key) for key in panel.keys]
        title = _title(panel, panel.keys[0]) if len(parts) == 1 else panel.title
        return _curve(title, panel, parts, plans)
    curves = []
    for key in panel.keys:
        title = _title(panel, key)
        curves += _curve(title, panel, [(run.name, run, key) for run in runs], plans)
    return curves


def _title(panel: Panel, key: str) -> str:
    return f"{panel.title}: {short(key)}" if panel.each else panel.title


def _curve(
    title: str,
    panel: Panel,
    parts: list[tuple[str, Run, str]],
    plans: dict[str, tuple[dict[str, Line], str]],
) -> list[Curve]:
    """Return the chart of parts (label, run, key) in a list; an empty list if none is logged."""
    lines: dict[str, Line] = {}
    for label, run, key in parts:
        if (logged := run.logged(key))[0]:
            lines[label] = logged
        if key in plans[run.name][0]:
            lines[label + PLANNED] = plans[run.name][0][key]
    if not any(xs for xs, _ in lines.values()):
        return []

    released = _released(parts)
    marks = ", ".join(f"{label} at step {step:,}" for label, step in released.items())
    caption = f"{panel.caption} Dashed: the release of {marks}." if marks else panel.caption
    chart = page.line_chart(title, caption, "step", panel.y, lines)
    for step in dict.fromkeys(released.values()):
        chart.figure.add_vline(x=step, line_dash="dash", line_width=1, line_color="#7a7a85")
    _style(chart.figure, [label for label, _, _ in parts], list(lines))
    chart.figure.update_layout(showlegend=len(parts) > 1)
    if panel.zero:
        chart.figure.update_yaxes(rangemode="tozero")
    if panel.keys == ["lr"]:
        chart.figure.update_yaxes(exponentformat="e")
    if panel.share:
        chart.figure.update_yaxes(tickformat=".1~%")

    # A logarithmic axis cannot show zero or negative values.
    values = [value for _, ys in lines.values() for value in ys]
    return [Curve(chart, panel.log and all(map(_positive, values)))]


def _style(figure: Any, labels: list[str], names: list[str]) -> None:
    """Give each label the same colour in all charts; planned lines are dotted, without a legend."""
    for trace, name in zip(figure.data, names, strict=True):
        label = name.removesuffix(PLANNED) if name not in labels else name
        trace.line.color = page.COLOURS[labels.index(label) % len(page.COLOURS)]
        trace.legendgroup = label
        if label != name:
            trace.line.dash, trace.mode = "dot", "lines"
            trace.showlegend = label not in names


def _positive(value: Any) -> bool:
    return value is None or not math.isfinite(value) or value > 0
