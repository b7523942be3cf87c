"""Calling a function in a thread of its own, while the caller prepares what it is called with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

LEAST = 1 << 20  # bytes from which a call takes longer than passing it to a thread


def called(
    call: Callable[[_Item], _Result], items: Iterable[_Item], size: Callable[[_Item], int]
) -> Generator[_Result]:
    """Yield the results of calls, one after another in one thread, while the next item is made.

    Order and results are those of ``map``. When an item is asked for, at most the call with the one
    before it is still running, so two items may take turns with the same memory.

    Args:
        call: The function; it should release the interpreter's lock most of the time.
        items: What it is called with; they are made in the caller's thread.
        size: Returns the bytes of an item; calls with few bytes are made in the caller's thread.
    """
    pending: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="reed-aside")

    # The thread ends with the block, also where the caller stops early or an item cannot be made.
    try:
        for item in items:
            # A small item waits for those before it, so that the order is kept.
            if size(item) < LEAST:
                while pending:
                    yield pending.popleft().result()
                yield call(item)
                continue

            # Only now is the call before the last waited for: the last one goes on.
            pending.append(pool.submit(call, item))
            if len(pending) > 1:
                yield pending.popleft().result()

        # No further item is made while these end.
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
