"""The ranges in which runs of a recipe stayed, and whether another run of it leaves them.

The file NAME.expected.json beside a recipe NAME.toml lists recipes, each with the ranges that runs
of it had: by quantity of the log, the lowest and the highest value at every logged step, and how
far outside of them another run may be by chance.

A run says that a quantity is unusual if `IN_A_ROW` logged values lie further outside, all on the
same side. How far follows from the spread between the runs: of n runs with normal values, another
one is t times spread * sqrt(1 + 1/n) away from their mean, where t has Student's law with n - 1
degrees of freedom. So the slack is the t that is exceeded with the probability `ALARM` per run, all
quantities and both sides together, even if a run keeps its distance all the way. Values that vary
from step to step exceed it several times in a row more rarely still, and the slack counts from the
ends of the range, not from the mean.
"""

from __future__ import annotations

import json
import math
import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from reed import config, pipelines
from reed.cache.files import write_atomic
from reed.errors import ReedError
from reed.train import log
from reed.train.recipe import FREE
from reed.train.run_data import RunData
from reed.train.settings import TrainConfig

FEWEST = 3  # runs from which ranges are taken
ALARM = 0.01  # probability that an ordinary run is called unusual, at most
IN_A_ROW = 3  # logged values that must lie outside; a single one may be of one odd batch
NEAR = 5  # logged steps on either side, from which the spread at a step is taken as well
LEAST = 0.02  # of the value, which the slack is at least
# Settings in which the runs of one recipe may differ; a curriculum may depend on the steps.
OWN = (*(name for name in FREE if name != "steps"), "seed")
_COMPARED, _NORM = ("cos/", "gram/"), "grad_norm"


@dataclass(frozen=True)
class Range:
    """The values of one quantity over the runs.

    Attributes:
        steps: Logged steps.
        low: The lowest value at each.
        high: The highest value at each.
        slack: How far outside of these another run may be by chance.
    """

    steps: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    slack: tuple[float, ...]

    def __post_init__(self) -> None:
        columns = (self.low, self.high, self.slack)
        if any(len(column) != len(self.steps) for column in columns):
            raise ValueError("a range has not one low, high and slack for each step")
        if any(first >= second for first, second in pairwise(self.steps)):
            raise ValueError("the steps of a range do not increase")
        if not all(math.isfinite(value) for column in columns for value in column):
            raise ValueError("a range has a value that is not finite")

    def at(self, step: int) -> tuple[float, float, float] | None:
        """Return low, high and slack at a step, interpolated; None outside of the logged steps."""
        if not self.steps or not self.steps[0] <= step <= self.steps[-1]:
            return None
        right = bisect_left(self.steps, step)
        if self.steps[right] == step:
            return self.low[right], self.high[right], self.slack[right]
        before, after = self.steps[right - 1], self.steps[right]
        share = (step - before) / (after - before)
        ends = ((v[right - 1], v[right]) for v in (self.low, self.high, self.slack))
        low, high, slack = (first + share * (last - first) for first, last in ends)
        return low, high, slack


@dataclass(frozen=True)
class Expected:
    """What runs of one recipe did.

    Attributes:
        recipe: Its settings, without those in `OWN`.
        runs: Number of the runs.
        ranges: Range by quantity.
    """

    recipe: dict[str, Any]
    runs: int
    ranges: dict[str, Range]


@dataclass
class Watch:
    """Says once of every quantity that it left its range.

    Attributes:
        expected: The ranges.
        path: The file that has them.
    """

    expected: Expected
    path: Path
    _outside: dict[str, int] = field(default_factory=dict)  # values in a row; below 0: too low
    _said: set[str] = field(default_factory=set)

    def unusual(self, step: int, line: Mapping[str, Any]) -> list[str]:
        """Return a line for every quantity that has now stayed outside of its range."""
        found = []
        for name, known in self.expected.ranges.items():
            value, ends = line.get(name), known.at(step)
            if name in self._said or value is None or ends is None:
                continue

            # A value on the other side begins a new row.
            low, high, slack = ends
            side = (value > high + slack) - (value < low - slack)
            before = self._outside.get(name, 0)
            self._outside[name] = side + (before if before * side > 0 else 0)

            if abs(self._outside[name]) == IN_A_ROW:
                self._said.add(name)
                found.append(
                    f"step {step}: {name} is {value:.4g}; {self.expected.runs} runs of this "
                    f"recipe had {low:.4g} to {high:.4g} there ({self.path})"
                )
        return found


def watch(settings: TrainConfig, data: RunData) -> Watch | None:
    """Return what watches a run; None if no ranges of its recipe are known.

    Raises:
        ReedError: The file of the ranges is damaged.
    """
    path = pipelines.expected(data.pipeline)
    if path is None:
        return None
    recipe = _recipe(config.plain(settings))
    found = [each for each in _read(path) if _completed(each.recipe) == recipe]
    return Watch(found[0], path) if found else None


def write(places: Sequence[Path], path: Path) -> Expected:
    """Put the ranges of some runs into a file; those of other recipes in it stay.

    Args:
        places: Folders of runs of one recipe that differ in their seeds.
        path: The file.

    Raises:
        ReedError: There are too few seeds, two runs of one, or runs of different recipes.
    """
    tables = [config.plain(TrainConfig.of_run(place)) for place in places]
    seeds = {table["seed"] for table in tables}
    if len(seeds) < max(FEWEST, len(places)):
        raise ReedError(
            f"ranges need runs with {FEWEST} seeds or more, one run of each: {len(places)} with "
            f"seed {', '.join(map(str, sorted(seeds)))} were given"
        )
    for place, table in zip(places, tables, strict=True):
        for where, old, new in config.differences(_recipe(tables[0]), _recipe(table), ""):
            raise ReedError(
                f"{place} and {places[0]} are of different recipes: {where[1:]} is {_said(new)} "
                f"and {_said(old)}; give runs that differ in their seeds"
            )

    # Runs may have been logged at other steps; those that all have count.
    lines = [{line["step"]: line for line in log.read(place)} for place in places]
    steps = sorted(set.intersection(*map(set, lines)))
    if not steps:
        raise ReedError(f"the runs have no logged step in common: {', '.join(map(str, places))}")
    known = _watched(tables[0], lines[0][steps[0]])
    times = _times(len(places), len(known))
    ranges = {name: _range(name, steps, lines, times) for name in known}
    added = Expected(_recipe(tables[0]), len(places), ranges)

    old = _read(path) if path.is_file() else []
    others = [each for each in old if _completed(each.recipe) != added.recipe]
    text = json.dumps([config.plain(each) for each in [*others, added]], indent=1)
    write_atomic(path, (text + "\n").encode())
    return added


def _said(value: Any) -> str:
    return "not set" if value is None else repr(value)


def _times(runs: int, quantities: int) -> float:
    """Return how many times the spread of some runs another one may be away by chance."""
    from scipy.special import stdtrit

    tail = ALARM / (2 * max(1, quantities))
    return float(-stdtrit(runs - 1, tail)) * math.sqrt(1 + 1 / runs)


def _range(
    name: str, steps: Sequence[int], lines: Sequence[Mapping[int, Any]], times: float
) -> Range:
    """Return the range of one quantity; steps at which a run has no finite value are left out.

    Args:
        name: The quantity.
        steps: Logged steps that all runs have.
        lines: Step -> values of the log, for each run.
        times: How many times the spread is the slack.
    """
    rows = [(step, [each[step].get(name) for each in lines]) for step in steps]
    whole = [(step, values) for step, values in rows if None not in values]

    # A few runs may be close to one another at a step by chance; around it, they are not.
    variances = [statistics.variance(values) for _, values in whole]
    near = [variances[max(0, row - NEAR) : row + NEAR + 1] for row in range(len(whole))]
    slacks = [times * math.sqrt(statistics.fmean(each)) for each in near]

    digits = [
        (step, min(v), max(v), max(slack, LEAST * max(map(abs, v))))
        for (step, v), slack in zip(whole, slacks, strict=True)
    ]
    rounded = [(step, *(round(value, 6) for value in rest)) for step, *rest in digits]
    columns = [tuple(column) for column in zip(*rounded, strict=True)] or [(), (), (), ()]
    return Range(*columns)


def _watched(table: Mapping[str, Any], line: Mapping[str, Any]) -> list[str]:
    """Return the quantities of a log that tell something of the training."""
    losses = {*table["curriculum"], "loss"} - {*table["align"], *table["guide"]}
    return [name for name in line if name in losses or name == _NORM or name.startswith(_COMPARED)]


def _recipe(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the runs of one recipe share, as they are in a file."""
    return json.loads(json.dumps({k: v for k, v in table.items() if k not in OWN}))


def _completed(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a file as they are today: defaults that came later are added."""
    try:
        settings = config.build(TrainConfig, {"shards": "", "run": "", **recipe})
    except ReedError:  # a setting that there is no more
        return dict(recipe)
    return _recipe(config.plain(settings))


def _read(path: Path) -> list[Expected]:
    """Read a file of ranges."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise ValueError(f"it holds no list, but {type(entries).__name__}")
        return [config.build(Expected, entry, str(path)) for entry in entries]
    except (OSError, ValueError, RecursionError, ReedError) as error:
        raise ReedError(
            f"cannot read {path}: {error}; restore it, or remove it and write it again with "
            "reed-train report --expect"
        ) from error
