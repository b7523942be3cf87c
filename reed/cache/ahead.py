"""How far a stream reads ahead of a cache in an object store, and what it fetches before that."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Generator
from pathlib import Path

from reed.cache.order import BLOCK, WINDOW
from reed.store import mirror

_PER = 0.005  # seconds of latency for which one more batch is read ahead
_MOST = 12


def paced(folder: Path, threads: int, ahead: int) -> tuple[int, int]:
    """Return with how many threads to read how many batches ahead: more where a store is slow.

    Args:
        folder: Folder of the cache.
        threads: Threads for a local cache; 0 stays.
        ahead: Batches for a local cache.
    """
    store = mirror.of(folder)
    if not store or not threads:
        return threads, ahead
    more = min(_MOST, math.ceil(store.client.latency / _PER))
    return threads + more, ahead + more


def window(folder: Path, batch: float) -> int:
    """Return how many steps before its batch a record is fetched, where copies of it are kept.

    The batches of a window share the neighbours of its records, so all of them are fetched within
    its first few steps: the readers would wait there.

    Args:
        folder: Folder of the cache.
        batch: Mean samples of a batch.
    """
    store = mirror.of(folder)
    return math.ceil(WINDOW * BLOCK / batch) if store and store.is_kept else 0


@contextlib.contextmanager
def touching(
    touch: Callable[[int], None], start: int, distance: int
) -> Generator[Callable[[int], None]]:
    """Call a function for one step after another, in a thread, up to a distance before the reader.

    Args:
        touch: The function.
        start: The first step.
        distance: Steps before the reader; 0 calls nothing.

    Yields:
        A function that is told which step is read next.
    """
    reader, is_closed = threading.Semaphore(distance), threading.Event()

    def run() -> None:
        step = start
        while True:
            reader.acquire()
            if is_closed.is_set():
                return
            touch(step)
            step += 1

    if not distance:
        yield lambda step: None
        return

    # The thread may be waiting for the reader, so it is let go before it is waited for.
    thread = threading.Thread(target=run, name="reed-touch", daemon=True)
    thread.start()
    try:
        yield lambda step: reader.release()
    finally:
        is_closed.set()
        reader.release()
        thread.join()
