"""A training recipe: its settings, and the checks of them against the cache and the net."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from reed import config
from reed.cache import schema
from reed.cache.files import write_atomic
from reed.cache.joined import lengths_of
from reed.cache.stream import ShardStream
from reed.domains.base import DOMAINS, Domain
from reed.errors import ReedError, suggest
from reed.train import given
from reed.train.align import AlignConfig, Target, check_target
from reed.train.curriculum import Schedule
from reed.train.ema import Decay, constant_decay, power_decay

CHOICES = {
    "precision": ("auto", "bf16", "fp16", "fp32"),
    "compile": ("auto", "on", "off"),
    "tracker": ("none", "tensorboard", "wandb"),
}
# what a rerun in the same folder may change
FREE = "steps every loader shards run stop_after_bad compile tracker preview wait_minutes".split()


@dataclass(frozen=True)
class OptimConfig:
    """AdamW. clip: largest gradient norm, 0 for none; schedule: factor of lr
    (reed.train.curriculum)."""

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
class PreviewConfig:
    """A picture of samples of the averaged net, drawn while the run goes on.

    every: optimizer steps, 0 for none; num: samples; options: of the domain's sampling, such as
    {sampler = "heun", steps = 25}.
    """

    every: int = 0
    num: int = 16
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.every < 0 or self.num < 1:
            raise ReedError(
                f"preview.every is {self.every} and preview.num {self.num}; they must be at least "
                "0 and 1"
            )


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
    step over all processes or, where samples differ in length, tokens: padded tokens per step;
    one_per: a label, "column/field", of whose values each epoch takes one sample each;
    accumulate: micro-batches per step and process; data: role -> "column/field"; domain: settings
    of the domain; align, curriculum: by target and loss name; ema_decay: per step, or
    ema_sigma_rel: the relative width of a power-function average in its place (see reed.train.ema);
    compile: the net's repeated parts by torch.compile (auto: on a GPU); stop_after_bad: steps with
    non-finite gradients that end the run; init: a checkpoint (see reed.train.public) whose weights
    the first step starts from; tracker: where Accelerate sends the log as well; wait_minutes: how
    long processes wait for one another, such as for the one that saves, before the run fails.
    """

    shards: Path
    run: Path
    steps: int
    data: dict[str, str]
    domain: dict[str, Any]
    batch: int = 0
    tokens: int = 0
    one_per: str = ""
    align: dict[str, AlignConfig] = field(default_factory=dict)
    curriculum: dict[str, Any] = field(default_factory=dict)
    optim: OptimConfig = field(default_factory=OptimConfig)
    accumulate: int = 1
    seed: int = 0
    precision: str = "auto"
    compile: str = "auto"
    ema_decay: float = 0.9999
    ema_sigma_rel: float = 0.0
    stop_after_bad: int = 10
    init: str = ""
    tracker: str = "none"
    wait_minutes: float = 30.0
    every: EveryConfig = field(default_factory=EveryConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def __post_init__(self) -> None:
        size = "tokens" if self.tokens else "batch"
        for name in ("steps", size, "accumulate", "stop_after_bad"):
            if getattr(self, name) < 1:
                raise ReedError(f"{name} is {getattr(self, name)}, it must be at least 1")
        if self.tokens and self.batch:
            raise ReedError(
                f"batch is {self.batch} and tokens is {self.tokens}: give batch where samples have "
                "one length, tokens where they differ"
            )
        if not self.wait_minutes > 0:
            raise ReedError(f"wait_minutes is {self.wait_minutes}, it must be above 0")
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise ReedError(f"unknown {name} {value!r}.{suggest(value, known)}")
        self.decay()

    def decay(self) -> Decay:
        """The decay of the average, by step."""
        if self.ema_sigma_rel:
            return power_decay(self.ema_sigma_rel)
        return constant_decay(self.ema_decay)


@dataclass(frozen=True)
class Setup:
    """A recipe that fits its cache: what the trainer builds from.

    fields: role -> cached field; targets: alignment targets whose weight is not off; schedules:
    loss name -> weight, in optimizer steps; lr: the factor of the learning rate; preview: how the
    domain draws the samples of a preview.
    """

    config: TrainConfig
    domain: Domain
    fields: dict[str, schema.Field]
    targets: dict[str, Target]
    schedules: dict[str, Schedule]
    lr: Schedule
    preview: Any
    stream: ShardStream


def domain_of(settings: TrainConfig) -> Domain:
    """The domain that the cache's manifest names, with the recipe's settings.

    One that has a method `sized` is told how many tokens the samples have.
    """
    manifest = schema.load_manifest(settings.shards)
    made = DOMAINS.get(manifest.domain)
    if not dataclasses.is_dataclass(made):
        raise ReedError(
            f"domain {manifest.domain!r} is {made!r}, not a dataclass; write "
            "@dataclass(frozen=True) before it, its fields are its settings"
        )
    domain = config.build(made, settings.domain, "domain")
    places = {role: place for role, place in settings.data.items() if role in domain.roles}
    if hasattr(domain, "sized") and len(places) == len(domain.roles):
        return domain.sized(lengths_of(settings.shards, places))
    return domain


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
    preview = config.build(domain.sampling, settings.preview.options, "preview.options")
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
        settings.shards,
        settings.data | {name: each.target for name, each in active.items()},
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
    given.check_labels(domain, stream, settings.data)
    if stream.fewest < world * settings.accumulate:
        raise ReedError(
            f"tokens {settings.tokens} makes batches of {stream.fewest} samples, fewer than "
            f"{world} processes x {settings.accumulate} micro-batches; raise it"
        )
    lengths = (settings.steps, stream.batch, stream.samples)
    kept = [*domain.losses, *targets]
    resolved = {name: schedules[name].resolve(*lengths) for name in kept}
    lr = Schedule.of(settings.optim.schedule, "optim.schedule").resolve(*lengths)
    return Setup(settings, domain, fields, targets, resolved, lr, preview, stream)


def claim(settings: TrainConfig) -> None:
    """Write the run's config.json; ReedError naming the first setting that a run there differs in.

    Settings that a rerun may change (FREE) are overwritten.
    """
    path, ours = settings.run / "config.json", config.plain(settings)
    if path.is_file():
        theirs = config.plain(config.build(TrainConfig, config.read(path)))
        kept = [name for name in ours if name not in FREE]
        found = [
            each for name in kept for each in config.differences(theirs[name], ours[name], name)
        ]
        if found:
            place, old, new = found[0]
            raise ReedError(
                f"{settings.run} was trained with {place} = {old!r}, now it is {new!r}; "
                "choose another --run"
            )
    write_atomic(path, (json.dumps(ours, indent=1) + "\n").encode())


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
