"""Transcoding a column: equal to decoding and encoding by hand, resumed, repaired, trained on."""

from __future__ import annotations

import contextlib
import math
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed import jobs, open_cache, stage_one
from reed.build import transcode
from reed.build.fitting import CALIBRATION, PAIR_STEP
from reed.cache import plan, reader, schema, verify
from reed.cache.codecs import codecs
from reed.cache.schema import Field
from reed.cli import cache as cli
from reed.errors import ReedError
from reed.stage_one import Request

HERE = Path(__file__).parent
TINY = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_cache.py")))
SHAPES = {
    "data": (3, 4, 4),
    "moments": (4, 2, 2),
    "token": (None, 5),
    "sample": (5,),
    "pair": (20, 3, 5),
    "label": (),
}
NUMBERS = ("float32", "float16", "bfloat16", "int8")
WHOLE = ("uint8", "int32", "int64")
WHITENED = ("pca:3", "pca:3+int8", "standard", "standard+int8")
STORED = {
    "data": (*NUMBERS, "float32+nan", *WHOLE),
    "moments": NUMBERS,
    **dict.fromkeys(("token", "sample", "pair"), (*NUMBERS, *WHITENED)),
    "label": WHOLE,
}
SHORT = {"float32+nan": "nan", "standard+int8": "std8", "standard": "std"}


def called(kind, codec):
    return f"{kind}-{SHORT.get(codec, re.sub('[:+]', '-', codec))}"


FIELDS = {
    called(kind, codec): Field(called(kind, codec), kind, SHAPES[kind], codec)
    for kind, names in STORED.items()
    for codec in names
}


def run(*words):
    found = CliRunner().invoke(cli.main, [str(word) for word in words])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def refused(*words):
    """The only line that an error prints."""
    found = run(*words)
    assert found.exit_code == 2, found.output
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("Error: ")]
    return line


@pytest.fixture(scope="module")
def every(fakes, tmp_path_factory):
    """One column with a field of every kind in every codec, two views of 10 samples."""

    class Every(fakes.Encoder):
        reads = ("pixels", "sentence")
        fields = (*FIELDS.values(), Field("text", "text", (), "utf8"))

        def one(self, sample):
            draws = fakes.random(sample["pixels"].tobytes())
            return [*(value(field, draws) for field in FIELDS.values()), sample["sentence"]]

    path = tmp_path_factory.mktemp("every") / "cache"
    source = fakes.Source(10, bad=(3,))
    frozen = fakes.freeze(path, source, shard_size=4, flip=True, max_failed=0.2)
    job = fakes.column.open_job(path, frozen, "hog", Every(), source)
    fakes.engines.run(job, fakes.Share(), progress=False)
    return path


def value(field, draws):
    if field.codec in WHOLE:
        return draws.integers(0, 255, field.shape)
    shape = tuple(int(draws.integers(4, 9)) if n is None else n for n in field.shape)
    array = draws.standard_normal(shape).astype(np.float32) * np.float32(3) + np.float32(1)
    if field.codec == "float32+nan":
        array[0, 0, 0] = np.nan
    return array


def stored(cache, name):
    """The parts of every record as they are stored, by key and view, of all shards in order."""
    column, frozen = schema.load_column(cache, name), plan.load(cache)
    parts, views, found = reader.parts_of(column.fields), frozen.manifest.views, []
    for shard in range(frozen.shards):
        marker = schema.load_marker(cache, column, shard)
        path = schema.shard_path(cache, column, shard)
        opened = reader.CONTAINERS[column.container].Shard(path, marker.parts)
        with contextlib.closing(opened):
            for row in range(len(marker.keys) * views):
                found.append(reader.stored(opened.read, marker, parts, row))
    return found


def by_hand(cache, records, field, codec):
    """What a field's values are in another codec: decoded, calibrated and encoded here."""
    column = schema.load_column(cache, "hog")
    state, old = reader.load_state(cache, column)[field.name], codecs.codec_of(field)
    values = []
    for arrays in records:
        parts = [arrays[part.name] for part in old.parts(field)]
        values.append(old.restore(codecs.decode_one(old, parts, state), state))
    new, step = codecs.codec_of(schema.replace(field, codec=codec)), PAIR_STEP
    first = [v[::step] if field.kind == "pair" else v for v in values[:CALIBRATION]]
    state = new.calibrate(first)
    return [new.encode(value, state) for value in values], state, values


def square(values):
    return sum(np.square(value.astype(np.float64)).sum() for value in values)


def pairs():
    """Every codec of a kind that another one can become, grouped by the new codec."""
    wanted: dict[str, list[str]] = {}
    for kind, names in STORED.items():
        for old in names:
            for new in names:
                is_whole = (old in WHOLE, new in WHOLE)
                loses_nan = old == "float32+nan"
                if old != new and not loses_nan and is_whole in ((True, True), (False, False)):
                    wanted.setdefault(new, []).append(called(kind, old))
    return wanted


def test_every_pair_of_codecs_is_decoding_and_encoding_by_hand(fakes, every, tmp_path):
    before, records, compared = fakes.tree(every), stored(every, "hog"), 0
    cache = Path(shutil.copytree(every, tmp_path / "cache"))
    for codec, names in pairs().items():
        words = [word for name in names for word in ("--codec", f"hog/{name}={codec}")]
        done = run("convert", cache, *words, "--name", "other")
        assert done.exit_code == 0, done.output
        column, found = schema.load_column(cache, "other"), stored(cache, "other")
        states = reader.load_state(cache, column)
        for name in names:
            parts, state, values = by_hand(every, records, FIELDS[name], codec)
            new = codecs.codec_of(column.field(name)).parts(column.field(name))
            for record, expected in zip(found, parts, strict=True):
                for part, array in zip(new, expected, strict=True):
                    np.testing.assert_array_equal(record[part.name], array, err_msg=name)
            assert states[name].keys() == state.keys()
            for entry, array in state.items():
                np.testing.assert_array_equal(states[name][entry], array)
            if FIELDS[name].kind != "label":
                markers = [schema.load_marker(cache, column, i) for i in range(3)]
                total = sum(np.array(m.stats[name]["sumsq"]) for m in markers)
                assert np.sum(total) == pytest.approx(square(values))
            compared += 1
        assert not list(verify_all(cache))
        shutil.rmtree(cache / "other")
    assert compared == 16 + 6 + 12 + 3 * 56 + 6 and fakes.tree(every) == before


def verify_all(cache):
    for name in schema.columns(cache):
        yield from filter(None, verify.verify(cache, plan.load(cache), name, deep=True))


def test_fields_that_keep_their_codec_are_copied_bit_for_bit(every, tmp_path):
    cache = Path(shutil.copytree(every, tmp_path / "cache"))
    old, files = schema.load_column(cache, "hog"), sorted((cache / "hog").iterdir())
    before = [path.read_bytes() for path in files]
    done = run("convert", cache, "--codec", "hog/token-int8=pca:2+int8")
    assert done.exit_code == 0 and done.output == (
        f"{cache}: column hog-pca2-int8, 3 shards, made from hog (token-int8 int8 -> pca:2+int8)\n"
    )
    assert [path.read_bytes() for path in files] == before
    new = schema.load_column(cache, "hog-pca2-int8")
    assert new.made_from == {"hog/token-int8": "pca:2+int8"}
    assert new.inputs == {"hog": old.identity()}
    assert new.revision == f"1 transcoded from hog {old.identity()}: token-int8=pca:2+int8"
    assert (new.encoder, new.reads, new.licence) == (old.encoder, old.reads, old.licence)

    keeps = [field for field in old.fields if field.name != "token-int8"]
    assert [f for f in new.fields if f.name != "token-int8"] == keeps and len(keeps) == len(FIELDS)
    for was, now in zip(stored(cache, "hog"), stored(cache, "hog-pca2-int8"), strict=True):
        for part in reader.parts_of(keeps):
            assert was[part.name].tobytes() == now[part.name].tobytes()
    ours, theirs = (reader.load_state(cache, column) for column in (new, old))
    for field in keeps:
        for entry, array in theirs[field.name].items():
            assert np.array_equal(ours[field.name][entry], array)
    for shard in range(3):
        was, now = (schema.load_marker(cache, column, shard) for column in (old, new))
        assert (was.keys, was.failed) == (now.keys, now.failed)
        assert all(now.stats[f.name] == was.stats[f.name] for f in keeps if f.name in was.stats)
    shown = run("info", cache).output
    assert "  made from hog: token-int8=pca:2+int8" in shown
    assert "    cosine to column hog, on the calibration records: mean 0." in shown


def test_the_name_can_be_chosen_and_a_second_transcoding_reads_the_first(cache):
    for words in (
        ("--codec", "tokens/tokens=pca:4", "--codec", "tokens/mean=float16", "--name", "few"),
        (
            "--codec",
            "few/tokens=float32",
        ),
        ("--codec", "tokens/mean=float16", "--codec", "tokens/tokens=pca:4"),
    ):
        assert run("convert", cache, *words).exit_code == 0
    assert set(schema.columns(cache)) >= {"few", "few-float32", "tokens-pca4-float16"}
    with open_cache(cache) as opened:
        column = opened.column("few")
        state = opened.state("few")["tokens"]
        decoded, again = opened["few/tokens"], opened["few-float32/tokens"]
        for key in list(decoded)[:3]:
            whole = codecs.codec_of(column.field("tokens")).restore(decoded[key], state)
            assert np.array_equal(again[key], whole.astype(np.float32)) and whole.shape == (6, 8)


def test_fewer_vectors_keep_fewer_components_and_the_same_command_finds_the_column(fakes, tmp_path):
    cache = fakes.build(tmp_path / "c", ["tokens"], fakes.Source(6))
    words = ("convert", cache, "--codec", "tokens/mean=pca:7")
    done = run(*words)
    line = "field 'mean': pca:7 is lowered to pca:5, which is what 6 vectors of 8 channels can"
    assert line in done.stderr and "(mean bfloat16 -> pca:5)" in done.stdout
    before = fakes.tree(cache)
    again = run(*words)
    assert again.exit_code == 0 and "lowered" not in again.output and fakes.tree(cache) == before
    fakes.freeze(cache, fakes.Source(9), extend=True)
    fakes.build(cache, ["tokens"], fakes.Source(9))
    assert run(*words).exit_code == 0
    column = schema.load_column(cache, "tokens-pca7")
    assert column.field("mean").codec == "pca:5" and not list(verify_all(cache))
    assert sum(len(schema.load_marker(cache, column, i).keys) for i in range(2)) == 9


# ---- resume


KILLED = """
import os, sys
from pathlib import Path
from reed.build import recode, transcode
from reed.cache import schema
left = int(sys.argv[2])
def dying(call):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return call(*args, **kwargs)
    return wrapped
os.link, os.replace = dying(os.link), dying(os.replace)
transcode.transcode(Path(sys.argv[1]), "tokens", {"tokens": "pca:4+int8"}, progress=False)
"""


def test_a_killed_transcoding_is_resumed_to_the_same_bytes(fakes, cache, tmp_path):
    whole = Path(shutil.copytree(cache, tmp_path / "whole"))
    transcode.transcode(whole, "tokens", {"tokens": "pca:4+int8"}, progress=False)
    killed = subprocess.run([sys.executable, "-c", KILLED, cache, "7"], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = sorted(path.name for path in (cache / "tokens-pca4-int8").glob("0*.json"))
    assert done == ["000000.json", "000001.json"]
    times = {n: (cache / "tokens-pca4-int8" / n).stat().st_mtime_ns for n in done}
    assert run("convert", cache, "--codec", "tokens/tokens=pca:4+int8").exit_code == 0
    assert fakes.tree(cache) == fakes.tree(whole)
    assert times == {n: (cache / "tokens-pca4-int8" / n).stat().st_mtime_ns for n in done}


# ---- verify and repair


@pytest.fixture
def transcoded(cache):
    """A cache whose `tokens` were transcoded; no encoder and no source of it can be found."""
    transcode.transcode(cache, "tokens", {"tokens": "float16"}, progress=False)
    return cache


def damage(cache, name="tokens-float16"):
    with open(cache / name / "000001.tar", "r+b") as file:
        file.seek(700)
        file.write(b"\xff\xfe")
    os.truncate(cache / name / "000002.tar", 9)


def test_repair_transcodes_again_without_the_raw_data(fakes, transcoded):
    want = fakes.tree(transcoded)
    damage(transcoded)
    assert run("verify", transcoded, "--deep").exit_code == 1
    done = run("repair", transcoded)
    assert done.exit_code == 0 and "2 shards were bad and are built again" in done.output
    assert fakes.tree(transcoded) == want
    sound = run("verify", transcoded, "--deep")
    assert sound.exit_code == 0 and "cannot be repaired" not in sound.output


def test_repair_says_in_one_line_that_the_column_it_was_made_from_is_gone(fakes, transcoded):
    shutil.rmtree(transcoded / "tokens")
    said = run("verify", transcoded, "--deep")
    reason = "it was made from column 'tokens', which is gone"
    line = f"{transcoded}: column 'tokens-float16' cannot be repaired: {reason}"
    assert said.exit_code == 0 and line in said.output.splitlines()
    damage(transcoded)
    before = fakes.tree(transcoded)
    line = refused("repair", transcoded)
    assert "column 'tokens-float16'" in line and reason in line and "restore that column" in line
    assert fakes.tree(transcoded) == before


def test_a_column_that_was_built_anew_is_not_what_it_was_made_from(transcoded, edit_json):
    was = schema.load_column(transcoded, "tokens").identity()
    edit_json(transcoded / "tokens" / "column.json", revision="2")
    now = schema.load_column(transcoded, "tokens").identity()
    reason = f"column 'tokens' with the identity {was}, which now has {now}"
    assert reason in run("verify", transcoded).output
    damage(transcoded)
    assert reason in refused("repair", transcoded)
    line = refused("convert", transcoded, "--codec", "tokens/tokens=float16")
    assert "was made with revision '1 transcoded from tokens" in line and "--name OTHER" in line


def test_both_columns_are_repaired_the_source_first(fakes, transcoded, monkeypatch):
    want = fakes.tree(transcoded)
    for name in ("tokens", "tokens-float16"):
        damage(transcoded, name)
    monkeypatch.setattr(jobs, "ENCODERS", SimpleNamespace(get=fakes.ENCODERS.__getitem__))
    sources = {"fakes": lambda data=None: fakes.Source()}
    monkeypatch.setattr(jobs, "SOURCES", SimpleNamespace(get=sources.__getitem__))
    done = run("repair", transcoded, "--device", "cpu")
    assert done.exit_code == 0 and "4 shards were bad" in done.output, done.output
    assert fakes.tree(transcoded) == want


def test_lost_markers_of_a_transcoded_column_come_back(transcoded):
    path = transcoded / "tokens-float16" / "000001.json"
    content = path.read_bytes()
    path.unlink()
    assert run("reindex", transcoded).exit_code == 0
    found, want = (schema.config.build(schema.Marker, t, "") for t in map(table, (path, content)))
    assert schema.replace(found, stats={}) == schema.replace(want, stats={})


def table(content):
    import json

    found = json.loads(content.read_bytes() if isinstance(content, Path) else content)
    return {name: entry for name, entry in found.items() if name != "self"}


def test_a_copy_in_another_container_is_still_made_from_its_column(transcoded, tmp_path):
    out = tmp_path / "h5"
    assert run("convert", transcoded, "--to", "h5", "--out", out).exit_code == 0
    damage_at = out / "tokens-float16" / "000001.h5"
    want = damage_at.read_bytes()
    damage_at.write_bytes(want[:-3])
    assert run("repair", out).exit_code == 0 and damage_at.read_bytes() == want


# ---- training


def test_a_run_is_trained_on_a_transcoded_column(tmp_path, one_thread):
    cache = TINY.build(tmp_path / "cache")
    words = ("--codec", "digits-vit/tokens=pca:16+int8")
    assert run("convert", cache, *words).exit_code == 0
    assert run("convert", cache, "--codec", "pixels/pixels=float16").exit_code == 0
    over = {
        "data": {"x": "pixels-float16/pixels", "label": "pixels-float16/label"},
        "align": {"digits-vit": {"target": "digits-vit-pca16-int8/tokens", "tap": 2, "hidden": 32}},
        "steps": 6,
    }
    trained = TINY.trained(TINY.settings(cache, tmp_path / "run", **over))
    last = TINY.lines(trained)[-1]
    assert math.isfinite(last["cos/digits-vit"]) and math.isfinite(last["diffusion"])


# ---- refusals


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--codec", "tokens/tokens=int8"), ["tokens/tokens is stored as int8 already"]),
        (("--codec", "tokens/token=float16"), ["no field 'token'", "Did you mean 'tokens'?"]),
        (("--codec", "token/tokens=float16"), ["no column 'token'", "Did you mean 'tokens'?"]),
        (("--codec", "tokens/tokens=pca16"), ["unknown codec 'pca16'", "pca:K"]),
        (("--codec", "tokens=pca:4"), ["'tokens=pca:4' is not COLUMN/FIELD=CODEC"]),
        (("--codec", "caption/text=int8"), ["text field 'text' cannot be int8"]),
        (("--codec", "pixels/x=pca:2"), ["data field 'x' cannot be pca:2"]),
        (("--codec", "pixels/label=float16"), ["a label is stored as an integer"]),
        (("--codec", "tokens/tokens=float16", "--name", "a/b"), ["column name 'a/b'"]),
        (("--codec", "tokens/tokens=float16", "--name", "words"), ["has a column 'words'"]),
        (
            ("--codec", "tokens/mean=float16", "--codec", "tokens/mean=int8"),
            ["a field of 'tokens' twice"],
        ),
        (
            ("--codec", "tokens/mean=int8", "--codec", "pixels/x=float32", "--name", "x"),
            ["--name 'x' is for one new column", "tokens, pixels"],
        ),
        (("--codec", "tokens/mean=int8", "--to", "h5"), ["leave out --to, --out and --column"]),
        (("--to", "h5"), ["give --to and --out", "--codec"]),
        (("--name", "x"), ["--name is for the column that --codec makes"]),
        ((), ["give --to and --out", "--codec"]),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(fakes, whole, words, parts):
    before = fakes.tree(whole)
    line = refused("convert", whole, *words)
    assert all(part in line for part in parts), line
    assert fakes.tree(whole) == before


def test_a_column_that_is_not_complete_is_refused(cache):
    (cache / "tokens" / "000003.json").unlink()
    line = refused("convert", cache, "--codec", "tokens/tokens=float16")
    assert f"column 'tokens' of {cache} lacks 1 shard (first: 3)" in line


def test_values_that_the_new_codec_cannot_store_leave_samples_out_up_to_the_share(fakes, tmp_path):
    class Large(fakes.Encoder):
        reads = ("pixels", "label")
        fields = (Field("x", "sample", (4,)), Field("y", "sample", (2,), "bfloat16"))

        def one(self, sample):
            x = np.abs(sample["pixels"][0, 0])
            return x * (1e6 if sample["label"] == 7 else 1), x[:2]

    source = fakes.Source(20)
    for share, folder in ((0.2, "some"), (0.01, "few")):
        cache = tmp_path / folder
        frozen = fakes.freeze(cache, source, shard_size=8, max_failed=share)
        job = fakes.column.open_job(cache, frozen, "big", Large(), source)
        fakes.engines.run(job, fakes.Share(), progress=False)
    assert run("convert", tmp_path / "some", "--codec", "big/x=float16").exit_code == 0
    column = schema.load_column(tmp_path / "some", "big-float16")
    markers = [schema.load_marker(tmp_path / "some", column, i) for i in range(3)]
    failed = {key: why for marker in markers for key, why in marker.failed.items()}
    assert sorted(failed) == [source.keys[7], source.keys[17]]
    assert all(why.startswith("field 'x' does not fit float16: ") for why in failed.values())
    assert not list(verify_all(tmp_path / "some"))
    kept = [np.abs(source.read(k)["pixels"][0, 0, :2]) for k in source.keys if k not in failed]
    sums = sum(np.array(marker.stats["y"]["sum"]) for marker in markers)
    assert np.allclose(sums, np.sum(kept, axis=0), rtol=0.01)
    line = refused("convert", tmp_path / "few", "--codec", "big/x=float16")
    assert "2 samples of 'big' cannot be stored, more than 1 % of the 20 planned" in line


def test_a_build_does_not_make_a_transcoded_column(fakes, transcoded):
    request = Request("digits", transcoded, encoders=("tokens-float16",), source="digits")
    with pytest.raises(ReedError, match="no encoder makes column 'tokens-float16'") as error:
        stage_one.chosen(request)
    words = f"convert {transcoded} --codec tokens/tokens=float16 --name tokens-float16"
    assert str(error.value).endswith(f"it was transcoded: reed-cache {words}")
    before = fakes.tree(transcoded)
    (transcoded / "tokens-float16" / "000002.json").unlink()
    assert run(*words.split()).exit_code == 0 and fakes.tree(transcoded) == before
