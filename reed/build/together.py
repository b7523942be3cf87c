"""Building several columns in one pass, so that the source is read once for all of them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from reed.build import overlap
from reed.build import shard as build
from reed.build.engines import Bar, Share, todo
from reed.build.fitting import calibration_shards
from reed.build.overlap import Work
from reed.build.reading import entries_of
from reed.build.shard import Job, Timing
from reed.build.shared import Needs, SharedReader
from reed.build.source import Source
from reed.build.writing import Writer
from reed.cache.plan import Plan
from reed.errors import ReedError, place_of


@dataclass(frozen=True)
class Member:
    """A column of a pass, before it is opened.

    Attributes:
        name: Name of the column.
        reads: Source entries and addresses of fields.
        open: Function that opens the column, given the reader that the pass shares.
    """

    name: str
    reads: tuple[str, ...]
    open: Callable[[SharedReader], Job]

    @property
    def inputs(self) -> set[str]:
        """The columns that it reads."""
        return {address.split("/")[0] for address in self.reads if "/" in address}


def passes(members: Sequence[Member], apart: bool = False) -> list[list[Member]]:
    """Return the columns in passes: all that the source is read for in one, each other alone.

    The columns of a pass are in memory together. One that reads only other columns is thus built
    alone, unless a column that reads the source reads it, too.

    Args:
        members: The columns, inputs first.
        apart: Whether each is built alone, so that one encoder at a time is in memory.
    """
    if apart:
        return [[member] for member in members]
    together: set[str] = set()
    for member in reversed(members):
        if member.name in together or entries_of(member.reads):
            together |= {member.name} | member.inputs

    first = [member for member in members if member.name in together]
    others = [[member] for member in members if member.name not in together]
    return [first, *others] if first else others


@dataclass(frozen=True)
class Settings:
    """How columns are built.

    Attributes:
        cache: Folder of the cache.
        plan: Its plan.
        source: Source of the raw data.
        share: The share of this process.
        workers: See `SharedReader`.
        retry: Whether to build shards with failed samples again.
        progress: Whether to show bars.
    """

    cache: Path
    plan: Plan
    source: Source
    share: Share = Share()
    workers: int | None = 0
    retry: bool = False
    progress: bool = True


# Receives the name of a column that was built, the seconds of each stage, and all seconds.
Report = Callable[[str, Timing, float], object]


def run(members: Sequence[Member], settings: Settings, report: Report, apart: bool = False) -> None:
    """Build the missing shards of some columns; one that fails does not stop the others.

    Args:
        members: The columns, inputs first.
        settings: How they are built.
        report: Function that is told what each column took.
        apart: See `passes`.

    Raises:
        Exception: The error of the first column that failed, once the others are built.
    """
    failed: dict[str, Exception] = {}
    groups = passes(members, apart)
    for number, group in enumerate(groups):
        # What reads a column that failed cannot be built.
        for member in group:
            if lost := member.inputs & failed.keys():
                failed[member.name] = failed[next(iter(lost))]
        left = [member for member in group if member.name not in failed]
        later = [member for group in groups[number + 1 :] for member in group]
        if left:
            failed |= _Pass(left, later, settings, report).run()

    for error in failed.values():
        raise error


class _AllFailed(Exception):
    """Raised when no column of a pass is left."""


class _Pass:
    """The columns of a pass by level: those of a level read only columns of lower ones."""

    def __init__(
        self,
        members: Sequence[Member],
        later: Sequence[Member],
        settings: Settings,
        report: Report,
    ) -> None:
        self._members, self._later = members, later
        self._settings, self._report = settings, report
        self._levels: list[list[Member]] = []
        for member in members:
            inputs = [i for i, level in enumerate(self._levels) for m in level if _reads(member, m)]
            level = 1 + max(inputs, default=-1)
            self._levels[level:] = self._levels[level:] or [[]]
            self._levels[level].append(member)
        self._works: dict[str, tuple[Work, frozenset[int], Bar]] = {}  # with the missing shards
        self._failed: dict[str, Exception] = {}

    def run(self) -> dict[str, Exception]:
        """Build the columns, stage by stage and level by level; return the errors by column."""
        stages = self._stages()
        shards = [shard for stage in stages for shard in stage]
        plan, source = self._settings.plan, self._settings.source
        needs = Needs([m.name for m in self._members], shards, plan.keys_of, self._readers)

        # What a column reads is in place before the column is opened, and before each shard.
        with (
            contextlib.suppress(_AllFailed),
            SharedReader(source, plan.manifest.views, needs, self._settings.workers) as reader,
            contextlib.ExitStack() as self._stack,
        ):
            for stage in stages:
                for level, members in enumerate(self._levels):
                    for member in members:
                        self._open(member, reader)
                    for shard in stage:
                        self._build(level, shard, reader)
                for shard in stage:
                    reader.forget(shard)
            for name in list(self._works):
                self._finish(name, 0)

        for name, (work, _, _) in self._works.items():
            self._report(name, work.timing, work.seconds)
        return self._failed

    def _stages(self) -> list[list[int]]:
        """Return the shards in stages; a stage is built for all columns before the next."""
        first = list(calibration_shards(self._settings.plan))
        ours = self._settings.share.of(range(self._settings.plan.shards))
        if len(self._levels) == 1:
            return [[shard] for shard in [*ours, *(s for s in first if s not in ours)]]
        # A column is calibrated on these shards of the columns that it reads.
        return [first, *([shard] for shard in ours if shard not in first)]

    # ---- one column

    def _open(self, member: Member, reader: SharedReader) -> None:
        """Open a column, once; it may be calibrated thereby."""
        if member.name in self._works or member.name in self._failed:
            return
        settings, began = self._settings, perf_counter()
        try:
            job = member.open(reader)
            left = todo(job, settings.share, retry=settings.retry)
        except Exception as error:
            # What was asked for cannot be: that is told before anything is built.
            if isinstance(error, ReedError) and not self._works and member in self._levels[0]:
                raise
            self._fail(member.name, error)
            return

        # The writer and the bar end with the pass.
        timing = Timing()
        bar = Bar(settings.plan, member.name, left, timing, settings.progress)
        writer = self._stack.enter_context(contextlib.closing(Writer(job)))
        self._stack.enter_context(bar)
        work = Work(job, timing, left.tally, writer, bar.step, perf_counter() - began)
        self._works[member.name] = work, frozenset(left.missing), bar
        reader.batch = max(reader.batch, job.encoder.batch_size)

    def _attempt(self, work: Work, call: Callable[[], object]) -> bool:
        """Call a function for a column, and give the column up if it fails."""
        try:
            call()
        except Exception as error:
            self._fail(work.job.column.name, error)
        return work.job.column.name in self._works

    def _fail(self, name: str, error: Exception) -> None:
        """Give up a column and all that read it; _AllFailed is raised if no other one is left."""
        lost = {name}
        for member in (*self._members, *self._later):  # inputs come first
            if member.inputs & lost:
                lost.add(member.name)
        for member in self._members:
            if member.name in lost:
                self._failed[member.name] = error
                work, _, bar = self._works.pop(member.name, (None, None, None))
                if work and bar:
                    work.writer.close()
                    bar.close()

        left = {m.name for m in (*self._members, *self._later)} - lost - self._failed.keys()
        if left:  # else the error ends the command
            said = " ".join(f"{place_of(error)} {type(error).__name__}: {error}".split())
            tqdm.write(f"{name} is given up, the other columns go on: {said}", file=sys.stderr)
        if not left & {member.name for member in self._members}:
            raise _AllFailed

    def _finish(self, name: str, at_most: int) -> None:
        """Wait until at most so many shards of a column are unfinished."""
        work, _, bar = self._works[name]
        self._attempt(work, lambda: [bar.shard(marker) for marker in work.finished(at_most)])

    # ---- one shard

    def _build(self, level: int, shard: int, reader: SharedReader) -> None:
        """Build a shard of the columns of a level."""
        names = [m.name for m in self._levels[level] if self._needs(m, shard)]
        works: list[Work] = []
        for name in names:
            work, _, bar = self._works[name]
            if marker := build.done_meanwhile(work.job, shard):  # by another process meanwhile
                work.job.kept.drop(shard)
                bar.shard(marker)
            else:
                works.append(work)

        later = [m for members in self._levels[level + 1 :] for m in members]
        again = any(entries_of(m.reads) and self._needs(m, shard) for m in later)
        overlap.encode_shard(works, shard, reader, self._attempt, again)

        # What reads a column needs its shard in place.
        for name in [name for name in names if name in self._works]:
            is_read = any(name in member.inputs for member in later)
            self._finish(name, 0 if is_read else overlap.SHARDS - 1)

    def _needs(self, member: Member, shard: int) -> bool:
        """Whether a column has still to be built in a shard, as far as is known."""
        if member.name in self._works:
            return shard in self._works[member.name][1]
        marker = self._settings.cache / member.name / f"{shard:06d}.json"
        return member.name not in self._failed and not marker.is_file()

    def _readers(self, shard: int) -> Mapping[str, str]:
        """Return the entries to read for a shard, each with the first column that reads it."""
        needed = [member for member in self._members if self._needs(member, shard)]
        return {e: member.name for member in reversed(needed) for e in entries_of(member.reads)}


def _reads(member: Member, other: Member) -> bool:
    return other.name in member.inputs
