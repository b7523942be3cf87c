"""Writing the shards of a column in a thread, while the next records are encoded."""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter

from reed.build import shard as build
from reed.build.kept import Batch
from reed.build.shard import Job, Tally
from reed.cache.schema import Marker

_CHUNKS = 2  # chunks that wait between the encoder and the writer


class _Abandoned(Exception):
    """Raised in the writer of a shard that the encoder has abandoned."""


class Pipe:
    """The queue of one shard's samples to the thread that writes them."""

    written: Future[Marker]  # set by the writer, see `Writer.begin`

    def __init__(self) -> None:
        self._queue: queue.Queue[Batch | None | _Abandoned] = queue.Queue(_CHUNKS)

    def put(self, batch: Batch | None) -> float:
        """Pass some samples on, None after the last; return the seconds that this took."""
        began = perf_counter()
        while True:
            try:
                self._queue.put(batch, timeout=0.2)
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

    def __iter__(self) -> Iterator[Batch]:
        while (batch := self._queue.get()) is not None:
            if isinstance(batch, _Abandoned):
                raise batch
            yield batch


class Writer:
    """One thread that writes shards in the order in which they were begun."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reed-write")
        self._begun: deque[Pipe] = deque()

    def begin(self, shard: int, failed: dict[str, str], tally: Tally) -> Pipe:
        """Return the pipe for the records of a shard; ``failed`` is read once they have ended."""
        pipe = Pipe()
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
