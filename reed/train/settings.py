"""The settings of a training run: one frozen dataclass per table of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reed import config
from reed.errors import ReedError, at_least, suggest
from reed.guides.settings import GuideConfig
from reed.store import mirror, shelf
from reed.train.averages import Average, of_settings
from reed.train.groups import GroupConfig
from reed.train.targets import AlignConfig

CHOICES = {
    "precision": ("auto", "bf16", "fp16", "fp32"),
    "compile": ("auto", "on", "off"),
    "tracker": ("none", "tensorboard", "wandb", "mlflow"),
}


@dataclass(frozen=True)
class OptimConfig:
    """Settings of the optimizer, which is AdamW.

    Attributes:
        lr: Learning rate.
        betas: Decay of the two moment averages, each in [0, 1).
        eps: Term added to the denominator.
        weight_decay: Decoupled weight decay.
        clip: Largest gradient norm; 0 for no clipping.
        schedule: Factor of lr over the run (see reed.train.curriculum).
        groups: Parameters with settings of their own, by name (see reed.train.groups).
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    schedule: Any = 1.0
    groups: dict[str, GroupConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least(
            0, "optim.", lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, clip=self.clip
        )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ReedError(f"optim.betas are {self.betas}, each must be at least 0 and below 1")
        for name, group in self.groups.items():
            group.check(f"optim.groups.{name}")


@dataclass(frozen=True)
class EveryConfig:
    """Intervals in optimizer steps; 0 means only at the end of the run.

    Attributes:
        log: Steps between two lines of metrics.jsonl.
        save: Steps between two checkpoints.
        keep: Steps between two checkpoints that are kept whatever ``keep`` of the run says.
        snapshot: Steps between two snapshots of the power-function averages, from which other
            widths are reconstructed; 0 for none.
        average: Steps between two updates of the averages, at least 1.
    """

    log: int = 50
    save: int = 5000
    keep: int = 0
    snapshot: int = 0
    average: int = 1

    def __post_init__(self) -> None:
        at_least(1, "every.", average=self.average)
        at_least(0, "every.", log=self.log, save=self.save, keep=self.keep, snapshot=self.snapshot)
        if self.snapshot % self.average:
            raise ReedError(
                f"every.snapshot is {self.snapshot} and every.average {self.average}; a snapshot "
                "must be of a step with an update, so make it a multiple"
            )


@dataclass(frozen=True)
class PreviewConfig:
    """Pictures of samples from the averaged net, drawn while the run goes on.

    Attributes:
        every: Optimizer steps between two pictures; 0 for none.
        num: Samples in a picture.
        options: Sampling options of the domain, such as {sampler = "heun", steps = 25}.
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
class Reference:
    """Published or measured points that the page of a run draws beside its own evaluations.

    Attributes:
        metric: Name of the metric, as reed-eval names it.
        points: Step, as text -> value.
        source: Where they are from.
    """

    metric: str
    points: dict[str, float]
    source: str = ""

    def __post_init__(self) -> None:
        odd = [step for step in self.points if not step.isdecimal()]
        if odd or not self.points:
            raise ReedError(
                f"reference points are {self.points!r}; they must be steps and values, such as "
                "{ 400000 = 17.2 }"
            )


@dataclass(frozen=True)
class LoaderConfig:
    """How batches are read; no setting here changes what is in a batch.

    Attributes:
        threads: Reading threads in each process.
        ahead: Batches that are read before they are needed.
        cache_dir: Where whole shards of a cache in an object store are kept on this machine; empty
            to read ranges of them, and to keep nothing.
        cache_bytes: Bytes that are kept there; the shards that were used longest ago go first.
    """

    threads: int = 2
    ahead: int = 3
    cache_dir: str = ""
    cache_bytes: int = shelf.BYTES

    def __post_init__(self) -> None:
        at_least(0, "loader.", threads=self.threads, cache_bytes=self.cache_bytes)

    def apply(self, folder: Path) -> None:
        """Let the readers of a cache keep what they read, if it is in a store and that is wanted.

        Args:
            folder: Folder of the cache.
        """
        if self.cache_dir and (store := mirror.of(folder)):
            store.keep(Path(self.cache_dir), self.cache_bytes)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run depends on.

    Attributes:
        shards: Folder of the cache.
        run: Folder of the run.
        steps: Optimizer steps.
        data: Role -> "column/field".
        domain: Settings of the domain.
        batch: Samples per step over all processes, where all samples have one length.
        tokens: Padded tokens per step over all processes, where samples differ in length.
        one_per: A label field, "column/field": each epoch takes one sample for each of its values.
        align: Alignment targets by name.
        guide: Representations that enter the net, by name (see reed.guides).
        curriculum: Weight of each loss by name (see reed.train.curriculum).
        optim: Settings of the optimizer.
        accumulate: Micro-batches per step and process.
        seed: Seed of the weights, the order and all noise.
        precision: Precision of the net's computation; the weights stay float32.
        compile: Whether torch.compile compiles the net's repeated parts; "auto" is on a GPU.
        fsdp: Whether weights, gradients, averages and the optimizer's state are divided among the
            processes (FSDP2), for nets that do not fit on one device.
        ema_decay: Decay per step of the averaged weights.
        ema_sigma_rel: If above 0, relative width of a power-function average that replaces
            ema_decay (see reed.train.ema).
        ema: Several averages, each a decay or "sigma_rel=WIDTH", which replace ema_decay; the first
            is meant where none is named (see reed.train.averages).
        stop_after_bad: Steps with non-finite gradients after which the run stops.
        init: Checkpoint whose weights the first step starts from (see reed.train.public).
        tracker: Tracker of Accelerate that also gets the log.
        keep: Latest checkpoints that are kept; 0 for all.
        wait_minutes: Minutes that processes wait for one another, for example while one of them
            saves, before the run fails.
        every: Intervals of logging and saving.
        preview: Settings of the previews.
        loader: Settings of the loader.
        reference: Published or measured points of other runs, by name, for the page of the run.
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
    guide: dict[str, GuideConfig] = field(default_factory=dict)
    curriculum: dict[str, Any] = field(default_factory=dict)
    optim: OptimConfig = field(default_factory=OptimConfig)
    accumulate: int = 1
    seed: int = 0
    precision: str = "auto"
    compile: str = "auto"
    fsdp: bool = False
    ema_decay: float = 0.9999
    ema_sigma_rel: float = 0.0
    ema: tuple[float | str, ...] = ()
    stop_after_bad: int = 10
    init: str = ""
    tracker: str = "none"
    keep: int = 0
    wait_minutes: float = 30.0
    every: EveryConfig = field(default_factory=EveryConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    reference: dict[str, Reference] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = "tokens" if self.tokens else "batch"
        names = ("steps", size, "accumulate", "stop_after_bad")
        at_least(1, **{name: getattr(self, name) for name in names})
        at_least(0, keep=self.keep)

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

        # Making the averages checks their settings.
        widths = [each.name for each in self.averages().values() if each.sigma_rel]
        if self.every.snapshot and len(widths) < 2:
            raise ReedError(
                f"every.snapshot is {self.every.snapshot}, and the recipe has {len(widths)} "
                'power-function averages, of which a reconstruction needs 2; add "sigma_rel=0.05" '
                'and "sigma_rel=0.1" to ema, or leave out every.snapshot'
            )

    @classmethod
    def of_run(cls, run: Path) -> TrainConfig:
        """Read the settings of a run; ReedError if its config.json is absent or damaged."""
        return config.build(cls, config.read(run / "config.json"))

    def averages(self) -> dict[str, Average]:
        """Return the averages of the weights by name; the first is meant where none is named."""
        return of_settings(self.ema, self.ema_decay, self.ema_sigma_rel)
