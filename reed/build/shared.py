"""Reading a source once for several columns, in worker processes where that pays.

What is read is kept until every column has used it. What columns use at different times
(calibration, then the shard; a column, then another that reads it) is kept up to ``HELD`` bytes;
beyond that it is read again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from time import perf_counter

from reed.build.reading import View, read_views
from reed.build.source import Source
from reed.errors import ReedError

MOST_WORKERS = 8
WORTH_IT = 2.0  # seconds of reading for each process, which takes about one to start
HELD = 1 << 29  # bytes of samples that wait for a later use
SLICE = 16  # samples that a worker process reads at a time
_TIMED = 8  # samples after which the cost of one is judged for the first time
_AT_ONCE = 1.0  # seconds after which it is judged at once


def cores_per_rank() -> int:
    """Return the cores of this process; those of its machine are divided among the ranks there."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1)
    return len(os.sched_getaffinity(0)) // max(1, ranks)


def most_workers() -> int:
    """Return the number of processes that may read: the cores per rank, at most 8."""
    return min(MOST_WORKERS, cores_per_rank())


def workers_for(seconds: float) -> int:
    """Return the number of reading processes that pays for some seconds of reading; 0 for few."""
    return min(most_workers(), int(seconds / WORTH_IT)) if seconds >= 2 * WORTH_IT else 0


@dataclass(frozen=True)
class Task:
    """All that a process needs to read the samples of some columns; can be sent to it."""

    source: Source
    views: int


@dataclass
class Needs:
    """What a shared reader has to read, as the columns go on.

    Attributes:
        columns: Names of the columns, for messages.
        shards: The shards, in the order in which they will be read.
        keys_of: Function that returns the keys of a shard.
        readers: Function that returns the entries to read for a shard, each with a column that
            reads it; none if no column needs the shard.
    """

    columns: Sequence[str]
    shards: Sequence[int]
    keys_of: Callable[[int], Sequence[str]]
    readers: Callable[[int], Mapping[str, str]]


class SharedReader:
    """Reads each sample once for all columns that need it; a context manager.

    Attributes:
        seconds: Seconds that reading took of this thread.
        batch: Samples that the columns use at once; so many are read ahead.
    """

    def __init__(
        self, source: Source, views: int, needs: Needs, workers: int | None = None
    ) -> None:
        """Prepare to read.

        Args:
            source: The source.
            views: Views of a sample.
            needs: What to read.
            workers: Processes that read ahead; 0 reads in this process; None decides by the
                measured cost of a sample.
        """
        self.seconds, self.batch = 0.0, 1
        self._task, self._needs, self._workers = Task(source, views), needs, workers
        self._held: dict[str, list[View]] = {}
        self._bytes = 0
        self._pending: dict[str, Future[list[list[View]]]] = {}
        self._ahead = self._slices()
        self._used: set[str] = set()
        self._over: set[int] = set()
        self._stack = contextlib.ExitStack()
        self._pool: ProcessPoolExecutor | None = None
        self._first, self._last, self._spent, self._timed = True, 0.0, 0.0, 0

    def __enter__(self) -> SharedReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def views(self, shard: int, key: str) -> Sequence[View]:
        """Return the views of a sample of a shard; it is held until it is released."""
        began = perf_counter()
        try:
            if key not in self._held:
                self._start(shard)
                self._read(shard, key)
            self._used.add(key)
            return self._held[key]
        finally:
            self.seconds += perf_counter() - began

    def release(self, keys: Iterable[str], again: bool) -> None:
        """Say that some samples have been used.

        Args:
            keys: The keys of the samples.
            again: Whether they will be used again; they are kept if there is room.
        """
        for key in keys:
            if not again or self._bytes > HELD:
                views = self._held.pop(key, ())
                self._bytes -= sum(view.bytes for view in views)

    def forget(self, shard: int) -> None:
        """Say that a shard is finished."""
        self._over.add(shard)
        keys = self._needs.keys_of(shard)
        self.release(keys, again=False)
        self._used.difference_update(keys)
        for key in keys:
            if future := self._pending.pop(key, None):
                future.cancel()

    def _read(self, shard: int, key: str) -> None:
        """Hold a sample, from a worker process if it has been submitted to one."""
        self._submit()
        if key in self._pending:
            future = self._pending[key]
            with self._death_reported(shard):
                found = future.result()
            keys = [k for k, other in self._pending.items() if other is future]
            for each, views in zip(keys, found, strict=True):
                del self._pending[each]
                self._hold(each, views)
            self._submit()
            return

        # It was not submitted: there are no processes, or it was used before and not held.
        began = perf_counter()
        readers = self._needs.readers(shard)
        found = read_views(self._task.source, key, self._task.views, readers) if readers else []
        self._hold(key, found)
        self._time(perf_counter() - began)

    def _time(self, seconds: float) -> None:
        """Note the cost of a sample that was read here; the first one may import a library."""
        if not self._first:
            self._last, self._spent, self._timed = seconds, self._spent + seconds, self._timed + 1
        self._first = False

    def _hold(self, key: str, views: list[View]) -> None:
        self._held[key] = views
        self._bytes += sum(view.bytes for view in views)

    # ---- worker processes

    def _start(self, shard: int) -> None:
        """Start the processes if they were asked for, or if reading has proved to be slow."""
        if self._pool or self._workers == 0:
            return
        workers = self._workers if self._workers is not None else self._judged()
        if workers:
            # spawn: a fork would inherit the locks of torch's and zarr's threads.
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, spawn, _begin, (self._task,))
            self._stack.callback(self._pool.shutdown, wait=True, cancel_futures=True)
            self._workers = workers

    def _judged(self) -> int:
        """Return the number of processes that pays, by the cost of the samples so far."""
        spent, count = self._spent, self._timed
        is_slow = spent - self._last < _AT_ONCE <= spent
        is_due = count >= _TIMED and count & (count - 1) == 0  # anew when twice as many are known
        if not (is_slow or is_due):
            return 0

        left = [shard for shard in self._needs.shards if shard not in self._over]
        samples = sum(len(self._needs.keys_of(s)) for s in left if self._needs.readers(s))
        return workers_for(spent / count * (samples - len(self._used)))

    def _submit(self) -> None:
        """Have the processes read ahead: what waits is twice their number, and one batch."""
        if not self._pool or self._workers is None:
            return
        most = 2 * self._workers * SLICE + self.batch
        while len(self._pending) < most and (item := next(self._ahead, None)):
            shard, keys, readers = item
            with self._death_reported(shard):
                future = self._pool.submit(_read_slice, keys, readers)
            self._pending |= dict.fromkeys(keys, future)

    def _slices(self) -> Iterator[tuple[int, list[str], dict[str, str]]]:
        """Yield what has not been read yet, in order: shard, keys, entries."""
        for shard in self._needs.shards:
            readers = dict(self._needs.readers(shard)) if shard not in self._over else {}
            if not readers:
                continue
            keys = deque(self._needs.keys_of(shard))
            while keys and shard not in self._over:
                some = [keys.popleft() for _ in range(min(SLICE, len(keys)))]
                some = [k for k in some if not (k in self._used or k in self._held)]
                if some:
                    yield shard, some, readers

    @contextlib.contextmanager
    def _death_reported(self, shard: int) -> Generator[None]:
        """Turn the error of a pool whose process has died into a ReedError.

        A dead process is noticed when samples are submitted, or when they are requested.
        """
        try:
            yield
        except BrokenProcessPool as error:
            names = ", ".join(map(repr, self._needs.columns))
            raise ReedError(
                f"column {names}: a reading process died near shard {shard} (killed, or "
                "out of memory); rerun to resume, with fewer --workers, or 0 to read in place"
            ) from error


_task: Task | None = None  # set once in each worker process


def _begin(task: Task) -> None:
    """Prepare a worker process."""
    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process with its parent; a killed parent cannot tell its workers to stop."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _read_slice(keys: Sequence[str], readers: Mapping[str, str]) -> list[list[View]]:
    """Read some samples in a worker process."""
    assert _task is not None
    return [read_views(_task.source, key, _task.views, readers) for key in keys]
