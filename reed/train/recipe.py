"""A training recipe: its settings, and the checks of them against the cache and the net."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reed import config
from reed.cache.files import write_atomic
from reed.cache.opened import open_cache
from reed.cache.schema import Field
from reed.cache.stream import ShardStream
from reed.domains.base import Domain
from reed.errors import ReedError, at_least, suggest
from reed.train import given
from reed.train.align import AlignConfig, Target, check_target
from reed.train.curriculum import Schedule
from reed.train.ema import Decay, constant_decay, power_decay
from reed.train.run_data import RunData

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
        at_least(
            0, "optim.", lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, clip=self.clip
        )
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
        at_least(0, "loader.", threads=self.threads)


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
        names = ("steps", size, "accumulate", "stop_after_bad")
        at_least(1, **{name: getattr(self, name) for name in names})
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

    data: what the run keeps of the cache; targets: alignment targets whose weight is not off;
    schedules: loss name -> weight, in optimizer steps; lr: the factor of the learning rate;
    preview: how the domain draws the samples of a preview.
    """

    config: TrainConfig
    domain: Domain
    data: RunData
    targets: dict[str, Target]
    schedules: dict[str, Schedule]
    lr: Schedule
    preview: Any
    stream: ShardStream

    @property
    def fields(self) -> dict[str, Field]:
        """Role -> the cached field."""
        return self.data.fields


def check(settings: TrainConfig, rank: int = 0, world: int = 1, pin: bool = False) -> Setup:
    """Resolve a recipe against its cache: columns complete, taps there, token counts equal."""
    if settings.batch % (world * settings.accumulate):
        raise ReedError(
            f"batch {settings.batch} is not a multiple of {world} processes x "
            f"{settings.accumulate} micro-batches"
        )
    # every file of the cache is parsed once, for the domain, the targets and the stream alike
    cache = open_cache(settings.shards)
    data = RunData.of_cache(cache, settings.data)
    domain = data.make_domain(settings.domain)
    preview = config.build(domain.sampling, settings.preview.options, "preview.options")
    schedules = _schedules(settings, domain)
    active = {n: a for n, a in settings.align.items() if not schedules[n].is_off()}
    with _shapes_alone():
        net = domain.net(data.fields)
    targets = {
        name: check_target(name, each, cache.column_and_field(each.target)[1], net)
        for name, each in active.items()
    }
    stream = cache.stream(
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
    data = given.with_lacking(data, stream)
    if stream.fewest < world * settings.accumulate:
        raise ReedError(
            f"tokens {settings.tokens} makes batches of {stream.fewest} samples, fewer than "
            f"{world} processes x {settings.accumulate} micro-batches; raise it"
        )
    lengths = (settings.steps, stream.batch, stream.samples)
    kept = [*domain.losses, *targets]
    resolved = {name: schedules[name].resolve(*lengths) for name in kept}
    lr = Schedule.of(settings.optim.schedule, "optim.schedule").resolve(*lengths)
    return Setup(settings, domain, data, targets, resolved, lr, preview, stream)


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


@contextlib.contextmanager
def _shapes_alone() -> Generator[None]:
    """Make modules without memory, and without drawing first weights, which takes long."""
    draws = {name: getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_")}
    draws = {name: draw for name, draw in draws.items() if not name.startswith("_")}
    try:
        for name in draws:
            setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        with torch.device("meta"):
            yield
    finally:
        for name, draw in draws.items():
            setattr(nn.init, name, draw)


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
