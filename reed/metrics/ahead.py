"""Reading batches ahead of their use, in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np

from reed.build.engines import Share
from reed.build.shared import cores_per_rank

T = TypeVar("T")

BATCHES = 2  # read and not yet used
LEAST, MOST = 4, 32  # threads that decode
ALL = Share()  # of the batches of a set


class Reader(Protocol):
    """Reads the images of a set."""

    def __call__(self, batch: int, share: Share = ALL) -> Iterator[np.ndarray]:
        """Yield the images in order, uint8 [B, H, W, C].

        Args:
            batch: Images per batch.
            share: The batches to yield: every N-th; only these are read.
        """
        ...


def decoders() -> int:
    """Return the number of threads that decode images: the cores of this process.

    Pillow releases the lock of the interpreter while it decodes. The processes of a launch divide
    the cores of their machine; a few threads more than cores hide the waiting for a disk.
    """
    return min(max(cores_per_rank(), LEAST), MOST)


def read_ahead(items: Iterable[T], ahead: int = BATCHES) -> Generator[T]:
    """Yield the items of an iterable, which a thread reads while the caller works.

    Args:
        items: The iterable; its errors are raised here.
        ahead: Number of items that are read and not yet used.
    """
    iterator: Any = iter(items)
    end: Any = object()
    with ThreadPoolExecutor(1, "reading ahead") as pool:
        read: list[Future[Any]] = [pool.submit(next, iterator, end) for _ in range(ahead)]
        waiting = deque(read)
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, iterator, end))
                yield item
        finally:
            for future in waiting:
                future.cancel()
            # A generator is closed in its own thread, after the item that it is reading.
            if isinstance(iterator, Generator):
                pool.submit(iterator.close).result()
