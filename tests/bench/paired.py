"""Figures of variants over seeds: bootstrap intervals, and the sign test on pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import click
import numpy as np

from reed.wording import counted

RESAMPLED = 10_000  # draws of seeds for an interval
LEVEL = 0.95  # of an interval


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its bootstrap interval."""

    mean: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        """Such as "1.38 (1.20 to 1.55)"."""
        return f"{self.mean:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean, and the percentile interval of the means of seeds drawn with replacement."""
    known = np.asarray(values, float)
    draws = np.random.default_rng(seed).integers(len(known), size=(RESAMPLED, len(known)))
    tails = (1 - LEVEL) / 2
    low, high = np.quantile(known[draws].mean(1), (tails, 1 - tails))
    return Interval(float(known.mean()), float(low), float(high))


def ratio(values: Sequence[float], seed: int = 0) -> Interval:
    """The geometric mean of ratios with its interval: the bootstrap of their logarithms."""
    return _mapped(bootstrap([math.log(value) for value in values], seed), math.exp)


def _mapped(interval: Interval, function: Callable[[float], float]) -> Interval:
    return Interval(function(interval.mean), function(interval.low), function(interval.high))


def sign_test(ours: Sequence[float], base: Sequence[float]) -> tuple[int, int, float]:
    """Pairs in which ours is lower, pairs that differ, and the two-sided p of so many or more.

    Under the null hypothesis each is lower with probability one half; equal pairs do not count.
    """
    pairs = [(a, b) for a, b in zip(ours, base, strict=True) if a != b]
    wins, total = sum(a < b for a, b in pairs), len(pairs)
    tail = sum(math.comb(total, k) for k in range(max(wins, total - wins), total + 1))
    return wins, total, min(1.0, 2 * tail / 2**total)


@dataclass(frozen=True)
class Measure:
    """A column of a table. lower: whether lower is better."""

    name: str
    head: str
    lower: bool = False


Records = Mapping[int, Mapping[str, float | None]]  # seed -> measure -> value


def table(
    found: Mapping[str, Records], likes: Mapping[str, str], measures: Sequence[Measure]
) -> list[str]:
    """Lines of a Markdown table, over the seeds that all variants have; the first counts them.

    found: by variant; likes: the variant whose runs are the pairs of a variant's, or "".
    """
    seeds = sorted(set.intersection(*(set(runs) for runs in found.values())))
    if not seeds:
        raise click.ClickException("no seed has all variants yet")
    head = ["variant"]
    for measure in measures:
        head += [measure.head, "against its pair", "sign test"]
    lines = [counted(len(seeds), "seed"), "", _line(head), _line(["---"] * len(head))]
    for name, runs in found.items():
        cells = [name]
        for measure in measures:
            pair = found.get(likes[name], {})
            cells += _cells(measure, [(runs[s], pair.get(s, {})) for s in seeds])
        lines.append(_line(cells))
    return lines


def _cells(measure: Measure, pairs: Sequence[tuple[Mapping, Mapping]]) -> list[str]:
    """The mean of a measure, that of the differences to the pairs, and the sign test."""
    both = [(own[measure.name], base.get(measure.name)) for own, base in pairs]
    own = [value for value, _ in both if value is not None]
    missing = f", none in {len(both) - len(own)}" if len(own) < len(both) else ""
    cells = [bootstrap(own).text(3) + missing if own else "none", "", ""]
    known = [(a, b) for a, b in both if a is not None and b is not None]
    if known:
        less, total, p = sign_test(*zip(*known, strict=True))
        better = less if measure.lower else total - less
        cells[1] = bootstrap([a - b for a, b in known]).text(4)
        cells[2] = f"better in {better} of {total}, p = {p:.3f}"
    return cells


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
