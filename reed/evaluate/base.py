"""What measures samples: one evaluator for each kind of data, and how the kind is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from reed import config
from reed.cache import schema
from reed.domains.base import DOMAINS
from reed.errors import ReedError
from reed.evaluate.provenance import beside, drawn_as
from reed.evaluate.record import Record
from reed.registry import Registry
from reed.train.recipe import TrainConfig
from reed.train.run_data import RunData

EVALUATORS = Registry("evaluator of samples", "reed.evaluate", group="reed.evaluators")


@dataclass(frozen=True)
class Task:
    """What is to be measured.

    kind: of data; out: where the record goes; num: how many samples there must be, if that was
    said; batch: samples at a time; say: tells the user something at once.
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

    def check_num(self, found: int) -> None:
        """ReedError where another number of samples was asked for than there is."""
        if self.num is not None and found != self.num:
            raise ReedError(f"{self.samples} holds {found} samples, --num says {self.num}")


@dataclass
class Evaluator:
    """Measures samples of one kind: registered in EVALUATORS under the name of the domain.

    An implementation is a dataclass that extends this one; its fields are its options (see
    reed.config.option). noun: what it counts, in the plural; runs: whether it measures a run
    itself rather than samples that were drawn from one.
    """

    noun: ClassVar[str] = "samples"
    runs: ClassVar[bool] = False

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Whether the content of a file or folder shows that it holds samples of this kind."""
        return False

    def place(self, samples: Path) -> Path:
        """Where the record goes unless the user says: NAME.eval.json beside the samples."""
        return beside(samples, ".eval.json")

    def measure(self, task: Task) -> Record:
        """The numbers; the record is also written to `task.out`."""
        raise NotImplementedError


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return (path / "config.json").is_file()


def kind_of(samples: Path, reference: Path) -> str:
    """The kind of some samples, or of a run.

    By what the run keeps of its cache, by what reed-sample wrote beside the samples, by their
    content, or else by the reference, where that is a cache. Raises ReedError when none of these
    tells.
    """
    if not samples.exists():
        raise ReedError(f"cannot read samples from {samples}: there is nothing")
    if is_run(samples):
        settings = config.build(TrainConfig, config.read(samples / "config.json"))
        return RunData.of_run(samples, settings.shards, settings.data).domain
    said = drawn_as(samples).get("kind")
    if isinstance(said, str):
        return said
    for name in EVALUATORS.names():
        if EVALUATORS.get(name).reads(samples):
            return name
    if (reference / "manifest.json").is_file():
        return schema.load_manifest(reference).domain
    raise ReedError(
        f"cannot tell what {samples} holds: reed-sample wrote no .json beside it, its content is "
        f"of none of the kinds {', '.join(EVALUATORS.names())}, and {reference} is no cache"
    )


def evaluator_of(kind: str, samples: Path) -> type[Evaluator]:
    """The class of what measures samples of a kind, or a run; ReedError where nothing does."""
    if kind not in EVALUATORS.names() and ":" in kind:
        DOMAINS.get(kind)  # the module of a domain brings its evaluator along
    if kind not in EVALUATORS.names():
        known = ", ".join(EVALUATORS.names())
        raise ReedError(
            f"nothing measures samples of kind {kind!r} (only {known}): register an evaluator for "
            f"it, @EVALUATORS.register({kind!r}), in the module of its domain"
        )
    found = EVALUATORS.get(kind)
    if is_run(samples) and not found.runs:
        there = sorted((samples / "samples").glob("*.npz"))
        hint = f"such as {there[-1]}" if there else f"reed-sample --run {samples}"
        raise ReedError(
            f"{samples} is a run on {kind}s: measure samples that were drawn from it, {hint}"
        )
    return found
