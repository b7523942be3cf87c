"""Pictures of variants over seeds: every seed as a dot, the median as a bar."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paired import Measure

Found = Mapping[str, Sequence[float]]  # by variant, the seeds in one order


def draw(found: Found, base: str, path: Path, title: str) -> None:
    """Draw a row per variant, and the median of the base as a line through all of them."""
    pyplot = plotting()
    figure, axes = pyplot.subplots(figsize=(7, 0.35 * len(found) + 1.2), layout="constrained")
    for row, values in enumerate(found.values()):
        axes.plot(values, [row] * len(values), "o", color="C0", alpha=0.5)
        axes.plot([statistics.median(values)] * 2, [row - 0.3, row + 0.3], color="C3")
    axes.axvline(statistics.median(found[base]), color="0.7", linestyle=":")
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("Fréchet distance in the judge's features, at the end")
    axes.set_title(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_panels(
    found: Found, likes: Mapping[str, str], panels: Mapping[str, Sequence[str]], path: Path
) -> None:
    """Draw a panel per question: each variant's distance over that of its pair of the same seed.

    likes: what each variant is compared with; panels: the variants of a question, in order.
    """
    pyplot = plotting()
    figure, all_axes = pyplot.subplots(
        1, len(panels), figsize=(2.6 * len(panels), 3), sharey=True, layout="constrained"
    )
    for axes, (title, names) in zip(
        [all_axes] if len(panels) == 1 else all_axes, panels.items(), strict=True
    ):
        for place, name in enumerate(names):
            ratios = [a / b for a, b in zip(found[name], found[likes[name]], strict=True)]
            axes.plot([place] * len(ratios), ratios, "o", color="C0", alpha=0.5)
            axes.plot([place - 0.25, place + 0.25], [statistics.median(ratios)] * 2, color="C3")
        axes.axhline(1.0, color="0.7", linestyle=":")
        axes.set_xticks(range(len(names)), [name.replace(", ", "\n") for name in names])
        axes.margins(x=0.3)
        axes.set_title(title)
    figure.supylabel("FD / FD without alignment", fontsize="medium")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_measures(
    found: Mapping[str, Mapping[int, Mapping[str, float | None]]],
    measures: Sequence[Measure],
    path: Path,
    title: str,
) -> None:
    """Draw a panel per measure, with a row per variant, a dot per seed and their mean as a bar.

    found: variant -> seed -> measure -> value. A measure that no run has, such as the distance of
    no molecules, has no panel.
    """
    all_runs = [run for runs in found.values() for run in runs.values()]
    known = [m for m in measures if any(run.get(m.name) is not None for run in all_runs)]
    pyplot = plotting()
    figure, all_axes = pyplot.subplots(
        1,
        len(known),
        figsize=(1.5 + 2.6 * len(known), 0.4 * len(found) + 1.3),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, measure in zip(all_axes[0], known, strict=True):
        for row, runs in enumerate(found.values()):
            values = [run.get(measure.name) for run in runs.values()]
            values = [value for value in values if value is not None]
            axes.plot(values, [row] * len(values), "o", color="C0", alpha=0.5)
            if values:
                axes.plot([statistics.fmean(values)] * 2, [row - 0.3, row + 0.3], color="C3")
        axes.set_xlabel(measure.head)
        axes.margins(x=0.1, y=0.2)
    all_axes[0][0].set_yticks(range(len(found)), list(found))
    all_axes[0][0].invert_yaxis()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def plotting() -> Any:
    """Return pyplot, drawing into files."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
