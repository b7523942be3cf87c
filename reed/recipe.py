"""A training recipe: its settings, and the checks of them against the cache and the net."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from reed import config
from reed.align import AlignConfig, Target, check_target
from reed.cache import schema
from reed.cache.stream import ShardStream
from reed.curriculum import Schedule
from reed.domain import DOMAINS, Domain
from reed.errors import ReedError, suggest

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
# what a rerun in the same folder may change
FREE = ("steps", "every", "loader", "shards", "run", "stop_after_bad")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW. clip: largest gradient norm, 0 for none; schedule: factor of lr (reed.curriculum)."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    schedule: Any = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "eps", "weight_decay", "clip"):
            if not getattr(self, name) >= 0:
                raise ReedError(f"optim.{name} is {getattr(self, name)}, it must be at least 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ReedError(f"optim.betas are {self.betas}, each must be at least 0 and below 1")


@dataclass(frozen=True)
class EveryConfig:
    """How often, in optimizer steps; 0 is only at the end."""

    log: int = 50
    save: int = 5000


@dataclass(frozen=True)
class LoaderConfig:
    """threads: readers in this process; ahead: batches in flight. Neither changes a batch."""

    threads: int = 2
    ahead: int = 3

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ReedError(f"loader.threads is {self.threads}, it must be at least 0")


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on.

    shards: the cache; run: the folder of the run; steps: optimizer steps; batch: samples per
    step over all processes; accumulate: micro-batches per step and process; data: role ->
    "column/field"; domain: settings of the domain; align, curriculum: by target and loss name;
    ema_decay: per step; stop_after_bad: steps with non-finite gradients that end the run; init: a
    checkpoint (see reed.public) whose weights the first step starts from.
    """

    shards: Path
    run: Path
    steps: int
    batch: int
    data: dict[str, str]
    domain: dict[str, Any]
    align: dict[str, AlignConfig] = field(default_factory=dict)
    curriculum: dict[str, Any] = field(default_factory=dict)
    optim: OptimConfig = field(default_factory=OptimConfig)
    accumulate: int = 1
    seed: int = 0
    precision: str = "auto"
    ema_decay: float = 0.9999
    stop_after_bad: int = 10
    init: str = ""
    every: EveryConfig = field(default_factory=EveryConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "stop_after_bad"):
            if getattr(self, name) < 1:
                raise ReedError(f"{name} is {getattr(self, name)}, it must be at least 1")
        if self.precision not in PRECISIONS:
            hint = suggest(self.precision, PRECISIONS)
            raise ReedError(f"unknown precision {self.precision!r}.{hint}")


@dataclass(frozen=True)
class Setup:
    """A recipe that fits its cache: what the trainer builds from.

    fields: role -> cached field; targets: alignment targets whose weight is not off; schedules:
    loss name -> weight, in optimizer steps; lr: the factor of the learning rate.
    """

    config: TrainConfig
    domain: Domain
    fields: dict[str, schema.Field]
    targets: dict[str, Target]
    schedules: dict[str, Schedule]
    lr: Schedule
    stream: ShardStream


def domain_of(settings: TrainConfig) -> Domain:
    """The domain that the cache's manifest names, with the recipe's settings."""
    manifest = schema.load_manifest(settings.shards)
    return config.build(DOMAINS.get(manifest.domain), settings.domain, "domain")


def fields_of(settings: TrainConfig, domain: Domain) -> dict[str, schema.Field]:
    """Role -> cached field; ReedError for a role that is missing or unknown."""
    for role in domain.roles:
        if role not in settings.data:
            raise ReedError(f"data.{role} is missing: name the column/field that holds it")
    for role in settings.data:
        if role not in domain.roles:
            raise ReedError(f"data.{role} is unknown.{suggest(role, domain.roles)}")
    places = settings.data.items()
    return {role: schema.column_and_field(settings.shards, place)[1] for role, place in places}


def check(settings: TrainConfig, rank: int = 0, world: int = 1, pin: bool = False) -> Setup:
    """Resolve a recipe against its cache: columns complete, taps there, token counts equal."""
    if settings.batch % (world * settings.accumulate):
        raise ReedError(
            f"batch {settings.batch} is not a multiple of {world} processes x "
            f"{settings.accumulate} micro-batches"
        )
    domain = domain_of(settings)
    fields = fields_of(settings, domain)
    schedules = _schedules(settings, domain)
    active = {n: a for n, a in settings.align.items() if not schedules[n].is_off()}
    with torch.device("meta"):
        net = domain.net(fields)
    targets = {
        name: check_target(
            name, each, schema.column_and_field(settings.shards, each.target)[1], net
        )
        for name, each in active.items()
    }
    stream = ShardStream(
        settings.shards, settings.data | {name: each.target for name, each in active.items()},
        settings.batch, seed=settings.seed, rank=rank, world=world,
        threads=settings.loader.threads, ahead=settings.loader.ahead, pin=pin,
    )  # fmt: skip
    lengths = (settings.steps, settings.batch, stream.samples)
    kept = [*domain.losses, *targets]
    resolved = {name: schedules[name].resolve(*lengths) for name in kept}
    lr = Schedule.of(settings.optim.schedule, "optim.schedule").resolve(*lengths)
    return Setup(settings, domain, fields, targets, resolved, lr, stream)


def claim(settings: TrainConfig) -> None:
    """Write the run's config.json; ReedError naming the first setting that a run there differs in.

    Settings that a rerun may change (FREE) are overwritten.
    """
    path, ours = settings.run / "config.json", config.plain(settings)
    if path.is_file():
        theirs = config.plain(config.build(TrainConfig, config.read(path)))
        kept = [name for name in ours if name not in FREE]
        found = [each for name in kept for each in _differences(theirs[name], ours[name], name)]
        if found:
            place, old, new = found[0]
            raise ReedError(
                f"{settings.run} was trained with {place} = {old!r}, now it is {new!r}; "
                "choose another --run"
            )
    settings.run.mkdir(parents=True, exist_ok=True)
    temp = path.with_suffix(".tmp")
    temp.write_text(json.dumps(ours, indent=1) + "\n", encoding="utf-8")
    temp.replace(path)


def _differences(old: Any, new: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """The dotted places where two plain tables differ, and both values (None: absent)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}")
    elif old != new:
        yield where, old, new


def _schedules(settings: TrainConfig, domain: Domain) -> dict[str, Schedule]:
    """The weight of every loss; a domain's own weigh 1 unless the recipe says otherwise."""
    known = [*domain.losses, *settings.align]
    for name in settings.align:
        if name in (*domain.losses, *settings.data):
            raise ReedError(f"align.{name}: the name is taken by the domain; choose another")
        if name not in settings.curriculum:
            raise ReedError(f"curriculum.{name} is missing: give the weight of align.{name}")
    for name in settings.curriculum:
        if name not in known:
            raise ReedError(f"curriculum.{name} weighs no loss.{suggest(name, known)}")
    weights = dict.fromkeys(domain.losses, 1.0) | settings.curriculum
    return {name: Schedule.of(weight, f"curriculum.{name}") for name, weight in weights.items()}
