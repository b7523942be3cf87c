"""Reading, encoding and writing at the same time, also across shard boundaries.

Worker processes read chunks ahead, the caller's thread encodes them and another thread writes
them, so the slowest of the three limits the speed. The bytes are those of build_shard.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain, groupby, islice
from operator import itemgetter
from time import perf_counter

from reed.build import shard as build
from reed.build.shard import Job, Record, Tally, Timing
from reed.build.source import Chunk, Reading
from reed.cache.schema import Marker
from reed.errors import ReedError

MOST_WORKERS = 8
WORTH_IT = 4096  # samples; fewer are read before processes have started
_CHUNKS = 2  # chunks that wait between the encoder and the writer
_SHARDS = 2  # shards that are encoded and not yet in place


def default_workers(samples: int) -> int:
    """Return the number of reading processes: the cores per rank, at most 8; 0 for few samples."""
    if samples < WORTH_IT:
        return 0
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)) // max(1, ranks))


def build_shards(
    job: Job, shards: Iterable[int], timing: Timing, tally: Tally, workers: int = 0
) -> Generator[Marker]:
    """Build some shards; yield the marker of each once it is in place.

    A shard that another process has built by the time its reading begins is not built again.

    Args:
        job: The column.
        shards: The shards to build.
        timing: Receives the seconds of each stage.
        tally: Receives the number of tried and failed samples.
        workers: Processes that read ahead; 0 reads in this process, between encoding.
    """
    with contextlib.ExitStack() as stack:
        pool = None
        if workers and job.reading.is_raw:  # reading another column is cheap
            pool = stack.enter_context(_pool(job.reading, workers))
        writer = stack.enter_context(contextlib.closing(_Writer(job)))

        for shard, chunks in _reads(job, shards, pool, 2 * workers):
            if chunks is not None:
                failed: dict[str, str] = {}
                pipe = writer.begin(shard, failed, tally)
                for records in build.encode_shard(job, chunks, failed, timing, tally):
                    timing.write += pipe.put(records)
                timing.write += pipe.put(None)
            elif marker := build.done_marker(job, shard):
                yield marker
            began = perf_counter()
            yield from writer.finished(_SHARDS - 1)
            timing.write += perf_counter() - began

        began = perf_counter()
        yield from writer.finished(0)
        timing.write += perf_counter() - began


# ---- reading

Read = Callable[[], Chunk]


def _reads(
    job: Job, shards: Iterable[int], pool: ProcessPoolExecutor | None, ahead: int
) -> Iterator[tuple[int, Iterator[Chunk] | None]]:
    """Yield every shard and its chunks, to be consumed in turn; None for a finished shard.

    With a pool, ``ahead`` chunks are read beside the one in use, also of later shards.
    """

    # Submitting a chunk starts to read it, so only as many are made as are buffered.
    def begun() -> Iterator[tuple[int, Read | None]]:
        for shard in shards:
            if build.is_done(job, shard):
                yield shard, None
                continue
            for keys in job.cuts(shard):
                if pool is None:
                    yield shard, partial(job.reading.chunk, shard, keys)
                else:
                    with _worker_death_reported(job, shard):
                        future = pool.submit(_read, shard, keys)
                    yield shard, partial(_result, job, shard, future)

    reads = begun() if pool is None else _buffered(begun(), ahead)
    for shard, group in groupby(reads, itemgetter(0)):
        rest = map(itemgetter(1), group)
        first = next(rest)
        yield shard, None if first is None else (read() for read in chain([first], rest))


def _buffered(items: Iterator, count: int) -> Iterator:
    """Yield the items, of which ``count`` more than were requested have been made."""
    made = deque(islice(items, count))
    for item in items:
        made.append(item)
        yield made.popleft()
    yield from made


def _result(job: Job, shard: int, future: Future[Chunk]) -> Chunk:
    """Return a chunk that a worker process has read."""
    with _worker_death_reported(job, shard):
        return future.result()


@contextlib.contextmanager
def _worker_death_reported(job: Job, shard: int) -> Generator[None]:
    """Turn the error of a pool whose process has died into a ReedError.

    A dead process is noticed when a chunk is submitted, or when its result is requested.
    """
    try:
        yield
    except BrokenProcessPool as error:
        raise ReedError(
            f"column {job.column.name!r}: a reading process died near shard {shard} (killed, or "
            "out of memory); rerun to resume, with fewer --workers, or 0 to read in place"
        ) from error


@contextlib.contextmanager
def _pool(reading: Reading, workers: int) -> Generator[ProcessPoolExecutor]:
    """Yield a pool of processes that read chunks."""
    # spawn: a fork would inherit the locks of torch's and zarr's threads.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, _start, (reading,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_reading: Reading | None = None  # set once in each worker process


def _start(reading: Reading) -> None:
    """Prepare a worker process."""
    global _reading
    _reading = reading
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process with its parent; a killed parent cannot tell its workers to stop."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _read(shard: int, keys: tuple[str, ...]) -> Chunk:
    """Read a chunk in a worker process."""
    assert _reading is not None
    return _reading.chunk(shard, keys)


# ---- writing


class _Abandoned(Exception):
    """Raised in the writer of a shard that the encoder has abandoned."""


class _Pipe:
    """The queue of one shard's records to the thread that writes them."""

    written: Future[Marker]  # set by the writer, see `_Writer.begin`

    def __init__(self) -> None:
        self._queue: queue.Queue[list[Record] | None | _Abandoned] = queue.Queue(_CHUNKS)

    def put(self, records: list[Record] | None) -> float:
        """Pass some records on, None after the last; return the seconds that this took."""
        began = perf_counter()
        while True:
            try:
                self._queue.put(records, timeout=0.2)
                return perf_counter() - began
            except queue.Full:
                if self.written.done():
                    self.written.result()  # raises the writer's error

    def abandon(self) -> None:
        """Make the writer give the shard up."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(_Abandoned())

    def __iter__(self) -> Iterator[Record]:
        while (records := self._queue.get()) is not None:
            if isinstance(records, _Abandoned):
                raise records
            yield from records


class _Writer:
    """One thread that writes shards in the order in which they were begun."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reed-write")
        self._begun: deque[_Pipe] = deque()

    def begin(self, shard: int, failed: dict[str, str], tally: Tally) -> _Pipe:
        """Return the pipe for the records of a shard; ``failed`` is read once they have ended."""
        pipe = _Pipe()
        pipe.written = self._thread.submit(build.write_shard, self._job, shard, pipe, failed, tally)
        self._begun.append(pipe)
        return pipe

    def finished(self, at_most: int) -> Iterator[Marker]:
        """Yield the markers of finished shards, until at most ``at_most`` are unfinished."""
        while self._begun and (len(self._begun) > at_most or self._begun[0].written.done()):
            yield self._begun.popleft().written.result()

    def close(self) -> None:
        """Abandon unfinished shards, which there are only after an error, and end the thread."""
        for pipe in self._begun:
            pipe.abandon()
        self._thread.shutdown(wait=True, cancel_futures=True)
