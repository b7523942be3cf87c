"""Reading, encoding and writing at the same time, also across shard boundaries.

Worker processes read samples ahead, the caller's thread encodes them and a thread per column
writes them, so the slowest of the three limits the speed. Several columns encode a shard in step,
so that a sample is read once for all of them. The bytes are those of build_shard.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from reed.build import shard as build
from reed.build.shard import Job, Tally, Timing
from reed.build.shared import Needs, SharedReader
from reed.build.writing import Pipe, Writer
from reed.cache.schema import Marker

SHARDS = 2  # shards of a column that are encoded and not yet in place


Step = Callable[[int, int], object]


@dataclass
class Work:
    """A column that is being built.

    Attributes:
        job: The column.
        timing: The seconds of each stage; those of reading are divided among the columns that
            read.
        tally: Tried and failed samples.
        writer: The thread that writes its shards.
        step: Function that is told how many samples of a shard have been encoded.
        seconds: Seconds that the column took of this thread, with its part of the reading.
    """

    job: Job
    timing: Timing
    tally: Tally
    writer: Writer
    step: Step
    seconds: float = 0.0

    def finished(self, at_most: int) -> list[Marker]:
        """Return the markers of finished shards, once at most ``at_most`` are unfinished."""
        began = perf_counter()
        markers = list(self.writer.finished(at_most))
        for marker in markers:
            self.job.kept.drop(marker.shard)
        self.timing.write += perf_counter() - began
        return markers


# Calls a function for a column, and says whether it succeeded; an error may be raised or noted.
Attempt = Callable[[Work, Callable[[], object]], bool]


def at_once(work: Work, call: Callable[[], object]) -> bool:
    """Call a function and let its errors pass."""
    call()
    return True


def build_shards(
    job: Job,
    shards: Iterable[int],
    timing: Timing,
    tally: Tally,
    workers: int | None = 0,
    step: Step = lambda shard, count: None,
) -> Generator[Marker]:
    """Build some shards of one column; yield the marker of each once it is in place.

    A shard that another process has built by the time it is reached is not built again.

    Args:
        job: The column.
        shards: The shards to build.
        timing: Receives the seconds of each stage.
        tally: Receives the number of tried and failed samples.
        workers: See `SharedReader`.
        step: See `Work`.
    """
    # A reader that no other column shares.
    shards = list(shards)
    entries = dict.fromkeys(job.reading.entries, job.column.name)
    needs = Needs([job.column.name], shards, job.plan.keys_of, lambda _: entries)

    with (
        SharedReader(job.source, job.plan.manifest.views, needs, workers) as reader,
        contextlib.closing(Writer(job)) as writer,
    ):
        work = Work(job, timing, tally, writer, step)
        reader.batch = job.encoder.batch_size
        for shard in shards:
            if marker := build.done_meanwhile(job, shard):
                yield marker
            else:
                encode_shard([work], shard, reader)
            reader.forget(shard)
            yield from work.finished(SHARDS - 1)
        yield from work.finished(0)


def encode_shard(
    works: Sequence[Work],
    shard: int,
    reader: SharedReader,
    attempt: Attempt = at_once,
    again: bool = False,
) -> None:
    """Encode a shard of some columns, in the order in which the samples are read.

    Args:
        works: The columns.
        shard: Number of the shard.
        reader: The reader that they share.
        attempt: How a column is called.
        again: Whether other columns will use the same samples later.
    """
    begun = [_Begun(work, shard) for work in works]
    keys, released = works[0].job.plan.keys_of(shard) if works else (), 0
    while left := [each for each in begun if each.cuts]:
        # The column whose next cut ends first is next, so few samples have to be held.
        nearest = min(left, key=lambda each: each.position + len(each.cuts[0]))
        shares = [each.work for each in left if each.work.job.reading.entries]
        before, began = reader.seconds, perf_counter()
        if not attempt(nearest.work, partial(nearest.encode, reader)):
            nearest.cuts.clear()
        _divide(nearest.work, shares, reader.seconds - before, perf_counter() - began)

        position = min((each.position for each in begun if each.cuts), default=len(keys))
        reader.release(keys[released:position], again)
        released = position


def _divide(work: Work, shares: Sequence[Work], reading: float, seconds: float) -> None:
    """Add the seconds of a call to a column, and those of reading to all that share them."""
    work.seconds += seconds - reading
    work.timing.read -= reading
    for other in shares:
        other.seconds += reading / len(shares)
        other.timing.read += reading / len(shares)


class _Begun:
    """A shard of one column that is being encoded."""

    def __init__(self, work: Work, shard: int) -> None:
        self.work, self._shard, self._failed = work, shard, {}
        self.cuts = list(work.job.cuts(shard))
        self._pipe: Pipe = work.writer.begin(shard, self._failed, work.tally)
        self.position = 0  # samples that have been encoded

    def encode(self, reader: SharedReader) -> None:
        """Encode the next cut and pass it on to the writer."""
        work, keys = self.work, self.cuts.pop(0)
        encoded = build.encode(work.job, self._shard, keys, reader.views)
        encoded.count(self._failed, work.timing, work.tally)
        work.timing.write += self._pipe.put(encoded.batch)
        self.position += len(keys)
        if not self.cuts:
            work.timing.write += self._pipe.put(None)
        work.step(self._shard, len(keys))
