"""Rows of make bench-gpu: what a training step costs with more to do, or with less memory.

Each variant is the whole step of a trainer of its own, fed by its own loader. One after another is
built, measured and dropped, as large nets fit once; so rounds do not take turns, and the plain
step, the first, is what the others are divided by. Memory is the most that torch holds.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import guide
import report
import train

from reed import config
from reed.train import recipe
from reed.train.feed import Feed
from reed.train.loop import Trainer, accelerator_for
from reed.train.recipe import TrainConfig

PLAIN = "plain"
# What is merged into the recipe of a setting.
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "checkpointed blocks": {"domain": {"net_settings": {"checkpoint_blocks": True}}},
    "two averages": {"ema": list(train.AVERAGES[:2])},
    "three averages": {"ema": list(train.AVERAGES)},
    "conv head": {"align": {"image": {"head": "conv"}}},
    **{
        f"guide, {name}": {"guide": {"z": settings}}
        for name, settings in guide.GUIDES.items()
        if settings
    },
}
MEMORY = (PLAIN, "checkpointed blocks")


def measure(
    setting: train.Setting, names: tuple[str, ...], folder: Path, rounds: int
) -> list[report.Figure]:
    """The figures of some variants, the plain step first: rates, ratios, memory, waiting."""
    cache = train.build(setting, folder / setting.name)
    rates, figures = {}, []
    for name in names:
        try:
            rates[name], more = _one(setting, name, cache, folder, rounds)
            figures += more
        except MemoryError as error:  # other variants may fit
            print(f"left out: {setting.name}, {name} ({error})")
        drop()
    kept = [report.figure(f"{setting.name}, {name}", r, "images/s") for name, r in rates.items()]
    for name in [] if PLAIN not in rates else rates:
        if name != PLAIN:
            ratio = report.ratios(rates, name, PLAIN)
            kept.append(replace(ratio, name=f"{setting.name}, {ratio.name}"))
    return kept + figures


def _one(
    setting: train.Setting, name: str, cache: Path, folder: Path, rounds: int
) -> tuple[list[float], list[report.Figure]]:
    """The rates of a variant, its memory in GiB (0 on a CPU), and its share of waiting."""
    trainer = trainer_of(setting, name, cache, folder)
    device, said = trainer.accelerator.device, f"{setting.name}, {name}"
    feed = Feed(trainer.setup.stream, device)
    with closing(feed.batches(0)) as batches:

        def step() -> None:
            trainer.train_step(next(batches))

        timed = partial(train.rate, step, setting.batch, setting.steps, device)
        rates = within_memory(lambda: report.interleaved({name: timed}, rounds)[name])
        memory, waited = within_memory(lambda: train.alone(timed, feed, device))
    return rates, [
        report.figure(f"{said}: memory", [memory], "GiB"),
        report.figure(f"{said}: share of a step spent waiting", [waited], "share"),
    ]


def trainer_of(setting: train.Setting, name: str, cache: Path, folder: Path) -> Trainer:
    """A trainer with the recipe of a variant."""
    table = config.plain(train.settings_of(setting, cache, folder / "run"))
    change = VARIANTS[name]
    if "guide" in change:
        change = {"guide": {"z": {"hidden": setting.hidden} | change["guide"]["z"]}}
    settings = config.build(TrainConfig, config.merge(table, change))
    accelerator = accelerator_for(settings)
    setup = recipe.check(settings, pin=accelerator.device.type == "cuda")
    return Trainer(setup, accelerator)


def within_memory(call: Callable[[], Any]) -> Any:
    """What `call` returns; MemoryError, without what it held, if the device has too little."""
    import torch

    try:
        return call()
    except torch.OutOfMemoryError:
        pass  # its traceback holds the tensors
    raise MemoryError("out of memory")


def drop() -> None:
    """Give back what a trainer or a sampler that is no longer used held on the device."""
    import torch

    if "torch._dynamo" in sys.modules:  # whose caches hold compiled blocks
        torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
