"""Sums per channel: of samples of any length, and without what is missing."""

from __future__ import annotations

import numpy as np
import pytest

from reed.cache.schema import Field
from reed.cache.stats import Stats


def summary(field: Field, *samples) -> tuple[int, list[float], list[float]]:
    running = Stats(field)
    for sample in samples:
        running.add(np.asarray(sample))
    found = running.summary()
    return found["count"], found["sum"], found["sumsq"]


def test_numbers_of_varying_length_are_one_channel():
    field = Field("number", "data", (None,), "int32")
    assert summary(field, [1, 2, 3], [4], []) == (4, [10.0], [30.0])


def test_what_is_missing_counts_for_nothing():
    field = Field("coords", "data", (None, 2, 3), "float32+nan")
    sample = np.array([[[1, 2, 3], [np.nan] * 3], [[np.nan] * 3, [3, 2, 1]]])
    assert summary(field, sample, sample) == (4, [8.0, 8.0, 8.0], [20.0, 16.0, 20.0])
    single = Field("resolution", "data", (), "float32+nan")
    assert summary(single, np.nan, 2.0, np.nan) == (1, [2.0], [4.0])


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("token", (20, 130)),
        ("token", (20, 3)),
        ("token", (20, 1)),
        ("sample", (7,)),
        ("moments", (4, 6, 6)),
        ("moments", (8, 32, 32)),
        ("data", ()),
        ("data", (None,)),
        ("data", (None, 3)),
        ("token", (0, 4)),
    ],
)
def test_batches_of_any_size_have_the_sums_of_their_samples_bit_by_bit(kind, shape):
    field, rng = Field("f", kind, shape), np.random.default_rng(0)
    sizes = tuple(5 if n is None else n for n in shape)
    scale = 10.0 ** rng.integers(-4, 5, (9, *sizes))
    values = (rng.standard_normal((9, *sizes)) * scale).astype(np.float32)
    alone = summary(field, *values)
    for cuts in ([9], [1] * 9, [4, 5]):
        running = Stats(field)
        for part in np.split(values, np.cumsum(cuts)[:-1]):
            running.add_all(part)
        assert tuple(running.summary().values()) == alone
