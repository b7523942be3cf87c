"""Mirrored samples: one view is drawn per sample, the same for every column."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest
import torch

from reed import open_cache
from reed.cache import plan, reader

PLACES = {"x": "pixels/x", "target": "tokens/tokens"}


@pytest.fixture(scope="module")
def flipped(fakes, tmp_path_factory):
    return fakes.build(tmp_path_factory.mktemp("views") / "fake", flip=True)


def stored(cache, place, view):
    column, field = open_cache(cache).column_and_field(place)
    state = reader.load_state(cache, column)
    shards = range(plan.load(cache).shards)
    pairs = (
        pair
        for shard in shards
        for pair in reader.records(cache, column, shard, [field], state, view=view)
    )
    return {key: torch.from_numpy(np.asarray(values[field.name])) for key, values in pairs}


def take(stream, start, count):
    with contextlib.closing(stream.batches(start)) as batches:
        return [(s.rows.copy(), stream.decode(s)) for s in itertools.islice(batches, count)]


def test_a_batch_pairs_the_same_view_in_every_column(flipped):
    truth = {name: [stored(flipped, place, v) for v in (0, 1)] for name, place in PLACES.items()}
    keys = plan.load(flipped).keys
    drawn = []
    for rows, values in take(open_cache(flipped).stream(PLACES, 20, threads=2), 0, 9):
        for j, row in enumerate(rows):
            fits = [
                [torch.equal(values[name][j], truth[name][v][keys[row]]) for name in PLACES]
                for v in (0, 1)
            ]
            assert sorted(map(all, fits)) == [False, True], fits
            drawn.append((int(row), fits.index([True, True])))
    share = np.mean([view for _, view in drawn])
    assert 0.35 < share < 0.65
    by_sample = [{view for row, view in drawn if row == sample} for sample in range(60)]
    assert {frozenset(views) for views in by_sample} >= {frozenset({0, 1})}


def test_views_do_not_depend_on_ranks_or_on_where_a_run_resumes(flipped):
    whole = take(open_cache(flipped).stream(PLACES, 20), 0, 6)
    ranks = [take(open_cache(flipped).stream(PLACES, 20, rank=r, world=2), 3, 3) for r in range(2)]
    for (_, want), (_, one), (_, two) in zip(whole[3:], *ranks, strict=True):
        assert all(torch.equal(want[name], torch.cat([one[name], two[name]])) for name in PLACES)
