"""The order of training: each batch is a pure function of a few integers."""

from __future__ import annotations

import numpy as np
import pytest

from reed.cache import order as order_of_training
from reed.cache.order import Order, RaggedOrder
from reed.errors import ReedError

SIZES = [(1, 1), (1, 5), (15, 4), (16, 4), (17, 17), (40, 64), (100, 7), (1000, 256), (333, 1)]


def sequence(order, count):
    """The first `count` records that are seen."""
    steps = -(-count // order.batch)
    return np.concatenate([order.batch_at(step) for step in range(steps)])[:count]


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of 4 blocks of 8 records, so that few records fill many windows."""
    monkeypatch.setattr(order_of_training, "WINDOW", 4)
    monkeypatch.setattr(order_of_training, "BLOCK", 8)


def assert_once_per_epoch(records, batch, seed):
    epochs = sequence(Order(records, batch, seed), 3 * records).reshape(3, records)
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), np.arange(records))
    assert records < 10 or not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize(("records", "batch"), SIZES)
def test_each_record_is_seen_once_per_epoch(records, batch):
    assert_once_per_epoch(records, batch, seed=11)


@pytest.mark.parametrize("records", [31, 32, 33, 64, 65, 257, 1000, 1001, 1023])
@pytest.mark.parametrize("batch", [1, 13, 64])
def test_each_record_is_seen_once_per_epoch_over_many_windows(small_windows, records, batch):
    for seed in (100, 101, 102):  # the short block falls into another window
        assert_once_per_epoch(records, batch, seed)


def test_each_record_is_seen_once_over_two_windows_of_true_size():
    assert_once_per_epoch(20_001, 256, seed=12)


def test_a_batch_is_a_function_of_its_step_alone(small_windows):
    order = Order(500, 48, 200)
    straight = [order.batch_at(step) for step in range(40)]
    for step in np.random.default_rng(0).permutation(40):
        assert np.array_equal(Order(500, 48, 200).batch_at(int(step)), straight[step])
    assert all(len(batch) == 48 and batch.dtype == np.int64 for batch in straight)


def test_a_step_far_ahead_costs_nothing():
    order = Order(1000, 64, 201)
    assert sorted(set(order.batch_at(10**9).tolist())) == sorted(order.batch_at(10**9).tolist())


def test_the_size_of_the_batch_does_not_change_the_order():
    wide, narrow = sequence(Order(300, 100, 7), 900), sequence(Order(300, 9, 7), 900)
    assert np.array_equal(wide, narrow)


def test_seeds_and_epochs_differ():
    a, b = sequence(Order(400, 10, 1), 800), sequence(Order(400, 10, 2), 800)
    for one, other in [(a[:400], a[400:]), (a[:400], b[:400]), (a[400:], b[400:])]:
        assert (one == other).mean() < 0.05


def test_epochs_mix_other_blocks_in_a_window(small_windows):
    """Else the same 32 of 640 records would meet in every epoch."""
    order = sequence(Order(640, 32, 203), 1280)
    first = [set(order[start : start + 32]) for start in range(0, 1280, 32)]
    assert max(len(one & other) for one in first[:20] for other in first[20:]) < 32
    assert np.mean([len(one & other) for one in first[:20] for other in first[20:]]) < 2


def distinct_classes(order, per_class, batches=60):
    """The mean number of classes in a batch, of records that lie class by class."""
    steps = np.linspace(0, order.records // order.batch - 1, batches).astype(int)
    return np.mean([len(set(order.batch_at(step) // per_class)) for step in steps])


def test_batches_of_class_sorted_records_mix_the_classes(monkeypatch):
    """The row of the design: 204 of an ideal 226 classes in a batch of 256 of 1,000 classes."""
    order = Order(128_000, 256, 300)
    with_window = distinct_classes(order, per_class=128)
    monkeypatch.setattr(order_of_training, "WINDOW", 1)
    without = distinct_classes(Order(128_000, 256, 301), per_class=128)
    assert 200 <= with_window <= 209
    assert without <= 17


# ---- batches under a token budget


LENGTHS = np.random.default_rng(0).integers(1, 70, size=500)


@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[:1], np.full(33, 12), np.arange(1, 64)])
@pytest.mark.parametrize("tokens", [72, 256, 100_000])
def test_each_ragged_record_is_seen_once_per_epoch_within_the_budget(lengths, tokens):
    order = RaggedOrder(lengths, tokens, seed=3)
    epochs = []
    for epoch in range(3):
        steps = range(epoch * order.steps, (epoch + 1) * order.steps)
        batches = [order.batch_at(step) for step in steps]
        for step, batch in zip(steps, batches, strict=True):
            padded = order.length_at(step)
            assert lengths[batch].max() <= padded and len(batch) * padded <= tokens
            assert any(len(batch) <= rows and padded == long for rows, long in order.shapes)
        epochs.append(np.concatenate(batches))
        assert np.array_equal(np.sort(epochs[-1]), np.arange(len(lengths)))
    assert len(lengths) < 10 or not np.array_equal(epochs[0], epochs[1])


def test_a_ragged_batch_is_a_function_of_its_step_alone():
    straight = RaggedOrder(LENGTHS, 256, seed=4)
    for step in (0, 7, 3 * straight.steps + 5, 10**6):
        assert np.array_equal(
            RaggedOrder(LENGTHS, 256, seed=4).batch_at(step), straight.batch_at(step)
        )


def test_ragged_batches_pad_little():
    order = RaggedOrder(LENGTHS, 1024, seed=5)
    padded = sum(order.length_at(s) * len(order.batch_at(s)) for s in range(order.steps))
    assert LENGTHS.sum() / padded > 0.8


def test_a_sample_over_the_budget_is_refused():
    with pytest.raises(ReedError, match="longest sample has 80 tokens, the budget is 64"):
        RaggedOrder(np.array([3, 80, 9]), 64, seed=0)


# ---- one record of each group


GROUPS = np.random.default_rng(1).integers(0, 120, size=500) * 7 - 3


def test_every_group_is_seen_once_per_epoch_and_its_members_vary():
    order, seen = RaggedOrder(LENGTHS, 256, seed=6, groups=GROUPS), []
    assert order.records == len(set(GROUPS.tolist()))
    for epoch in range(40):
        steps = range(epoch * order.steps, (epoch + 1) * order.steps)
        found = np.concatenate([order.batch_at(step) for step in steps])
        assert sorted(GROUPS[found].tolist()) == sorted(set(GROUPS.tolist()))
        seen.append(found)
    every = set(np.concatenate(seen).tolist())
    assert len(every) > 0.99 * len(LENGTHS)  # of 4 in a group, 40 draws miss one rarely
    largest = np.bincount(GROUPS + 3).argmax() - 3
    times = np.bincount(np.concatenate(seen))[GROUPS == largest]
    assert times.sum() == 40 and times.max() <= 15  # about even


def test_a_grouped_batch_is_within_the_budget_and_pads_to_what_was_drawn():
    order = RaggedOrder(LENGTHS, 256, seed=6, groups=GROUPS)
    rows, longest = max(r for r, _ in order.shapes), max(n for _, n in order.shapes)
    for step in range(5 * order.steps):
        batch, padded = order.batch_at(step), order.length_at(step)
        assert len(batch) * padded <= 256 and padded % 8 == 0
        assert 0 <= padded - LENGTHS[batch].max() < 8
        assert len(batch) <= rows and padded <= longest
        assert any(len(batch) <= r and padded <= n for r, n in order.shapes)


def test_a_grouped_step_far_ahead_is_a_function_of_its_number():
    straight = RaggedOrder(LENGTHS, 256, seed=7, groups=GROUPS)
    walked = [straight.batch_at(step) for step in range(3 * straight.steps)]
    for step in (0, 9, 3 * straight.steps - 1):
        again = RaggedOrder(LENGTHS, 256, seed=7, groups=GROUPS).batch_at(step)
        assert np.array_equal(again, walked[step])
    assert len(straight.batch_at(10**9))


def test_groups_of_one_are_the_plain_order():
    plain, single = RaggedOrder(LENGTHS, 256, 8), RaggedOrder(LENGTHS, 256, 8, np.arange(500))
    for step in range(2 * plain.steps):
        assert np.array_equal(plain.batch_at(step), single.batch_at(step))
        assert plain.length_at(step) >= single.length_at(step)
