"""Reading batches ahead of their use, in threads."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")

BATCHES = 2  # read and not yet used
LEAST, MOST = 4, 32  # threads that decode


def decoders() -> int:
    """Return the number of threads that decode images: the cores of this process.

    Pillow releases the lock of the interpreter while it decodes. The processes of a launch divide
    the cores of their machine; a few threads more than cores hide the waiting for a disk.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1)
    return min(max(len(os.sched_getaffinity(0)) // max(local, 1), LEAST), MOST)


def read_ahead(items: Iterable[T], ahead: int = BATCHES) -> Generator[T]:
    """Yield the items of an iterable, which a thread reads while the caller works.

    Args:
        items: The iterable; its errors are raised here.
        ahead: Number of items that may wait; so many are in memory, and two more.
    """
    waiting: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(ahead)
    stop = threading.Event()

    def put(item: T | None, error: BaseException | None = None, *, last: bool = False) -> None:
        while not stop.is_set():
            try:
                return waiting.put((item, error, last), timeout=0.1)
            except queue.Full:
                continue

    # The iterable is also closed in its thread, so that what it opened is closed in any case.
    def work() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                put(item)
                if stop.is_set():
                    break
            put(None, last=True)
        except BaseException as error:  # it belongs to the caller, whatever it is
            put(None, error, last=True)
        finally:
            if isinstance(iterator, Generator):
                iterator.close()

    thread = threading.Thread(target=work, name="reading ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error, last = waiting.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # ty: ignore[invalid-yield]  # an item that is not the last one
            del item  # not kept while the next one is awaited
    finally:
        stop.set()
        thread.join()
