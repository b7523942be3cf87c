"""Charts of the logs of runs: all quantities of one run, or all runs per quantity."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reed.train.curriculum import Schedule
from reed.view.pages import page
from reed.view.pages.run_folder import Run, per_step

PLANNED = ", planned"  # ending of the names of planned lines
# What every line of a log has: such a key is not the loss of a guide of that name.
OWN = ("step", "samples", "loss", "grad_norm", "lr", "samples_per_s", "wait_share")
_PART = re.compile(r"(z/.+)/t\d+(\.\d+)?")  # the error of a representation in a bin of the time
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


@dataclass(frozen=True)
class _Panel:
    """Quantities that share a y axis.

    Attributes:
        title: Title of the chart.
        y: Name of the y axis.
        caption: Text below the chart.
        keys: Keys of the quantities in the log.
        zero: Whether the y axis starts at 0.
        log: Whether the y axis may be logarithmic.
        share: Whether the y axis is in percent.
        each: Whether titles name the quantity.
    """

    title: str
    y: str
    caption: str
    keys: list[str]
    zero: bool = False
    log: bool = False
    share: bool = False
    each: bool = False


def groups(runs: Sequence[Run]) -> list[Group]:
    """Return charts of every logged quantity under headings, without empty headings."""
    keys = list(dict.fromkeys(key for run in runs for key in run.keys))
    plans = {run.name: planned(run) for run in runs}
    notes = list(dict.fromkeys(note for _, note in plans.values() if note))
    result = []
    for place, title, panels in _panels(keys, " ".join(notes)):
        curves = [curve for panel in panels for curve in _curves(panel, runs, plans)]
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
        text = " ".join(f"{ramp.begins} {ramp.ends}" for ramp in schedule.ramps)
        if ("epoch" in text and not (epoch and batch)) or ("sample" in text and not batch):
            unknown.append(_short(key))
            continue

        # 200 even steps draw every ramp; its corners and the steps before them keep jumps sharp.
        schedule = schedule.resolve(steps, batch or 1, epoch or 1)
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


def _panels(keys: list[str], note: str) -> list[tuple[str, str, list[_Panel]]]:
    """Return (name in links, heading, panels) of everything that is logged."""
    losses = [key for key in keys if f"weight/{key}" in keys and key not in OWN]
    cosines = [key for key in keys if key.startswith("cos/")]
    weights = [key for key in keys if key.startswith("weight/")]
    dotted = f"Dotted: as the recipe plans it, over all steps. {note}".strip()
    aligned = (
        "Mean cosine between the projected hidden states and the cached representation; 1 is equal."
    )
    grams = [key for key in keys if key.startswith("gram/")]
    apart = (
        "Mean squared difference of the cosines between tokens, of the projected hidden states and "
        "of the cached representation; 0 is equal."
    )
    factor = f"What each loss is multiplied by. {dotted}"
    curriculum = [
        _Panel("Weight", "weight", factor, weights, zero=True, each=True),
        _Panel("Learning rate", "learning rate", dotted, ["lr"], zero=True),
    ]

    panels = [
        ("loss", "Loss", _loss_panels(losses)),
        (
            "alignment",
            "Alignment",
            [
                _Panel("Alignment", "cosine", aligned, cosines, each=True),
                _Panel("Relations", "squared difference", apart, grams, zero=True, each=True),
            ],
        ),
        ("guides", "Guides", _guide_panels(keys)),
        ("curriculum", "Curriculum", curriculum),
        ("speed", "Speed and gradients", _speed_panels()),
    ]

    # Quantities of a user's own domain get a panel each.
    shown = {key for _, _, group in panels for panel in group for key in panel.keys}
    rest = [key for key in keys if key not in shown | {"step", "samples"}]
    others = [_Panel(key, key, "As it is logged.", [key]) for key in rest]
    return [*panels, ("others", "Others", others)]


def is_time_bin(key: str, keys: Sequence[str]) -> bool:
    """Return whether a logged quantity is the error of a representation in a bin of the time.

    The name of a guide may contain slashes, so a part of a key is a time only below another key.

    Args:
        key: Name of the quantity.
        keys: Names of all logged quantities.
    """
    found = _PART.fullmatch(key)
    return bool(found and found[1] in keys)


def _guide_panels(keys: list[str]) -> list[_Panel]:
    """Return a panel for each guide: the error of its representation over all times and by time."""
    errors: dict[str, list[str]] = {}
    for key in keys:
        if key.startswith("z/"):
            whole = key.rpartition("/")[0] if is_time_bin(key, keys) else key
            errors.setdefault(whole, []).append(key)
    said = (
        "Error of the predicted representation: a squared error, or minus a cosine. /t0.4 is of "
        "samples at times from 0.4 to 0.6; 0 is data and 1 is noise."
    )
    return [
        _Panel(f"Error of {_short(key)}", "error", said, group, each=True)
        for key, group in errors.items()
    ]


def _loss_panels(losses: list[str]) -> list[_Panel]:
    alone = "Mean since the line before, without its weight."
    total = (
        "The weighted sum that is minimised. Alignment counts as minus its cosine, so it may be "
        "negative."
    )
    return [
        _Panel("Loss", "loss", alone, losses, log=True, each=True),
        _Panel("Total loss", "total loss", total, ["loss"]),
    ]


def _speed_panels() -> list[_Panel]:
    speed = "Over all processes; saving and previews count."
    wait = "How long training waited for batches."
    norm = "Before it is clipped; mean since the line before."
    return [
        _Panel("Throughput", "samples per second", speed, ["samples_per_s"], zero=True),
        _Panel("Loader wait", "share of the time", wait, ["wait_share"], zero=True, share=True),
        _Panel("Gradient norm", "gradient norm", norm, ["grad_norm"], zero=True),
    ]


def _curves(
    panel: _Panel, runs: Sequence[Run], plans: dict[str, tuple[dict[str, Line], str]]
) -> list[Curve]:
    """Return one chart of all quantities of a single run, or one chart per quantity of all runs."""
    if len(runs) == 1:
        parts = [(_short(key), runs[0], key) for key in panel.keys]
        title = _title(panel, panel.keys[0]) if len(parts) == 1 else panel.title
        return _curve(title, panel, parts, plans)
    curves = []
    for key in panel.keys:
        title = _title(panel, key)
        curves += _curve(title, panel, [(run.name, run, key) for run in runs], plans)
    return curves


def _title(panel: _Panel, key: str) -> str:
    return f"{panel.title}: {_short(key)}" if panel.each else panel.title


def _curve(
    title: str,
    panel: _Panel,
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

    chart = page.line_chart(title, panel.caption, "step", panel.y, lines)
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


def _short(key: str) -> str:
    return key.partition("/")[2] or key
