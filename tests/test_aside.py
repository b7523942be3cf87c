"""Calls in a thread of their own: the results of map, and items that take turns with memory."""

from __future__ import annotations

import threading

import pytest

from reed.cache import aside

LARGE, SMALL = aside.LEAST, 1


def test_results_come_in_order_and_large_calls_run_elsewhere():
    sizes = [LARGE, SMALL, LARGE, LARGE, LARGE, SMALL, SMALL, LARGE]

    def call(item):
        return item, threading.current_thread() is threading.main_thread()

    found = list(aside.called(call, enumerate(sizes), lambda item: item[1]))
    assert found == [((i, size), size == SMALL) for i, size in enumerate(sizes)]


def test_the_next_item_is_made_while_a_call_runs_and_no_later_one():
    made, ended = [threading.Event() for _ in range(9)], []

    def items():
        for i in range(8):
            assert ended[: i - 1] == list(range(i - 1))  # all but the call before this item
            made[i].set()
            yield i
        made[8].set()

    def call(item):
        assert made[item + 1].wait(60)  # it would never be made by a caller that waits
        ended.append(item)

    assert list(aside.called(call, items(), lambda item: LARGE)) == [None] * 8


@pytest.mark.parametrize("size", [LARGE, SMALL])
def test_an_error_is_that_of_the_first_call_that_fails(size):
    def call(item):
        if item >= 2:
            raise ValueError(str(item))
        return item

    found = []
    with pytest.raises(ValueError, match="2"):
        found.extend(aside.called(call, range(5), lambda item: size))
    assert found == [0, 1]
    assert not [t for t in threading.enumerate() if t.name.startswith("reed-aside")]


def test_an_error_of_the_items_ends_the_thread():
    def items():
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(aside.called(lambda item: item, items(), lambda item: LARGE))
    assert not [t for t in threading.enumerate() if t.name.startswith("reed-aside")]
