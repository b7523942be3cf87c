"""make bench-guide: what guides cost, in training and in sampling, against the plain aligned step.

The net, the records and the recipe are those of the small setting of make bench-train: alignment
with an image and a caption. Each way is the whole step of a trainer of its own on one batch that
stays; the guide's representation is the caption's vector, or the image's tokens for mean. Sampling
is fifty steps of Euler in float32 with the untrained net. The ways are run in turn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))
import report
import torch
import train
from train import SMALL, Setting

from reed import config
from reed.domains.image import SampleOptions
from reed.precision import computing
from reed.train import recipe
from reed.train.feed import Feed
from reed.train.loop import Trainer, accelerator_for
from reed.train.recipe import TrainConfig

SMALLER = {"hidden": 256, "depth": 3}  # of the prior
GUIDES: dict[str, dict[str, Any]] = {
    "aligned": {},
    "joint": {"target": "caption/vector", "read": "joint", "enter": "token"},
    "prior": {"target": "caption/vector", "read": "prior", "when": "constant"} | SMALLER,
    "mean": {"target": "image/tokens", "read": "mean", "enter": "tokens", "norm": "sample"},
}
GOALS = "goals: a step with joint at most 1.03, prior 1.10, mean 1.40; sampling with prior 1.05"


def trainers(setting: Setting, folder: Path) -> dict[str, Trainer]:
    """Return a trainer for each way, all on one cache."""
    cache = train.build(setting, folder / "cache")
    made = {}
    for name, guide in GUIDES.items():
        table = config.plain(train.settings_of(setting, cache, folder / name))
        if guide:
            table |= {"guide": {"z": {"hidden": setting.hidden} | guide}}
        settings = config.build(TrainConfig, table)
        made[name] = Trainer(recipe.check(settings), accelerator_for(settings))
    return made


def sampling(trainer: Trainer, setting: Setting, steps: int) -> Callable[[], Any]:
    """Return the drawing of one batch from the net of a trainer, not averaged."""
    options, setup = SampleOptions("euler", steps), trainer.setup
    net = trainer.bare.net

    def draw() -> None:
        training = net.training
        with computing(str(trainer.accelerator.device), "fp32"):
            setup.domain.generate(net.eval(), setup.fields, range(setting.batch), options)
        net.train(training)

    return draw


def measure(setting: Setting, folder: Path, runs: int, steps: int) -> list[report.Figure]:
    """Return the figures: rates of every way, and their costs against the aligned step."""
    made, rows = trainers(setting, folder), setting.batch
    device = made["aligned"].accelerator.device
    with closing(Feed(made["aligned"].setup.stream, device).batches(0)) as batches:
        fed = next(batches)
    values = {"z": fed.values["caption"]}
    ways: dict[str, Callable[[], Any]] = {}
    for name, trainer in made.items():
        z = fed.values["image"] if name == "mean" else values["z"]
        ways[f"step, {name}"] = partial(
            trainer.train_step, replace(fed, values=fed.values | {"z": z})
        )
    for name in ("aligned", "prior"):
        ways[f"sampling, {name}"] = sampling(made[name], setting, steps)
    timed = {name: partial(train.rate, way, rows, 1, device) for name, way in ways.items()}

    found = report.interleaved(timed, runs)
    figures = [report.figure(name, rates, "images/s") for name, rates in found.items()]
    for name in found:
        kind, _, way = name.partition(", ")
        if way != "aligned":
            cost = report.ratios(found, f"{kind}, aligned", name)
            figures.append(replace(cost, name=f"cost of {name}", compared_with=f"{kind}, aligned"))
    return figures


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("runs/bench/guide-data"))
@click.option("--runs", default=15, show_default=True)
@click.option("--batch", default=SMALL.batch, show_default=True)
@click.option("--steps", default=50, show_default=True, help="Steps of the sampler.")
def main(folder: Path, runs: int, batch: int, steps: int) -> None:
    """Measure the small setting and publish the figures."""
    setting = replace(SMALL, batch=batch)
    what = f"{__doc__}\n{GOALS}\ntorch {torch.__version__}, {torch.get_num_threads()} threads"
    report.publish("guide", what, measure(setting, folder, runs, steps))


if __name__ == "__main__":
    main()
