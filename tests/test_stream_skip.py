"""Damage: an error by default; with `skip`, a counted number of records to do without."""

from __future__ import annotations

import contextlib
import itertools
import os

import numpy as np
import pytest
import torch

from reed import open_cache
from reed.cache import plan
from reed.errors import ReedError

PLACES = {"x": "pixels/x", "target": "tokens/tokens"}


def take(stream, count):
    with contextlib.closing(stream.batches()) as batches:
        return [(s.rows.copy(), stream.decode(s)) for s in itertools.islice(batches, count)]


def damage(cache):
    """Cut the second shard of `tokens` short while keeping its size: some reads now fail."""
    path = cache / "tokens" / "000001.tar"
    size = path.stat().st_size
    os.truncate(path, size // 2)
    return path, size


@pytest.mark.parametrize("threads", [0, 2])
def test_unreadable_records_are_replaced_and_counted(cache, threads):
    whole = open_cache(cache).stream(PLACES, 20, threads=0)
    truth = {row: x for rows, v in take(whole, 3) for row, x in zip(rows, v["target"], strict=True)}
    stream = open_cache(cache).stream(PLACES, 20, threads=threads, skip=1000)
    damage(cache)
    found = take(stream, 3)
    assert 0 < stream.skipped < 16
    rows = np.concatenate([rows for rows, _ in found])
    assert len(rows) == 60 and len(set(rows.tolist())) == 60 - stream.skipped
    for rows, values in found:  # what stands in for a record is a whole pair of another sample
        for row, x in zip(rows, values["target"], strict=True):
            assert torch.equal(x, truth[row])


def test_more_unreadable_records_than_allowed_are_an_error(cache):
    stream = open_cache(cache).stream(PLACES, 20, threads=0, skip=1)
    damage(cache)
    with pytest.raises(ReedError, match=r"000001\.tar, key 'a/sample-.*ends at byte"):
        take(stream, 6)


def test_a_batch_without_one_good_record_is_an_error(cache):
    stream = open_cache(cache).stream(PLACES, 20, threads=0, skip=1000)
    for shard in range(4):
        os.truncate(cache / "tokens" / f"{shard:06d}.tar", 10)
    with pytest.raises(ReedError, match="ends at byte 10"):
        take(stream, 1)


@pytest.mark.parametrize("name", ["000001.tar", "000001.json"])
def test_missing_shards_are_left_out_up_to_the_limit(cache, name):
    (cache / "tokens" / name).unlink()
    planned = plan.load(cache)
    lost = len(planned.rows(1))
    with pytest.raises(ReedError, match="000001|incomplete"):
        open_cache(cache).stream(PLACES, 4, skip=lost - 1)
    stream = open_cache(cache).stream(PLACES, 4, skip=lost)
    assert (stream.samples, stream.left_out) == (60 - lost, lost)
    rows = np.concatenate([rows for rows, _ in take(stream, stream.samples // 4)])
    assert not set(rows.tolist()) & set(planned.rows(1))
