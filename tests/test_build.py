"""Stage one: what a build writes, and that killing, repeating or splitting it changes nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from reed.build import column, engines
from reed.build import shard as build
from reed.build.engines import Share
from reed.build.shard import BadSample
from reed.cache import reader, schema, verify
from reed.cache.schema import Field
from reed.errors import ReedError


@pytest.fixture(scope="module")
def want(fakes, whole):
    """The files of an uninterrupted build."""
    return fakes.tree(whole)


def refused(*parts, call):
    with pytest.raises(ReedError) as error:
        call()
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def stamps(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files}


def stored(cache, name):
    """Every record of a column: key -> {field: value}."""
    opened = schema.load_column(cache, name)
    state = reader.load_state(cache, opened)
    shards = len(list((cache / name).glob("[0-9]*.json")))
    return dict(
        pair
        for shard in range(shards)
        for pair in reader.records(cache, opened, shard, opened.fields, state)
    )


# ---- what is written


def test_a_build_holds_what_the_encoders_gave(fakes, whole):
    source = fakes.Source()
    pixels, captions, tokens = (stored(whole, name) for name in ("pixels", "caption", "tokens"))
    assert set(pixels) == set(captions) == set(tokens) == set(source.keys)
    for key in source.keys:
        sample = source.read(key)
        assert np.array_equal(pixels[key]["x"], sample["pixels"].astype(np.float16))
        assert pixels[key]["label"] == sample["label"]
        assert captions[key]["text"] == sample["sentence"]
        exact, mean = fakes.Tokens().one(sample)
        cosine = (tokens[key]["tokens"] * exact).sum(-1)
        cosine /= np.linalg.norm(exact, axis=-1) * np.linalg.norm(tokens[key]["tokens"], axis=-1)
        assert cosine.min() > 0.99
        assert np.allclose(tokens[key]["mean"], mean, rtol=2**-8)


def test_records_follow_the_plan_and_shards_have_its_sizes(fakes, whole):
    frozen = fakes.freeze(whole, fakes.Source())
    for name in ("pixels", "words"):
        opened = schema.load_column(whole, name)
        markers = [schema.load_marker(whole, opened, shard) for shard in range(frozen.shards)]
        assert [marker.keys for marker in markers] == [frozen.keys_of(i) for i in range(4)]
        assert [len(marker.keys) for marker in markers] == [16, 16, 16, 12]


def test_a_column_reads_the_text_of_another(fakes, whole):
    words, source = stored(whole, "words"), fakes.Source()
    for key in source.keys:
        exact = [source.read(key)["sentence"].count(letter) for letter in "aeibü"]
        assert np.allclose(words[key]["counts"], exact, atol=0.02 * max(exact))
    inputs = schema.load_column(whole, "words").inputs
    assert inputs == {"caption": schema.load_column(whole, "caption").identity()}


@pytest.mark.parametrize(("name", "field", "axis"), [("pixels", "x", 1), ("tokens", "tokens", -1)])
def test_statistics_are_those_of_numpy(fakes, whole, name, field, axis):
    source, encoder = fakes.Source(), fakes.make(name)
    opened = schema.load_column(whole, name)
    for shard in range(4):
        marker = schema.load_marker(whole, opened, shard)
        values = encoder.encode([source.read(key) for key in marker.keys])[field]
        flat = np.moveaxis(np.stack(values).astype(np.float64), axis, -1)
        flat = flat.reshape(-1, flat.shape[-1])
        found = marker.stats[field]
        assert found["count"] == len(flat)
        assert np.allclose(found["sum"], flat.sum(0)) and len(found["sum"]) == flat.shape[1]
        assert np.allclose(found["sumsq"], (flat**2).sum(0))


def test_labels_and_text_have_no_statistics(whole):
    pixels, caption = (schema.load_column(whole, name) for name in ("pixels", "caption"))
    assert set(schema.load_marker(whole, pixels, 0).stats) == {"x"}
    assert schema.load_marker(whole, caption, 0).stats == {}


def test_ragged_fields_are_stored_and_read(fakes, tmp_path):
    class Letters(fakes.Encoder):
        reads = ("sentence",)
        fields = (Field("code", "token", (None, 2), "int8"), Field("raw", "token", (None, 1)))

        def one(self, sample):
            code = np.frombuffer(sample["sentence"].encode(), np.uint8).astype(np.float32)
            return np.stack([code, 2 * code], 1), code[:, None]

    source = fakes.Source(20)
    job = fakes.job(tmp_path, "letters", source, Letters())
    engines.run(job, Share(), progress=False)
    for key, values in stored(tmp_path, "letters").items():
        want = np.frombuffer(source.read(key)["sentence"].encode(), np.uint8)[:, None]
        assert np.array_equal(values["raw"], want)
        assert np.allclose(values["code"], want * [1, 2], rtol=0.01)


# ---- again, killed, split


def test_a_second_build_touches_nothing(fakes, cache, want):
    before = stamps(cache)
    fakes.build(cache)
    assert stamps(cache) == before and fakes.tree(cache) == want


def test_a_second_build_encodes_nothing(fakes, cache, monkeypatch):
    monkeypatch.setattr(fakes.Encoder, "encode", lambda *_: pytest.fail("it encoded"))
    fakes.build(cache)


def test_what_a_killed_writer_left_beside_a_good_shard_is_removed(fakes, cache, want):
    for name in ("tokens/.000001.tar.1-ab.tmp", "tokens/.000001.json.1-ab.tmp", ".keys.txt.1.tmp"):
        (cache / name).write_bytes(b"half")
    fakes.build(cache)
    assert fakes.tree(cache) == want


@pytest.mark.parametrize("damage", ["no marker", "no shard", "short shard", "broken marker"])
def test_what_is_damaged_is_built_again(fakes, cache, want, damage):
    shard, marker = cache / "tokens" / "000002.tar", cache / "tokens" / "000002.json"
    if "no" in damage:
        (marker if "marker" in damage else shard).unlink()
    elif damage == "short shard":
        os.truncate(shard, 1000)
    else:
        marker.write_text("{")
    fakes.build(cache)
    assert fakes.tree(cache) == want


def test_adding_a_column_touches_no_byte(fakes, tmp_path, want):
    cache = fakes.build(tmp_path / "fake", ["pixels"])
    before = stamps(cache)
    fakes.build(cache, ["words", "tokens"])
    assert before.items() <= stamps(cache).items()
    assert fakes.tree(cache) == want


def test_the_order_in_which_columns_are_asked_for_does_not_matter(fakes, tmp_path, want):
    assert fakes.tree(fakes.build(tmp_path / "fake", ["words", "tokens", "pixels"])) == want


def test_shards_built_in_any_order_and_twice_are_the_same(fakes, tmp_path, want):
    fakes.build(tmp_path, ["pixels", "caption", "words"])
    job = fakes.job(tmp_path, "tokens")
    for shard in (3, 1, 0, 2, 1, 3):
        build.build_shard(job, shard)
    assert fakes.tree(tmp_path) == want


def test_dying_before_or_after_any_step_leaves_no_trace(fakes_path, tmp_path):
    """Fault injection: the process dies at each call that touches a name; then a build resumes."""
    done = subprocess.run(
        [sys.executable, fakes_path, "crash", tmp_path], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def start(fakes_path, cache, pause="0", rank=0, world=1):
    """A build in a process of its own, begun."""
    process = subprocess.Popen(
        [sys.executable, fakes_path, pause, cache],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(world)},
    )
    assert process.stdout.readline() == "started\n"
    return process


def finish(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


def killed_builds(fakes_path, cache, kills):
    """SIGKILL a build `kills` times at random moments, then let one finish."""
    pauses = random.Random(kills)
    for _ in range(kills):
        process = start(fakes_path, cache, "0.005")
        time.sleep(pauses.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(start(fakes_path, cache))


def test_a_killed_build_resumes_to_the_same_bytes(fakes, fakes_path, tmp_path, want):
    killed_builds(fakes_path, tmp_path / "fake", 3)
    assert fakes.tree(tmp_path / "fake") == want


@pytest.mark.slow
def test_builds_killed_twenty_times_resume_to_the_same_bytes(fakes, fakes_path, tmp_path, want):
    for kills in (2, 5, 13):
        killed_builds(fakes_path, tmp_path / str(kills), kills)
        assert fakes.tree(tmp_path / str(kills)) == want


def test_two_builds_at_once_give_the_same_bytes(fakes, fakes_path, tmp_path, want):
    cache = tmp_path / "fake"
    finish(*[start(fakes_path, cache, "0.002") for _ in range(2)])
    assert fakes.tree(cache) == want


def test_ranks_at_once_give_the_same_bytes(fakes, fakes_path, tmp_path, want):
    cache = tmp_path / "fake"
    finish(*[start(fakes_path, cache, "0.002", rank, 3) for rank in range(3)])
    assert fakes.tree(cache) == want


def test_ranks_one_after_another_give_the_same_bytes(fakes, tmp_path, want):
    """As the jobs of an array run: the last rank alone, also columns that read other columns."""
    for rank in (2, 1, 0):
        fakes.build(tmp_path, share=Share(rank, 3))
    assert fakes.tree(tmp_path) == want


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_split_the_shards(world):
    parts = [Share(rank, world).of(range(5)) for rank in range(world)]
    assert sorted(sum(parts, [])) == list(range(5))


def test_the_share_of_a_launch_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert engines.launched_share() == Share(0, 1)
    monkeypatch.setenv("RANK", "2")
    refused("RANK=2", "WORLD_SIZE=1", call=engines.launched_share)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert engines.launched_share() == Share(2, 4)
    monkeypatch.setenv("RANK", "x")
    refused("RANK and WORLD_SIZE must be integers", call=engines.launched_share)


def test_an_interrupted_input_is_finished_for_the_column_that_reads_it(fakes, tmp_path):
    fakes.build(tmp_path, ["caption"])
    (tmp_path / "caption" / "000003.json").unlink()
    assert list(column.with_inputs(tmp_path, ["words"], fakes.make)) == ["caption", "words"]
    fakes.build(tmp_path, ["words"])
    assert len(stored(tmp_path, "words")) == 60


def test_a_complete_input_is_not_even_loaded(fakes, whole):
    assert list(column.with_inputs(whole, ["words"], fakes.make)) == ["words"]


# ---- bad samples


def test_bad_samples_are_left_out_with_their_reason(fakes, tmp_path):
    source = fakes.Source(300, bad=(7,))
    fakes.build(tmp_path, source=source, shard_size=150)
    bad = source.keys[7]
    for name, reason in [("pixels", "the file is empty"), ("words", "not in column 'caption'")]:
        opened = schema.load_column(tmp_path, name)
        failed = [schema.load_marker(tmp_path, opened, shard).failed for shard in range(2)]
        assert {bad: reason} in failed and {} in failed
        records = stored(tmp_path, name)
        assert set(records) == set(source.keys) - {bad}
    for key, values in stored(tmp_path, "pixels").items():
        assert np.array_equal(values["x"], source.read(key)["pixels"].astype(np.float16))


def test_a_sample_that_the_encoder_refuses_is_left_out_alone(fakes, tmp_path):
    class Picky(fakes.Pixels):
        def encode(self, samples):
            if any(sample["label"] == 3 for sample in samples):
                raise BadSample("it is a three")
            return super().encode(samples)

    source = fakes.Source(12)
    engines.run(fakes.job(tmp_path, "pixels", source, Picky()), Share(), progress=False)
    assert set(stored(tmp_path, "pixels")) == set(source.keys) - {source.keys[3]}
    marker = schema.load_marker(tmp_path, schema.load_column(tmp_path, "pixels"), 0)
    assert marker.failed == {source.keys[3]: "it is a three"}


def test_more_than_one_percent_of_bad_samples_stops_the_build(fakes, tmp_path):
    source = fakes.Source(150, bad=(3, 4))
    refused(
        "column 'pixels': 2 of the",
        "samples so far failed",
        "more than 1 % of the 150",
        "the file is empty",
        "--retry-failed",
        call=lambda: fakes.build(tmp_path, ["pixels"], source, shard_size=150),
    )
    assert [path.name for path in (tmp_path / "pixels").iterdir()] == ["column.json"]


def test_a_source_without_a_good_sample_cannot_calibrate(fakes, tmp_path):
    refused(
        "column 'tokens': 1 of the 1 sample so far failed",
        "the file is empty",
        call=lambda: fakes.build(tmp_path, ["tokens"], fakes.Source(1, bad=(0,))),
    )
    assert not (tmp_path / "tokens").exists()


# ---- what an encoder may not do


def wrong(fakes, what):
    """A Tokens encoder whose sample of label 2 is wrong."""

    class Wrong(fakes.Tokens):
        reads = ("pixels", "label")

        def one(self, sample):
            tokens, mean = super().one(sample)
            return what(tokens, mean) if sample["label"] == 2 else (tokens, mean)

    return Wrong()


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        (lambda t, m: (t[:, :7], m), ["'tokens'", "shape (6, 7) is not (6, 8)"]),
        (lambda t, m: (t[0], m), ["'tokens'", "shape (8,) is not (6, 8)"]),
        (lambda t, m: (t, m[:7]), ["'mean'", "shape (7,) is not (8,)"]),
        (lambda t, m: (t, 3.0), ["'mean'", "shape () is not (8,)"]),
        (lambda t, m: (t * np.nan, m), ["'tokens'", "not finite"]),
        (lambda t, m: (t, m * np.inf), ["'mean'", "not finite"]),
    ],
)
@pytest.mark.parametrize("when", ["calibrating", "building"])
def test_a_wrong_array_is_refused_and_nothing_is_marked(fakes, tmp_path, what, parts, when):
    def attempt():
        first = wrong(fakes, what if when == "calibrating" else lambda t, m: (t, m))
        fakes.job(tmp_path, "tokens", None, first)
        job = fakes.job(tmp_path, "tokens", None, wrong(fakes, what))
        engines.run(job, Share(), progress=False)

    refused("column 'tokens'", *parts, call=attempt)
    assert not list(tmp_path.glob("tokens/0*.json")) and not list(tmp_path.glob("tokens/.*"))


def test_after_a_refused_calibration_a_mended_encoder_builds(fakes, tmp_path, want):
    class Bad(fakes.Tokens):
        def one(self, sample):
            tokens, mean = super().one(sample)
            return tokens * np.nan, mean

    refused("or none is finite", call=lambda: fakes.job(tmp_path, "tokens", None, Bad()))
    fakes.build(tmp_path)
    assert fakes.tree(tmp_path) == want


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t, m: (t * np.nan, m), "field 'tokens' does not fit int8: no finite value"),
        (lambda t, m: (t, m + np.inf), "field 'mean' does not fit bfloat16: no finite"),
    ],
)
def test_one_value_that_cannot_be_stored_leaves_its_sample_out(
    fakes, tmp_path, spoil, reason, workers
):
    class Spoilt(fakes.Tokens):
        reads = ("pixels", "label", "key")

        def one(self, sample):
            tokens, mean = super().one(sample)
            return spoil(tokens, mean) if sample["key"] == "a/sample-007.png" else (tokens, mean)

    job = fakes.job(tmp_path, "tokens", None, Spoilt())
    engines.run(job, Share(), progress=False, workers=workers)
    markers = [schema.load_marker(tmp_path, job.column, i) for i in range(job.plan.shards)]
    failed = {key: why for marker in markers for key, why in marker.failed.items()}
    assert list(failed) == ["a/sample-007.png"] and failed["a/sample-007.png"].startswith(reason)
    assert sum(len(marker.keys) for marker in markers) == 59
    assert all(np.isfinite(marker.stats["tokens"]["sum"]).all() for marker in markers)
    assert not [p for p in verify.verify(tmp_path, job.plan, "tokens", deep=True) if p]


@pytest.mark.parametrize("values", [lambda v: v[:-1], lambda v: [*v, v[0]], lambda v: []])
def test_too_few_or_too_many_values_are_refused(fakes, tmp_path, values):
    class Wrong(fakes.Caption):
        def encode(self, samples):
            return {"text": values(super().encode(samples)["text"])}

    job = fakes.job(tmp_path, "caption", None, Wrong())
    refused(
        "column 'caption': the encoder gave",
        "of field 'text' for 5 samples",
        call=lambda: build.build_shard(job, 0),
    )


def test_text_that_is_none_is_refused_with_its_key(fakes, tmp_path):
    class Silent(fakes.Caption):
        def one(self, sample):
            return (None,)

    job = fakes.job(tmp_path, "caption", None, Silent())
    refused(
        "('a/sample-",
        "field 'text' is not text: None",
        call=lambda: build.build_shard(job, 0),
    )


# ---- opening a column


def changed(fakes, base, **attributes):
    return type("Changed", (fakes.ENCODERS[base],), attributes)()


@pytest.mark.parametrize(
    ("attributes", "parts"),
    [
        ({"revision": lambda self: "2"}, ["revision '1', now it is '2'"]),
        ({"reads": ("pixels",)}, ["reads ('pixels', 'label')", "('pixels',)"]),
        ({"fields": (Field("y", "data", (2, 2, 4)),)}, ["fields", "name='x'", "name='y'"]),
    ],
)
def test_a_changed_encoder_is_refused_with_the_difference(fakes, cache, want, attributes, parts):
    encoder = changed(fakes, "pixels", **attributes)
    refused(
        f"{cache / 'pixels'} was built with",
        *parts,
        "remove that folder",
        call=lambda: fakes.job(cache, "pixels", None, encoder),
    )
    assert fakes.tree(cache) == want


def test_a_changed_codec_is_refused(fakes, cache):
    frozen, source = fakes.freeze(cache, fakes.Source()), fakes.Source()
    args = (cache, frozen, "pixels", fakes.Pixels(), source)
    refused("'float16'", "'float32'", call=lambda: column.open_job(*args, {"x": "float32"}))
    refused("no field 'y'", call=lambda: column.open_job(*args, {"y": "float32"}))


def test_a_changed_input_is_refused(fakes, cache, edit_json):
    edit_json(cache / "caption" / "column.json", revision="2")
    refused("words was built with inputs", call=lambda: fakes.job(cache, "words"))


def test_an_unknown_codec_is_refused_before_anything_is_written(fakes, tmp_path):
    frozen, source = fakes.freeze(tmp_path, fakes.Source()), fakes.Source()
    refused(
        "unknown codec 'floa16'",
        "'float16'",
        call=lambda: column.open_job(
            tmp_path, frozen, "pixels", fakes.Pixels(), source, {"x": "floa16"}
        ),
    )
    assert not (tmp_path / "pixels").exists()


@pytest.mark.parametrize(
    ("reads", "parts"),
    [
        (("pixel",), ["reads 'pixel', which the source lacks", "Did you mean 'pixels'?"]),
        (("caption/txt",), ["column 'caption' has no field 'txt'", "'text'"]),
        (("captoin/text",), ["no column 'captoin'", "Did you mean 'caption'?"]),
        (("caption/",), ["names a column", "caption/text"]),
    ],
)
def test_reading_what_is_not_there_is_refused_with_the_nearest(fakes, cache, reads, parts):
    encoder = changed(fakes, "caption", reads=reads)
    refused(*parts, call=lambda: fakes.job(cache, "new", None, encoder))
    assert not (cache / "new").exists()


def test_encoders_that_read_one_another_are_refused(fakes, tmp_path):
    chain = {"a": "b/x", "b": "c/x", "c": "a/x"}
    make = lambda name: changed(fakes, "caption", reads=(chain[name],))  # noqa: E731
    refused("in a circle: a -> b -> c -> a", call=lambda: column.with_inputs(tmp_path, "a", make))


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", "a b", "pkg.mod:attr"])
def test_a_column_name_that_is_no_folder_is_refused(fakes, tmp_path, name):
    encoder = fakes.Caption()
    refused(f"column name {name!r}", call=lambda: fakes.job(tmp_path, name, None, encoder))


def test_two_fields_stored_under_one_name_are_refused(fakes, tmp_path):
    fields = (Field("a", "token", (6, 8), "int8"), Field("A-scale", "sample", (8,)))
    encoder = changed(fakes, "tokens", fields=fields)
    refused("'new' stores two 'A-scale'", call=lambda: fakes.job(tmp_path, "new", None, encoder))


def test_the_files_of_a_column_are_what_the_readme_says(whole):
    described = json.loads((whole / "tokens" / "column.json").read_text())
    assert set(described) == {
        "name",
        "encoder",
        "revision",
        "reads",
        "inputs",
        "licence",
        "container",
        "calibration",
        "fields",
        "options",
        "self",
    }
    assert set(described["fields"][0]) == {"name", "kind", "shape", "codec", "scale", "shift"}
    marker = json.loads((whole / "tokens" / "000000.json").read_text())
    assert set(marker) == {
        "column",
        "shard",
        "keys",
        "failed",
        "bytes",
        "sha256",
        "parts",
        "stats",
        "self",
    }


def test_the_reader_of_the_readme_reads_a_cache(fakes, whole):
    text = (fakes.Path(__file__).parent.parent / "cache" / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    space: dict = {}
    exec(code, space)
    for name in ("pixels", "caption", "words", "tokens"):
        ours = stored(whole, name)
        theirs = dict(space["records"](whole / name))
        assert theirs.keys() == ours.keys()
        for key, values in ours.items():
            for field, value in values.items():
                assert np.array_equal(theirs[key][field], value)
