"""The frozen plan, and the order of training: each a pure function of a few integers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reed.cache import plan
from reed.cache.plan import Order
from reed.errors import ReedError


def listing(count, prefix="s"):
    return {f"{prefix}{i:04d}": f"stamp{i}" for i in range(count)}


def freeze(cache, found, **changes):
    settings = {"pipeline": "p", "domain": "image", "source": "src", "shard_size": 4} | changes
    return plan.freeze(cache, found, **settings)


def refused(*parts, call):
    with pytest.raises(ReedError) as error:
        call()
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


# ---- the plan


def test_every_key_is_in_one_shard_and_locate_finds_it(tmp_path):
    frozen = freeze(tmp_path, listing(11))
    assert frozen.shards == 3
    assert [len(frozen.rows(i)) for i in range(3)] == [4, 4, 3]
    keys = [key for i in range(3) for key in frozen.keys_of(i)]
    assert keys == list(frozen.keys) and sorted(keys) == sorted(listing(11))
    for row in range(11):
        shard, place = frozen.locate(row)
        assert frozen.rows(shard)[place] == row


def test_shards_never_cross_a_segment(tmp_path):
    frozen = freeze(tmp_path, listing(11))
    manifest = plan.schema.replace(frozen.manifest, segments=(5, 6))
    split = plan.Plan(manifest, frozen.keys, frozen.stamps)
    assert [split.rows(i) for i in range(split.shards)] == [
        range(0, 4), range(4, 5), range(5, 9), range(9, 11),
    ]  # fmt: skip


def test_the_order_of_the_listing_does_not_matter(tmp_path):
    found = listing(50)
    freeze(tmp_path / "a", found)
    freeze(tmp_path / "b", dict(reversed(found.items())))
    for name in ("keys.txt", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_order_is_mixed_and_depends_on_its_seed(tmp_path):
    one = freeze(tmp_path / "a", listing(200))
    other = freeze(tmp_path / "b", listing(200), order_seed=1)
    assert one.keys != other.keys and sorted(one.keys) == sorted(other.keys)
    jumps = np.abs(np.diff([int(key[1:]) for key in one.keys]))
    assert jumps.mean() > 40  # 1 when sorted, 67 when mixed


def test_a_second_run_reads_the_same_plan_and_writes_nothing(tmp_path):
    first = freeze(tmp_path, listing(9))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert freeze(tmp_path, listing(9)) == first == plan.load(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_keys_and_stamps_of_any_kind_come_back(tmp_path):
    found = {"größe/日本 😀.png": "1 2", " lead": "", "a\u2028b\x85c\x0b": "x", "#": "\u2029"}
    frozen = freeze(tmp_path, found)
    assert dict(zip(frozen.keys, frozen.stamps, strict=True)) == found


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda d: d | {"zz": "1", "y": "1"}, ["2 new (first: 'y')"]),
        (lambda d: {k: v for k, v in d.items() if k > "s0001"}, ["2 gone (first: 's0000')"]),
        (lambda d: d | {"s0003": "other"}, ["1 changed (first: 's0003')"]),
        (
            lambda d: {k: v for k, v in d.items() if k > "s0000"} | {"t": "", "s0005": ""},
            ["1 new (first: 't')", "1 gone (first: 's0000')", "1 changed (first: 's0005')"],
        ),
    ],
)
def test_a_changed_source_is_refused_with_the_difference(tmp_path, change, parts):
    freeze(tmp_path, listing(9))
    refused(str(tmp_path), *parts, "--cache", call=lambda: freeze(tmp_path, change(listing(9))))


@pytest.mark.parametrize("what", ["pipeline", "source"])
def test_another_pipeline_or_source_is_refused(tmp_path, what):
    freeze(tmp_path, listing(9))
    refused(
        f"built with {what}",
        "'other'",
        call=lambda: freeze(tmp_path, listing(9), **{what: "other"}),
    )


@pytest.mark.parametrize("key", ["", "a\tb", "a\nb", "a\rb", "a\0b", "a\udc80b"])
def test_a_key_that_no_file_can_hold_is_refused(tmp_path, key):
    refused(repr(key), "rename it", call=lambda: freeze(tmp_path, {"good": "", key: ""}))
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("stamp", ["a\nb", "\udc80"])
def test_a_stamp_that_no_line_can_hold_is_a_bug_of_the_source(tmp_path, stamp):
    with pytest.raises(AssertionError, match="stamp of 'good'"):
        freeze(tmp_path, {"good": stamp})
    assert not (tmp_path / "manifest.json").exists()


def test_an_empty_source_is_refused(tmp_path):
    refused("'src' has no samples", call=lambda: freeze(tmp_path, {}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "tamper", [lambda b: b[:-3], lambda b: b.replace(b"s0001", b"s0002"), lambda b: b + b"x\t\n"]
)
def test_tampered_keys_are_refused(tmp_path, tamper):
    freeze(tmp_path, listing(9))
    path = tmp_path / "keys.txt"
    path.write_bytes(tamper(path.read_bytes()))
    refused("keys.txt", "sha256", "restore it", call=lambda: plan.load(tmp_path))


def test_missing_keys_are_refused(tmp_path):
    freeze(tmp_path, listing(9))
    (tmp_path / "keys.txt").unlink()
    refused("keys.txt", call=lambda: plan.load(tmp_path))


def test_a_manifest_of_another_count_is_refused(tmp_path, edit_json):
    freeze(tmp_path, listing(9))
    edit_json(tmp_path / "manifest.json", segments=[8])
    refused("9 keys", "says 8", call=lambda: plan.load(tmp_path))


def test_a_folder_without_a_cache_is_refused(tmp_path):
    refused("no cache at", "reed-cache build", call=lambda: plan.load(tmp_path))


def test_a_manifest_of_another_format_is_refused(tmp_path, edit_json):
    freeze(tmp_path, listing(9))
    edit_json(tmp_path / "manifest.json", format=2)
    refused("manifest.json", "format 2", "reads 1", call=lambda: plan.load(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"format": 1}', "\x00"])
def test_a_broken_manifest_is_refused(tmp_path, text):
    freeze(tmp_path, listing(9))
    (tmp_path / "manifest.json").write_text(text)
    refused("manifest.json", call=lambda: plan.load(tmp_path))


def test_a_manifest_with_an_unknown_entry_is_refused(tmp_path, edit_json):
    freeze(tmp_path, listing(9))
    edit_json(tmp_path / "manifest.json", sourse="x")
    refused("manifest.json.sourse", "Did you mean 'source'", call=lambda: plan.load(tmp_path))


def test_the_plan_on_disk_is_what_the_readme_says(tmp_path):
    frozen = freeze(tmp_path, listing(9))
    lines = (tmp_path / "keys.txt").read_text().splitlines()
    assert lines == [f"{k}\t{s}" for k, s in zip(frozen.keys, frozen.stamps, strict=True)]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == {
        "format": 1, "pipeline": "p", "domain": "image", "source": "src", "shard_size": 4,
        "order_seed": 0, "segments": [9], "keys_sha256": frozen.manifest.keys_sha256,
    }  # fmt: skip


# ---- the order


SIZES = [(1, 1), (1, 5), (15, 4), (16, 4), (17, 17), (40, 64), (100, 7), (1000, 256), (333, 1)]


def sequence(order, count):
    """The first `count` records that are seen."""
    steps = -(-count // order.batch)
    return np.concatenate([order.batch_at(step) for step in range(steps)])[:count]


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of 4 blocks of 8 records, so that few records fill many windows."""
    monkeypatch.setattr(plan, "WINDOW", 4)
    monkeypatch.setattr(plan, "BLOCK", 8)


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
    monkeypatch.setattr(plan, "WINDOW", 1)
    without = distinct_classes(Order(128_000, 256, 301), per_class=128)
    assert 200 <= with_window <= 209
    assert without <= 17
