"""Curves of a distance over steps: when one falls to a target, tables and a picture of many."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

Curve = Sequence[tuple[int, float]]  # (step, distance), by step


def steps_until(curve: Curve, target: float) -> float | None:
    """The step at which a curve first falls to `target`; None where it does not.

    Between two measured steps the distance is taken to be linear in the logarithm of the step. A
    curve that starts at or below the target gives its first measured step, which is too late.
    """
    before = None
    for step, distance in curve:
        if distance <= target:
            if before is None:
                return float(step)
            first, high = before
            share = (high - target) / (high - distance)
            return math.exp(math.log(first) + share * (math.log(step) - math.log(first)))
        before = (step, distance)
    return None


def speedups(curves: Mapping[str, Sequence[Curve]], base: str) -> dict[str, list[float | None]]:
    """Per variant and seed: the base's steps until its own final distance, by the variant's.

    curves: by variant, the seeds in one order. None where a variant does not get there.
    """
    found: dict[str, list[float | None]] = {}
    for variant, runs in curves.items():
        found[variant] = []
        for own, run in zip(curves[base], runs, strict=True):
            target = own[-1][1]
            reached, needed = steps_until(run, target), steps_until(own, target)
            assert needed is not None
            found[variant].append(needed / reached if reached else None)
    return found


def spread(values: Sequence[float | None], digits: int) -> str:
    """The median with the least and the largest, as "2.1 (1.9 to 2.4)"; None is told apart."""
    known = [value for value in values if value is not None]
    missing = f", not reached in {len(values) - len(known)}" if len(known) < len(values) else ""
    if not known:
        return "not reached"
    low, middle, high = (
        f"{value:.{digits}f}" for value in (min(known), statistics.median(known), max(known))
    )
    return f"{middle} ({low} to {high}{missing})"


def draw(curves: Mapping[str, Mapping[str, Sequence[Curve]]], path: Path, title: str) -> None:
    """One panel per space: every seed as a thin line, the mean as a thick one, both axes log."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        1, len(curves), figsize=(5 * len(curves), 4), layout="constrained", squeeze=False
    )
    for axes, (space, variants) in zip(panels[0], curves.items(), strict=True):
        for number, (variant, runs) in enumerate(variants.items()):
            steps = [step for step, _ in runs[0]]
            for run in runs:
                axes.plot(*zip(*run, strict=True), color=f"C{number}", alpha=0.3, linewidth=1)
            means = [statistics.mean(run[i][1] for run in runs) for i in range(len(steps))]
            axes.plot(steps, means, "o-", color=f"C{number}", label=variant, markersize=3)
        axes.set(title=space, xlabel="step", ylabel="Fréchet distance", xscale="log", yscale="log")
        axes.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)
