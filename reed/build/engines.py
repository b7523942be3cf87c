"""Who builds which shards: this process, the ranks of a launch, the jobs of an array."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from reed.build import overlap
from reed.build import shard as build
from reed.build.column import calibration_shards
from reed.build.shard import Job, Tally, Timing
from reed.cache import files, schema
from reed.cache.plan import Plan
from reed.cache.schema import Marker
from reed.errors import ReedError


@dataclass(frozen=True)
class Share:
    """Which shards are ours: of those from `begin` to before `end`, every `world`-th one."""

    rank: int = 0
    world: int = 1
    begin: int = 0
    end: int | None = None

    def of(self, shards: Sequence[int]) -> list[int]:
        """Our part of all shards."""
        return list(shards[self.begin : self.end][self.rank :: self.world])


def launched_share(begin: int = 0, end: int | None = None) -> Share:
    """The share of this process under torchrun or accelerate launch, from RANK and WORLD_SIZE.

    begin, end: the half-open range of shards that the launch as a whole builds.
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
    """The shards of one column that are ours, and how far the column is.

    ours: with those that are done; missing: in the order to build them.
    """

    ours: list[int]
    missing: list[int]
    tally: Tally


def todo(job: Job, share: Share, *, retry: bool = False) -> Todo:
    """What is left to do of a column; removes what killed writers left beside finished shards.

    retry: build the shards of this share that have failed samples again, their markers removed.
    """
    ours = share.of(range(job.plan.shards))
    markers = {i: build.done_marker(job, i) for i in range(job.plan.shards)}
    if retry:
        for shard in ours:
            marker = markers[shard]
            if marker and marker.failed:
                schema.marker_path(job.cache, job.column, shard).unlink(missing_ok=True)
                markers[shard] = None
    tally = build.new_tally(job)
    for marker in markers.values():
        if marker:
            tally.tried += len(marker.keys) + len(marker.failed)
            tally.failed += len(marker.failed)
    # Every rank calibrates the columns that read this one, on its first shards, which another
    # rank may not have got to: the last thing a rank does is to see to these.
    ours += [shard for shard in calibration_shards(job.plan) if shard not in ours]
    done = [shard for shard in ours if markers[shard]]
    places = (schema.shard_path, schema.marker_path)
    names = {place(job.cache, job.column, i).name for i in done for place in places}
    files.sweep(job.cache / job.column.name, names)
    return Todo(ours, [shard for shard in ours if not markers[shard]], tally)


def run(
    job: Job, share: Share, *, workers: int = 0, retry: bool = False, progress: bool = True
) -> Timing:
    """Build our missing shards of one column, with a bar; returns the seconds of each stage.

    workers: processes that read samples ahead, 0 to read in this one.
    """
    left, timing = todo(job, share, retry=retry), Timing()
    built = overlap.build_shards(job, left.missing, timing, left.tally, workers)
    with contextlib.closing(built):
        for _ in shown(job.plan, job.column.name, left, built, timing, progress):
            pass
    return timing


def shown(
    plan: Plan, name: str, left: Todo, built: Iterable[Marker], timing: Timing, progress: bool
) -> Iterator[Marker]:
    """The markers, as they come, with a bar of samples and one line per failed sample."""
    counts = {shard: len(plan.rows(shard)) for shard in left.ours}
    with tqdm(
        total=sum(counts.values()),
        initial=sum(counts[shard] for shard in set(left.ours) - set(left.missing)),
        desc=name,
        unit="sample",
        disable=not progress,
        dynamic_ncols=True,
    ) as bar:
        for marker in built:
            bar.set_postfix_str(timing.summary(), refresh=False)
            bar.update(counts[marker.shard])
            for key, reason in marker.failed.items():
                bar.write(f"{name}: left out {key!r}: {reason}", file=sys.stderr)
            yield marker
