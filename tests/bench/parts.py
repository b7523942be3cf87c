"""What the parts of an alignment target cost, as CPU time of a step over that of the plain one.

Each way is the whole step of a trainer of its own, on one batch that stays, with the net and the
recipe of make bench-train; only the settings of the image target differ.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import report
import train

from reed import config
from reed.train import recipe
from reed.train.feed import Feed
from reed.train.loop import Trainer, accelerator_for
from reed.train.recipe import TrainConfig

PLAIN = "step, aligned"
RARE = {"head": "conv", "normalize": {"kind": "spatial", "gamma": 0.6}, "token_weight": True}
VA = {"time_weight": {"kind": "sigmoid", "tau": 0.7, "k": 20}}
PARTS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "step, conv head": {"head": "conv"},
    "step, spatial norm": {"normalize": {"kind": "spatial"}},
    "step, token weights": {"token_weight": True},
    "step, Gram": {"loss": "gram"},
    "step, all together": RARE | VA,
    "step, all and a Gram target": RARE | VA,
}
# A second target at the same tap, of the last way: token weights and Gram exclude one another.
RELATIONS = {"target": "image/tokens", "tap": train.SMALL.taps[0], "head": "conv", "loss": "gram"}
GOAL = "goal: all together at most 1.08 times the CPU time of the plain aligned step"


def images_per_cpu_second(way: Callable[[], Any], rows: int, steps: int) -> float:
    """Return the samples per second of CPU time of some calls of `way`, of `rows` samples each."""
    began = process_time()
    for _ in range(steps):
        way()
    return rows * steps / (process_time() - began)


def measure(
    setting: train.Setting, cache: Path, folder: Path, runs: int, steps: int
) -> list[report.Figure]:
    """Return the costs of the parts, on a cache of `train.build`."""
    trainers = {}
    for name, part in PARTS.items():
        table = config.plain(train.settings_of(setting, cache, folder / name))
        table = config.merge(table, {"align": {"image": part}})
        if name.endswith("a Gram target"):
            more = {"align": {"relations": RELATIONS}, "curriculum": {"relations": 0.5}}
            table = config.merge(table, more)
        settings = config.build(TrainConfig, table)
        trainers[name] = Trainer(recipe.check(settings), accelerator_for(settings))

    first = trainers[PLAIN]
    with closing(Feed(first.setup.stream, first.accelerator.device).batches(0)) as batches:
        fed = next(batches)
    fed = replace(fed, values=fed.values | {"relations": fed.values["image"]})
    timed = {
        name: partial(images_per_cpu_second, partial(each.train_step, fed), setting.batch, steps)
        for name, each in trainers.items()
    }
    found = report.interleaved(timed, runs)
    costs = [report.ratios(found, PLAIN, name) for name in found if name != PLAIN]
    names = [name for name in found if name != PLAIN]
    return [
        replace(cost, name=f"cost of a {name}", compared_with=PLAIN)
        for name, cost in zip(names, costs, strict=True)
    ]
