"""Figures of variants over seeds: bootstrap intervals, and the sign test on pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

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
