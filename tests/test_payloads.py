"""Where the payloads of records in several shards are, against cases worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from reed.cache import key_lists
from reed.cache.containers import offsets
from reed.cache.payloads import Payloads

SPACED = {"x": {"offsets": {"first": 100, "stride": 10}}, "y": {"offsets": [7, 5, 90]}}
LISTED = {"x": {"offsets": [400, 300, 0]}, "y": {"offsets": {"first": 2, "stride": 3}}}
MARKERS = {0: SimpleNamespace(parts=SPACED), 3: SimpleNamespace(parts=LISTED)}


def found(without=()):
    """Shard, offset, part and place in the batch of every payload of four records."""
    memory = {name: np.zeros((4, 2), np.uint8) for name in "xy"}
    out = {name: list(array) for name, array in memory.items()}
    shards, records = np.array([3, 0, 3, 0]), np.array([1, 2, 2, 0])
    told = []
    for shard, offset, view in Payloads(MARKERS).of(shards, records, out, without):
        view[0] = 1
        (name, place), *_ = [(n, int(a.any(1).argmax())) for n, a in memory.items() if a.any()]
        view[0] = 0
        told.append((shard, offset, name, place))
    return told


def test_payloads_come_by_shard_and_offset_whether_spaced_or_listed():
    first = [(0, 7, "y", 3), (0, 90, "y", 1), (0, 100, "x", 3), (0, 120, "x", 1)]
    second = [(3, 0, "x", 2), (3, 5, "y", 0), (3, 8, "y", 2), (3, 300, "x", 0)]
    assert found() == first + second
    assert found(without=[0]) == second


def test_one_call_reads_neighbours_of_a_shard_and_never_of_two():
    views = [memoryview(bytearray(2)) for _ in range(4)]
    wanted = [(0, 10, views[0]), (0, 15, views[1]), (1, 17, views[2]), (1, 200_000, views[3])]
    calls = [(s, [len(v) for v in vs], at, n) for s, vs, at, n in offsets.runs(wanted)]
    assert calls == [(0, [2, 3, 2], 10, 7), (1, [2], 17, 2), (1, [2], 200_000, 2)]


def test_a_list_of_keys_is_parsed_and_a_damaged_one_line_by_line():
    assert key_lists.parse(b"b/1.png\t12\na\t\n") == (["b/1.png", "a"], ["12", ""])
    assert key_lists.parse(b"") == ([], [])
    assert key_lists.parse(b"b\t1\t2\na\nc\t3") == (["b", "a"], ["1\t2", ""])
