"""A training recipe, checked against its cache and its net."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from reed import config
from reed.cache.files import write_atomic
from reed.cache.opened import Cache, open_cache
from reed.cache.schema import Field
from reed.cache.stream import ShardStream
from reed.domains.base import Domain
from reed.errors import ReedError, suggest
from reed.guides.settings import GuideSpec, check_names
from reed.train import given, sharded
from reed.train.align import AlignedNet
from reed.train.curriculum import Schedule, lengths_of
from reed.train.groups import assign, trainable
from reed.train.identity import Identity
from reed.train.release import Release
from reed.train.run_data import RunData
from reed.train.settings import (
    EveryConfig,
    LoaderConfig,
    OptimConfig,
    PreviewConfig,
    TrainConfig,
)
from reed.train.targets import AlignConfig, Target, check_target
from reed.wording import changed

__all__ = [
    "EveryConfig",
    "LoaderConfig",
    "OptimConfig",
    "PreviewConfig",
    "Setup",
    "TrainConfig",
    "check",
    "claim",
]

# Settings that a rerun in the same folder may change.
FREE = (
    "steps keep every loader shards run stop_after_bad compile tracker preview wait_minutes "
    "reference fsdp"
).split()


@dataclass(frozen=True)
class Setup:
    """A recipe that fits its cache: everything the trainer is built from.

    Attributes:
        config: The settings of the run, with those that the cache completes.
        domain: The domain with its settings.
        data: What the run keeps of the cache.
        targets: Alignment targets by name, without those whose weight is always 0.
        schedules: Loss name -> its weight, with all times in optimizer steps.
        lr: Factor of the learning rate, with all times in optimizer steps.
        preview: Sampling options of the previews.
        stream: The batches.
        guides: Guides by name, without those that never enter.
        releases: Target -> its release, with all times in optimizer steps.
    """

    config: TrainConfig
    domain: Domain
    data: RunData
    targets: dict[str, Target]
    schedules: dict[str, Schedule]
    lr: Schedule
    preview: Any
    stream: ShardStream
    guides: dict[str, GuideSpec] = field(default_factory=dict)
    releases: dict[str, Release] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Field]:
        """Role -> the cached field."""
        return self.data.fields


def check(settings: TrainConfig, rank: int = 0, world: int = 1, pin: bool = False) -> Setup:
    """Check a recipe against its cache and its net, and resolve it.

    Args:
        settings: The recipe.
        rank: Number of this process.
        world: Number of processes.
        pin: Whether batches are read into pinned memory.

    Raises:
        ReedError: The recipe does not fit: a column is incomplete, the net lacks a tap, token
            counts differ, the batch cannot be divided, or a label is out of range.
    """
    if settings.batch % (world * settings.accumulate):
        raise ReedError(
            f"batch {settings.batch} is not a multiple of {world} processes x "
            f"{settings.accumulate} micro-batches"
        )

    sharded.check(settings)
    # The cache is opened once, for the domain, the targets and the stream, so that each of its
    # files is parsed once.
    cache = open_cache(settings.shards)
    settings.loader.apply(cache.folder)
    data = RunData.of_cache(cache, settings.data, settings.guide)
    settings = given.with_limits(settings, cache, data)
    domain = data.make_domain(settings.domain)
    preview = config.build(domain.sampling, settings.preview.options, "preview.options")
    schedules = _schedules(settings, domain)

    active = {name: align for name, align in settings.align.items() if not schedules[name].is_off()}
    with shapes_alone():
        net = domain.net(data.fields)
    targets = {
        name: check_target(name, align, cache.column_and_field(align.target)[1], net)
        for name, align in active.items()
    }

    guides = data.guides(settings.guide, net)
    with shapes_alone():
        model = AlignedNet(net, targets, guides)
    assign(trainable(model), settings.optim.groups)  # refuses groups that do not fit

    stream = _stream(settings, cache, active, guides, rank=rank, world=world, pin=pin)
    given.check_labels(domain, stream, settings.data)
    data = given.with_lacking(data, stream)
    places = [*settings.data.values(), *(align.target for align in active.values())]
    places += [guide.config.target for guide in guides.values()]
    data = replace(data, identity=Identity.of(cache, places))
    given.check_fewest(settings, stream, world)

    lengths = (settings.steps, stream.batch, stream.samples)
    losses = [name for name, guide in guides.items() if guide.config.read != "bank"]
    given.check_trained(guides, schedules)
    trained = [*domain.losses, *targets, *losses]
    releases = _releases(settings, schedules, lengths_of(*lengths))
    resolved = {name: schedules[name].resolve(*lengths) for name in trained}
    resolved |= {name: release.within(resolved[name]) for name, release in releases.items()}
    lr = Schedule.of(settings.optim.schedule, "optim.schedule").resolve(*lengths)
    return Setup(settings, domain, data, targets, resolved, lr, preview, stream, guides, releases)


def _releases(
    settings: TrainConfig, schedules: Mapping[str, Schedule], lengths: Mapping[str, float]
) -> dict[str, Release]:
    """Return the releases of targets, with all times in optimizer steps."""
    releases = {}
    for name, align in settings.align.items():
        where = f"align.{name}.release"
        if (release := Release.of(align.release, where)) is None:
            continue
        if schedules[name].is_off():
            raise ReedError(
                f"{where} is {align.release!r}, but curriculum.{name} is 0, so there is nothing to "
                "release; leave it out, or give the target a weight"
            )
        releases[name] = release.resolve(lengths, where)
    return releases


def _stream(
    settings: TrainConfig,
    cache: Cache,
    active: dict[str, AlignConfig],
    guides: dict[str, GuideSpec],
    *,
    rank: int,
    world: int,
    pin: bool,
) -> ShardStream:
    """Open the stream of batches, with the columns of the recipe's data, targets and guides."""
    places = settings.data | {name: align.target for name, align in active.items()}
    return cache.stream(
        places | {name: guide.config.target for name, guide in guides.items()},
        settings.batch,
        tokens=settings.tokens,
        seed=settings.seed,
        rank=rank,
        world=world,
        threads=settings.loader.threads,
        ahead=settings.loader.ahead,
        pin=pin,
        one_per=settings.one_per,
    )


def check_free(settings: TrainConfig) -> None:
    """Check that the run's folder is new, or of the same recipe but for FREE.

    Raises:
        ReedError: The folder holds a run that was trained with other settings; the message names
            the first difference.
    """
    new_table = config.plain(settings)
    if not (settings.run / "config.json").is_file():
        return

    # An older file may lack settings that have been added since: building it fills them in.
    old_table = config.plain(TrainConfig.of_run(settings.run))
    fixed = [name for name in new_table if name not in FREE]
    for name in fixed:
        for where, old, new in config.differences(old_table[name], new_table[name], name):
            raise ReedError(
                f"{settings.run} was trained {changed(where, old, new)}; choose another --run"
            )


def claim(settings: TrainConfig) -> None:
    """Write the run's config.json, unless the folder belongs to another recipe; see `check_free`.

    Settings that a rerun may change (FREE) are overwritten.
    """
    check_free(settings)
    text = json.dumps(config.plain(settings), indent=1) + "\n"
    write_atomic(settings.run / "config.json", text.encode())


@contextlib.contextmanager
def shapes_alone() -> Generator[None]:
    """Make modules without memory and without drawing first weights, which takes long."""
    names = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
    initializers = {name: getattr(nn.init, name) for name in names}
    try:
        for name in initializers:
            setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        with torch.device("meta"):
            yield
    finally:
        for name, initializer in initializers.items():
            setattr(nn.init, name, initializer)


def _schedules(settings: TrainConfig, domain: Domain) -> dict[str, Schedule]:
    """Return the weight of every loss; those of the domain and of guides weigh 1 by default."""
    known = [*domain.losses, *settings.align, *settings.guide]
    for name in settings.align:
        if name in (*domain.losses, *settings.data):
            raise ReedError(f"align.{name}: the name is taken by the domain; choose another")
        if name not in settings.curriculum:
            raise ReedError(f"curriculum.{name} is missing: give the weight of align.{name}")
    for name in settings.curriculum:
        if name not in known:
            raise ReedError(f"curriculum.{name}: no loss has this name.{suggest(name, known)}")
    taken = dict.fromkeys(settings.align, "an alignment target")
    check_names(
        settings.guide, taken | dict.fromkeys([*domain.losses, *settings.data], "the domain")
    )
    weights = dict.fromkeys([*domain.losses, *settings.guide], 1.0) | settings.curriculum
    return {name: Schedule.of(weight, f"curriculum.{name}") for name, weight in weights.items()}
