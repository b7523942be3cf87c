"""The ranges in which runs of a recipe stayed, and whether another run of it leaves them.

The file NAME.expected.json beside a recipe NAME.toml lists recipes, each with the ranges that runs
of it had: by quantity of the log, the lowest and the highest value at every logged step.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
WIDER = 1.0  # of the width of a range, on either side, that a run may leave it
LEAST = 0.02  # of the value, which a range is at least wide
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
    """

    steps: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def at(self, step: int) -> tuple[float, float] | None:
        """Return the range at a step, interpolated; None outside of the logged steps."""
        if not self.steps or not self.steps[0] <= step <= self.steps[-1]:
            return None
        right = bisect_left(self.steps, step)
        if self.steps[right] == step:
            return self.low[right], self.high[right]
        before, after = self.steps[right - 1], self.steps[right]
        share = (step - before) / (after - before)
        ends = ((v[right - 1], v[right]) for v in (self.low, self.high))
        low, high = (first + share * (last - first) for first, last in ends)
        return low, high


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
    _said: set[str] = field(default_factory=set)

    def unusual(self, step: int, line: Mapping[str, Any]) -> list[str]:
        """Return a line for every quantity that is outside of its range for the first time."""
        found = []
        for name, known in self.expected.ranges.items():
            value, ends = line.get(name), known.at(step)
            if name in self._said or value is None or ends is None:
                continue
            slack = max(WIDER * (ends[1] - ends[0]), LEAST * max(map(abs, ends)))
            if not ends[0] - slack <= value <= ends[1] + slack:
                self._said.add(name)
                found.append(
                    f"step {step}: {name} is {value:.4g}; {self.expected.runs} runs of this "
                    f"recipe had {ends[0]:.4g} to {ends[1]:.4g} there ({self.path})"
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
    found = [each for each in _read(path) if each.recipe == recipe]
    return Watch(found[0], path) if found else None


def write(places: Sequence[Path], path: Path) -> Expected:
    """Put the ranges of some runs into a file; those of other recipes in it stay.

    Args:
        places: Folders of runs of one recipe that differ in their seeds.
        path: The file.

    Raises:
        ReedError: There are too few runs, or they differ in more than their seeds.
    """
    tables = [config.plain(TrainConfig.of_run(place)) for place in places]
    seeds = {table["seed"] for table in tables}
    if len(seeds) < FEWEST:
        raise ReedError(
            f"ranges need runs with {FEWEST} seeds or more, and {len(places)} with seed "
            f"{', '.join(map(str, sorted(seeds)))} were given"
        )
    for place, table in zip(places, tables, strict=True):
        for where, old, new in config.differences(_recipe(tables[0]), _recipe(table), ""):
            raise ReedError(
                f"{place} and {places[0]} are of different recipes: {where[1:]} = {new!r} and "
                f"{old!r}; give runs that differ in their seeds"
            )

    # Runs may have been logged at other steps; those that all have count.
    lines = [{line["step"]: line for line in log.read(place)} for place in places]
    steps = sorted(set.intersection(*map(set, lines)))
    if not steps:
        raise ReedError(f"the runs have no logged step in common: {', '.join(map(str, places))}")
    known = _watched(tables[0], lines[0][steps[0]])
    ranges = {name: _range(name, steps, lines) for name in known}
    added = Expected(_recipe(tables[0]), len(places), ranges)

    others = [each for each in _read(path) if each.recipe != added.recipe] if path.is_file() else []
    text = json.dumps([config.plain(each) for each in [*others, added]], indent=1)
    write_atomic(path, (text + "\n").encode())
    return added


def _range(name: str, steps: Sequence[int], lines: Sequence[Mapping[int, Any]]) -> Range:
    """Return the range of one quantity; steps at which a run has no finite value are left out."""
    rows = [(step, [each[step].get(name) for each in lines]) for step in steps]
    whole = [(step, values) for step, values in rows if None not in values]
    digits = [(step, round(min(v), 6), round(max(v), 6)) for step, v in whole]
    columns = [tuple(column) for column in zip(*digits, strict=True)] or [(), (), ()]
    return Range(*columns)


def _watched(table: Mapping[str, Any], line: Mapping[str, Any]) -> list[str]:
    """Return the quantities of a log that tell something of the training."""
    losses = {*table["curriculum"], "loss"} - {*table["align"], *table["guide"]}
    return [name for name in line if name in losses or name == _NORM or name.startswith(_COMPARED)]


def _recipe(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the runs of one recipe share, as they are in a file."""
    return json.loads(json.dumps({k: v for k, v in table.items() if k not in OWN}))


def _read(path: Path) -> list[Expected]:
    """Read a file of ranges."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [config.build(Expected, entry, str(path)) for entry in entries]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ReedError(
            f"cannot read {path}: {error}; restore it, or remove it and write it again with "
            "reed-train report --expect"
        ) from error
