"""The division of shards among this process, the ranks of a launch, and the jobs of an array."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from reed.build import computed, overlap
from reed.build import shard as build
from reed.build.fitting import calibration_shards
from reed.build.shard import Job, Tally, Timing
from reed.cache import files, schema
from reed.cache.plan import Plan
from reed.cache.schema import Marker
from reed.errors import ReedError


@dataclass(frozen=True)
class Share:
    """The part of all shards that a process builds.

    Attributes:
        rank: Number of this process.
        world: Number of processes; each takes every ``world``-th shard.
        begin: First shard of all processes together.
        end: The shard after the last one that they build; None for all.
    """

    rank: int = 0
    world: int = 1
    begin: int = 0
    end: int | None = None

    def of(self, shards: Sequence[int]) -> list[int]:
        """Return this process's part of all shards."""
        return list(shards[self.begin : self.end][self.rank :: self.world])


def launched_share(begin: int = 0, end: int | None = None) -> Share:
    """Return the share of this process under torchrun or accelerate launch.

    It is read from the environment variables RANK and WORLD_SIZE.

    Args:
        begin: First shard that the launch as a whole builds.
        end: The shard after the last one; None for all.
    """
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError as error:
        raise ReedError(f"RANK and WORLD_SIZE must be integers: {error}") from error
    if not 0 <= rank < world:
        raise ReedError(f"RANK={rank} is not below WORLD_SIZE={world}")
    if begin < 0 or (end is not None and end <= begin):
        raise ReedError(
            f"--shards-from {begin} --shards-to {end} is empty: the first is built, the last is not"
        )
    return Share(rank, world, begin, end)


@dataclass
class Todo:
    """The remaining work of this process on one column.

    Attributes:
        ours: Shards of this process, with those that are done.
        missing: Shards to build, in order.
        tally: Tried and failed samples of the whole column.
    """

    ours: list[int]
    missing: list[int]
    tally: Tally


def todo(job: Job, share: Share, *, retry: bool = False) -> Todo:
    """Return the remaining work on a column; remove temporary files of killed writers.

    Args:
        job: The column.
        share: The share of this process.
        retry: Whether to build shards with failed samples again; their markers are removed.
    """
    ours = share.of(range(job.plan.shards))
    markers = {i: build.done_marker(job, i) for i in range(job.plan.shards)}
    failed = {i for i in ours if retry and (marker := markers[i]) and marker.failed}
    missing = {i for i in ours if not markers[i]} | failed

    # Complete columns are left as they are, whatever version is installed now.
    if missing:
        computed.check(job.cache, job.column, job.source)
    for shard in failed:
        files.delete(schema.marker_path(job.cache, job.column, shard))
        markers[shard] = None

    tally = build.new_tally(job)
    for marker in markers.values():
        if marker:
            tally.tried += len(marker.keys) + len(marker.failed)
            tally.failed += len(marker.failed)

    # Every rank calibrates the columns that read this one, on its first shards. Another rank may
    # not have built these yet, so every rank builds them itself at the end.
    ours += [shard for shard in calibration_shards(job.plan) if shard not in ours]
    done = [shard for shard in ours if markers[shard]]
    paths = (schema.shard_path, schema.marker_path)
    names = {path_of(job.cache, job.column, i).name for i in done for path_of in paths}
    files.sweep(job.cache / job.column.name, names)
    return Todo(ours, [shard for shard in ours if not markers[shard]], tally)


def run(
    job: Job,
    share: Share,
    *,
    workers: int | None = 0,
    retry: bool = False,
    progress: bool = True,
) -> Timing:
    """Build the missing shards of this process of one column, with a progress bar.

    Args:
        job: The column.
        share: The share of this process.
        workers: Processes that read samples ahead; 0 reads in this process; None decides by the
            measured cost of a sample.
        retry: Whether to build shards with failed samples again.
        progress: Whether to show the bar.

    Returns:
        The seconds of each stage.
    """
    left, timing = todo(job, share, retry=retry), Timing()
    bar = Bar(job.plan, job.column.name, left, timing, progress)
    built = overlap.build_shards(job, left.missing, timing, left.tally, workers, bar.step)
    with bar, contextlib.closing(built):
        for marker in built:
            bar.shard(marker)
    return timing


class Bar:
    """The progress bar of a column: it counts samples as they are encoded. A context manager."""

    def __init__(self, plan: Plan, name: str, left: Todo, timing: Timing, progress: bool) -> None:
        """Show a bar.

        Args:
            plan: Plan of the cache.
            name: Name of the column.
            left: The remaining work.
            timing: The seconds to show.
            progress: Whether to show anything but the samples that failed.
        """
        self._name, self._timing = name, timing
        self._left = {shard: len(plan.rows(shard)) for shard in left.ours}
        total = sum(self._left.values())
        self._bar = tqdm(
            total=total,
            initial=total - sum(self._left[shard] for shard in left.missing),
            desc=name,
            unit="sample",
            disable=not progress,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def step(self, shard: int, count: int) -> None:
        """Show that so many samples of a shard have been encoded."""
        self._left[shard] -= count
        self._bar.set_postfix_str(self._timing.summary(), refresh=False)
        self._bar.update(count)

    def shard(self, marker: Marker) -> None:
        """Show that a shard is in place, and name its samples that failed."""
        self.step(marker.shard, self._left[marker.shard])  # if another process has encoded them
        for key, reason in marker.failed.items():
            self._bar.write(f"{self._name}: left out {key!r}: {reason}", file=sys.stderr)
