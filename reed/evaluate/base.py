"""Base class of evaluators, one per kind of data, and how the kind of samples is detected."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from reed.build.engines import Share
from reed.cache import schema
from reed.domains.base import DOMAINS
from reed.errors import ReedError
from reed.evaluate.provenance import beside, drawn_as
from reed.evaluate.record import Record
from reed.registry import Registry
from reed.train import averages
from reed.train.recipe import TrainConfig
from reed.train.run_data import RunData
from reed.wording import counted

ENDING = ".eval.json"  # of records
EVALUATORS = Registry("evaluator of samples", "reed.evaluate", group="reed.evaluators")


@dataclass(frozen=True)
class Task:
    """What to measure, and how.

    Attributes:
        kind: Kind of data.
        samples: File or folder of samples, or a run.
        reference: Path of the real data.
        out: File of the record.
        num: Required number of samples; None for any.
        device: Device of the networks.
        batch: Samples per batch.
        progress: Whether to show progress bars.
        say: Function that shows a message to the user at once.
        share: This process among those of a launch.
        average: Name of the average of a run to measure; True for the first.
    """

    kind: str
    samples: Path
    reference: Path
    out: Path
    num: int | None = None
    device: str = "cpu"
    batch: int = 64
    progress: bool = False
    say: Callable[[str], None] = lambda line: None
    share: Share = field(default_factory=Share)
    average: bool | str = True

    def check_num(self, count: int) -> None:
        """Raise ReedError if the number of samples is not the required one."""
        if self.num is not None and count != self.num:
            raise ReedError(
                f"{self.samples} holds {counted(count, 'sample')}, --num says {self.num}"
            )


@dataclass
class Evaluator:
    """Base class of evaluators, which measure samples of one kind.

    An evaluator is a dataclass that extends this one, registered in EVALUATORS under the name of
    the domain. Its fields are its options (see reed.config.option).

    Attributes:
        noun: What it counts, in the plural.
        runs: Whether it can measure a run, and not only samples drawn from one.
        shared: Whether the processes of a launch divide the work; else the first one does it all.
    """

    noun: ClassVar[str] = "samples"
    runs: ClassVar[bool] = False
    shared: ClassVar[bool] = False

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Return whether the content of a file or folder shows samples of this kind."""
        return False

    def place(self, samples: Path) -> Path:
        """Return the default file of the record: NAME.eval.json beside the samples."""
        return beside(samples, ENDING)

    def measure(self, task: Task) -> Record:
        """Measure samples, write the record to `task.out` and return it."""
        raise NotImplementedError


def place_of(evaluator: Evaluator, samples: Path, average: bool | str) -> Path:
    """Return the default file of the record; of a further average of a run, with its name.

    Raises:
        ReedError: The run has no such average.
    """
    place = evaluator.place(samples)
    if not isinstance(average, str) or not is_run(samples):
        return place
    settings = TrainConfig.of_run(samples)
    chosen = averages.chosen(samples, None, settings.averages(), average)
    name = place.name.removesuffix(ENDING)
    return place if chosen.is_first else place.with_name(f"{name}-ema-{chosen.name}{ENDING}")


def is_run(path: Path) -> bool:
    """Return whether a folder is a run."""
    return (path / "config.json").is_file()


def kind_of(samples: Path, reference: Path) -> str:
    """Detect the kind of samples or of a run.

    The kind of a run follows from what it keeps of its cache. The kind of samples follows from
    what reed-sample wrote beside them, else from their content, else from the reference if that
    is a cache.

    Raises:
        ReedError: None of these tells the kind.
    """
    if not samples.exists():
        raise ReedError(f"cannot read samples from {samples}: there is nothing")
    _refuse_representations(samples)
    if is_run(samples):
        settings = TrainConfig.of_run(samples)
        return RunData.of_run(samples, settings.shards, settings.data).domain

    # Files of other programs have no recipe, so their content has to tell.
    recorded = drawn_as(samples).get("kind")
    if isinstance(recorded, str):
        return recorded
    for name in EVALUATORS.names():
        if EVALUATORS.get(name).reads(samples):
            return name
    if (reference / "manifest.json").is_file():
        return schema.load_manifest(reference).domain
    raise ReedError(
        f"cannot tell what {samples} holds: reed-sample wrote no .json beside it, its content is "
        f"of none of the kinds {', '.join(EVALUATORS.names())}, and {reference} is no cache"
    )


def _refuse_representations(samples: Path) -> None:
    """Refuse OUT.z.npz, which lies beside the samples of a run with guides."""
    if not samples.is_file() or not zipfile.is_zipfile(samples):
        return
    with zipfile.ZipFile(samples) as members:
        names = [name.removesuffix(".npy") for name in members.namelist()]
    if names and all(name.startswith("z/") for name in names):
        name = samples.name.removesuffix(".npz").removesuffix(".z")
        drawn = [samples.with_name(name + ending) for ending in (".npz", ".sdf", ".fasta")]
        found = [str(path) for path in drawn if path.is_file() and path != samples]
        hint = f"; measure {found[0]}" if found else "; measure the file of samples beside it"
        raise ReedError(
            f"{samples} holds the representations of guides ({', '.join(names)}), and no samples"
            f"{hint}"
        )


def evaluator_of(kind: str, samples: Path) -> type[Evaluator]:
    """Return the evaluator class for samples of a kind, or a run; ReedError if there is none."""
    if kind not in EVALUATORS.names() and ":" in kind:
        DOMAINS.get(kind)  # importing the module of a domain registers its evaluator
    if kind not in EVALUATORS.names():
        known = ", ".join(EVALUATORS.names())
        raise ReedError(
            f"nothing measures samples of kind {kind!r} (only {known}): register an evaluator for "
            f"it, @EVALUATORS.register({kind!r}), in the module of its domain"
        )

    evaluator = EVALUATORS.get(kind)
    if is_run(samples) and not evaluator.runs:
        drawn = sorted((samples / "samples").glob("*.npz"))
        hint = f"such as {drawn[-1]}" if drawn else f"reed-sample --run {samples}"
        raise ReedError(
            f"{samples} is a run on {kind}s: measure samples that were drawn from it, {hint}"
        )
    return evaluator
