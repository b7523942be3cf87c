"""Stage two: the same batches however they are read, and an error for whatever is amiss."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil

import numpy as np
import pytest
import torch

from reed import open_cache
from reed.cache import plan, reader, schema
from reed.cache import stream as stream_module
from reed.cache.codecs import codecs
from reed.errors import ReedError

PLACES = {"x": "pixels/x", "label": "pixels/label", "target": "tokens/tokens", "m": "tokens/mean"}


def take(stream, start, count):
    """The first batches from a step on, decoded: a list of (step, rows, values)."""
    with contextlib.closing(stream.batches(start)) as batches:
        stored = itertools.islice(batches, count)
        return [(s.step, s.rows.copy(), stream.decode(s)) for s in stored]


def assert_equal(one, other):
    assert len(one) == len(other)
    for (step, rows, values), (step_2, rows_2, values_2) in zip(one, other, strict=True):
        assert step == step_2 and np.array_equal(rows, rows_2)
        assert values.keys() == values_2.keys()
        assert all(torch.equal(values[name], values_2[name]) for name in values)


def joined(parts):
    """The global batches that ranks read together."""
    for ranks in zip(*parts, strict=True):
        steps, rows, values = zip(*ranks, strict=True)
        assert len(set(steps)) == 1
        yield (
            steps[0],
            np.concatenate(rows),
            {k: torch.cat([v[k] for v in values]) for k in values[0]},
        )


def refused(*parts, call):
    with pytest.raises(ReedError) as error:
        call()
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def reference(cache, place):
    """Every record of a field, decoded one at a time: key -> array."""
    column, field = open_cache(cache).column_and_field(place)
    state = reader.load_state(cache, column)
    shards = range(plan.load(cache).shards)
    found = (pair for i in shards for pair in reader.records(cache, column, i, [field], state))
    return {key: values[field.name] for key, values in found}


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(scope="module")
def straight(whole):
    """Twelve global batches of 24, read in place: more than four epochs of 60."""
    return take(open_cache(whole).stream(PLACES, 24, seed=5, threads=0), 0, 12)


# ---- the same batches


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_ranks_and_threads_do_not_change_a_batch(whole, straight, world, threads):
    streams = [
        open_cache(whole).stream(PLACES, 24, seed=5, rank=rank, world=world, threads=threads)
        for rank in range(world)
    ]
    parts = [take(stream, 0, 12) for stream in streams]
    assert all(len(rows) == 24 // world for part in parts for _, rows, _ in part)
    assert_equal(list(joined(parts)), straight)


@pytest.mark.parametrize("ahead", [1, 2, 7])
def test_reading_further_ahead_does_not_change_a_batch(whole, straight, ahead):
    assert_equal(take(open_cache(whole).stream(PLACES, 24, seed=5, ahead=ahead), 0, 12), straight)


@pytest.mark.parametrize("start", [0, 1, 4, 5, 7, 11])
@pytest.mark.parametrize(("world", "threads"), [(1, 2), (3, 0)])
def test_a_run_resumes_at_any_step_with_any_number_of_ranks(whole, straight, start, world, threads):
    streams = [
        open_cache(whole).stream(PLACES, 24, seed=5, rank=rank, world=world, threads=threads)
        for rank in range(world)
    ]
    parts = [take(stream, start, 12 - start) for stream in streams]
    assert_equal(list(joined(parts)), straight[start:])


def test_one_stream_can_be_begun_again(whole, straight):
    stream = open_cache(whole).stream(PLACES, 24, seed=5)
    for start in (3, 0, 8):
        assert_equal(take(stream, start, 4), straight[start : start + 4])


def test_each_sample_is_seen_once_per_epoch(whole, straight):
    rows = np.concatenate([rows for _, rows, _ in straight])
    for epoch in (rows[:60], rows[60:120]):
        assert np.array_equal(np.sort(epoch), np.arange(60))


def test_a_batch_that_does_not_divide_the_epoch_loses_nothing(whole):
    found = take(open_cache(whole).stream({"x": "pixels/x"}, 25, threads=2), 0, 12)
    rows = np.concatenate([rows for _, rows, _ in found])
    for epoch in range(5):
        assert np.array_equal(np.sort(rows[epoch * 60 : epoch * 60 + 60]), np.arange(60))


def test_a_batch_larger_than_the_data_repeats_it(whole):
    ((_, rows, values),) = take(open_cache(whole).stream({"x": "pixels/x"}, 150), 0, 1)
    assert np.bincount(rows).tolist().count(2) == 30 and len(values["x"]) == 150
    truth = reference(whole, "pixels/x")
    keys = plan.load(whole).keys
    assert all(
        np.array_equal(x, truth[keys[row]]) for row, x in zip(rows, values["x"], strict=True)
    )


def test_seeds_give_other_orders(whole, straight):
    other = take(open_cache(whole).stream(PLACES, 24, seed=6), 0, 12)
    assert not any(np.array_equal(a[1], b[1]) for a, b in zip(straight, other, strict=True))


def test_more_shards_than_may_be_open(fakes, tmp_path, monkeypatch):
    """100 shards of one column, of which at most 7 stay open."""
    monkeypatch.setattr(stream_module.files, "most_open", lambda: 7)
    cache = fakes.build(tmp_path, ["pixels"], fakes.Source(100), shard_size=1)
    before = open_files()
    ((_, rows, values),) = take(open_cache(cache).stream({"x": "pixels/x"}, 100), 0, 1)
    assert open_files() == before
    truth, keys = reference(cache, "pixels/x"), plan.load(cache).keys
    for row, x in zip(rows, values["x"], strict=True):
        assert np.array_equal(x, truth[keys[row]])


# ---- what is in a batch


@pytest.mark.parametrize("name", sorted(PLACES))
def test_decoding_a_batch_is_decoding_each_record(whole, straight, name):
    truth, keys = reference(whole, PLACES[name]), plan.load(whole).keys
    for _, rows, values in straight:
        want = np.stack([truth[keys[row]] for row in rows])
        assert values[name].dtype == (torch.int64 if name == "label" else torch.float32)
        assert np.array_equal(values[name].numpy(), want)


def test_a_batch_holds_what_the_codec_decodes_from_what_it_encoded(fakes, whole, straight):
    source, keys = fakes.Source(), plan.load(whole).keys
    column = schema.load_column(whole, "tokens")
    state = reader.load_state(whole, column)["tokens"]
    codec = codecs.codec_of(column.field("tokens"))
    _, rows, values = straight[3]
    for row, got in zip(rows, values["target"], strict=True):
        exact, _ = fakes.Tokens().one(source.read(keys[row]))
        parts = [torch.from_numpy(part)[None] for part in codec.encode(exact, state)]
        want = codec.decode(parts, {k: torch.from_numpy(v) for k, v in state.items()})[0]
        assert torch.equal(got, want)


def test_keys_at_names_the_samples_of_this_rank(whole, straight):
    keys = plan.load(whole).keys
    for rank in range(2):
        stream = open_cache(whole).stream(PLACES, 24, seed=5, rank=rank, world=2)
        for step, rows, _ in straight:
            mine = rows[rank * 12 : rank * 12 + 12]
            assert stream.keys_at(step) == [keys[row] for row in mine]


def test_one_field_under_two_names(whole, straight):
    places = {"a": "pixels/x", "b": "pixels/x", "label": "pixels/label"}
    found = take(open_cache(whole).stream(places, 24, seed=5), 0, 6)
    for (_, _, values), (_, _, want) in zip(found, straight[:6], strict=True):
        assert torch.equal(values["a"], want["x"]) and torch.equal(values["b"], want["x"])
        assert torch.equal(values["label"], want["label"])


def test_a_stream_describes_its_fields(whole):
    stream = open_cache(whole).stream(PLACES, 12)
    assert stream.field("target").codec == "int8" and stream.field("target").shape == (6, 8)
    assert stream.field("x").kind == "data"
    assert (stream.samples, stream.left_out) == (60, 0)


@pytest.mark.parametrize(("threads", "ahead"), [(0, 0), (0, 3), (1, 1), (1, 2), (3, 4)])
def test_a_batch_stays_until_the_one_after_next_is_asked_for(whole, straight, threads, ahead):
    stream = open_cache(whole).stream(PLACES, 24, seed=5, threads=threads, ahead=ahead)
    with contextlib.closing(stream.batches()) as batches:
        held = next(batches)
        for step in range(1, 12):
            after = next(batches)
            assert_equal([(held.step, held.rows, stream.decode(held))], straight[step - 1 : step])
            held = after


def test_a_batch_is_views_of_buffers_that_are_used_again(whole):
    stream = open_cache(whole).stream(PLACES, 12, threads=2, ahead=3)
    with contextlib.closing(stream.batches()) as batches:
        addresses = {next(batches).parts["x"][0].data_ptr() for _ in range(20)}
    assert len(addresses) == 4


def test_a_decoded_batch_is_never_overwritten(whole, straight):
    """Also where the codec keeps values as they are and the device is the host."""
    stream = open_cache(whole).stream(PLACES, 24, seed=5, threads=0, ahead=0)
    assert_equal(take(stream, 0, 12), straight)
    with contextlib.closing(stream.batches()) as batches:
        stored = next(batches)
        label, place = stream.decode(stored)["label"], stored.parts["label"][0]
    assert label.data_ptr() != place.data_ptr()


@pytest.mark.parametrize("threads", [0, 2])
def test_an_iteration_leaves_no_file_open(whole, threads):
    stream = open_cache(whole).stream(PLACES, 12, threads=threads)
    take(stream, 0, 8)
    before = open_files()
    for _ in range(3):
        take(stream, 0, 8)
        take(open_cache(whole).stream(PLACES, 12, threads=threads), 0, 8)
    assert open_files() == before


@pytest.mark.gpu
def test_a_busy_device_gets_every_batch_whole(whole, straight):
    """Copies from pinned buffers wait behind the work that is queued; readers wait for them."""
    stream = open_cache(whole).stream(PLACES, 24, seed=5, threads=2, pin=True)
    square = torch.randn(8192, 8192, device="cuda")
    with contextlib.closing(stream.batches()) as batches:
        found = []
        for stored in itertools.islice(batches, 12):
            for _ in range(20):
                square = square @ square * 1e-2
            found.append((stored.step, stored.rows.copy(), stream.decode(stored, "cuda")))
    assert_equal(
        [(s, r, {k: v.cpu() for k, v in values.items()}) for s, r, values in found], straight
    )


# ---- joined columns


@pytest.fixture
def torn(fakes, tmp_path):
    """A cache whose columns left out different samples: 3 of pixels, 140 of tokens, of 300."""
    whole = fakes.Source(300)
    fakes.build(tmp_path, ["pixels"], fakes.Source(300, bad=(3,)), shard_size=100)
    fakes.build(tmp_path, ["tokens"], fakes.Source(300, bad=(140, 299)), shard_size=100)
    return tmp_path, whole


def test_columns_are_joined_by_key(fakes, torn):
    cache, source = torn
    stream = open_cache(cache).stream({"x": "pixels/x", "m": "tokens/mean"}, 27, threads=2)
    assert (stream.samples, stream.left_out) == (297, 3)
    keys, seen = plan.load(cache).keys, []
    for _, rows, values in take(stream, 0, 11):
        seen += [keys[row] for row in rows]
        for row, x, mean in zip(rows, values["x"], values["m"], strict=True):
            pixels = source.read(keys[row])["pixels"]
            assert np.array_equal(x, pixels.astype(np.float16))
            assert np.allclose(mean, fakes.Tokens().one({"pixels": pixels})[1], rtol=2**-8)
    bad = {source.keys[i] for i in (3, 140, 299)}
    assert sorted(seen) == sorted(set(source.keys) - bad)


def test_what_one_column_left_out_is_in_batches_of_the_other(torn):
    cache, _ = torn
    assert open_cache(cache).stream({"x": "pixels/x"}, 10).left_out == 1
    assert open_cache(cache).stream({"m": "tokens/mean"}, 10).left_out == 2


def test_no_common_sample_is_refused(fakes, tmp_path):
    fakes.build(tmp_path, ["pixels"], fakes.Source(2, bad=(0,)))
    fakes.build(tmp_path, ["tokens"], fakes.Source(2, bad=(1,)))
    places = {"x": "pixels/x", "m": "tokens/mean"}
    refused("no sample is in all", call=lambda: open_cache(tmp_path).stream(places, 1))


# ---- refused


@pytest.mark.parametrize(
    ("place", "parts"),
    [
        ("pixel/x", ["no column 'pixel'", "Did you mean 'pixels'?"]),
        ("pixels/y", ["column 'pixels' has no field 'y'", "label, x"]),
        ("pixels", ["'pixels' names a column", "pixels/x, pixels/label"]),
        ("../fake/pixels/x", ["no column '..'"]),
        ("caption/text", ["caption/text is text"]),
    ],
)
def test_a_place_that_no_net_can_read_is_refused(whole, place, parts):
    refused(*parts, call=lambda: open_cache(whole).stream({"x": place}, 4))


def test_an_empty_batch_is_refused(whole):
    parts = "the batch is 0; give its number of samples, such as batch=256"
    refused(parts, call=lambda: open_cache(whole).stream(PLACES))
    refused("the batch is -1", call=lambda: open_cache(whole).stream(PLACES, -1))


def test_a_batch_that_ranks_cannot_share_is_refused(whole):
    refused(
        "(10) is not a multiple of the 3",
        call=lambda: open_cache(whole).stream(PLACES, 10, world=3),
    )


def test_an_incomplete_column_is_refused_with_the_command_that_ends_it(cache):
    (cache / "tokens" / "000002.json").unlink()
    refused(
        "column 'tokens'",
        "1 of 4 shards are missing (first: 2)",
        f"reed-cache build fake --encoder tokens --cache {cache}",
        call=lambda: open_cache(cache).stream(PLACES, 4),
    )
    assert open_cache(cache).stream({"x": "pixels/x"}, 4).samples == 60


def test_a_missing_file_is_refused(cache):
    (cache / "tokens" / "000001.tar").unlink()
    refused(
        "tokens/000001.tar is missing", "verify", call=lambda: open_cache(cache).stream(PLACES, 4)
    )


def test_a_truncated_file_is_refused(cache):
    os.truncate(cache / "tokens" / "000001.tar", 5000)
    refused(
        "tokens/000001.tar has 5000 bytes, its marker says",
        "verify",
        call=lambda: open_cache(cache).stream(PLACES, 4),
    )


def test_a_broken_marker_is_refused(cache):
    (cache / "tokens" / "000001.json").write_text("{")
    refused("tokens/000001.json", call=lambda: open_cache(cache).stream(PLACES, 4))


def test_a_marker_of_another_shard_is_refused(cache):
    shutil.copy(cache / "tokens" / "000000.json", cache / "tokens" / "000001.json")
    refused("is the marker of 'tokens' shard 0", call=lambda: open_cache(cache).stream(PLACES, 4))


def test_a_marker_with_other_keys_is_refused(cache, edit_json):
    path = cache / "tokens" / "000001.json"
    keys = schema.load_marker(cache, schema.load_column(cache, "tokens"), 1).keys
    edit_json(path, keys=[*reversed(keys)])
    refused(
        "column 'tokens' shard 1",
        "not the planned",
        call=lambda: open_cache(cache).stream(PLACES, 4),
    )


def test_a_changed_calibration_is_refused(cache):
    with open(cache / "tokens" / "calibration.npz", "r+b") as file:
        file.write(b"x")
    refused("calibration.npz has sha256", call=lambda: open_cache(cache).stream(PLACES, 4))


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_shard_that_breaks_while_training_is_named(cache, threads, damage):
    stream = open_cache(cache).stream(PLACES, 60, threads=threads)
    path = cache / "tokens" / "000001.tar"
    if damage == "cut":
        os.truncate(path, 9000)
        parts = ["000001.tar", "key 'a/sample-", "ends at byte 9000", f"verify {cache}"]
    else:
        path.unlink()
        parts = ["cannot open shard", "000001.tar"]
    refused(*parts, call=lambda: take(stream, 0, 3))
