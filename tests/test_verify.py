"""Verifying a cache, and the command line of stage one, which shows errors in one line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from reed import jobs, pipelines
from reed.cache import plan, schema, verify
from reed.cli import cache as cli
from reed.pipelines import Pipeline
from reed.registry import Registry
from reed.view import listing

COLUMNS = ("caption", "pixels", "tokens", "words")


def problems(cache, deep=False):
    """Everything that is wrong with a cache: (where, what)."""
    frozen = plan.load(cache)
    return [
        (problem.where, problem.what)
        for name in schema.columns(cache)
        for problem in verify.verify(cache, frozen, name, deep=deep)
        if problem
    ]


def run(*words):
    """The command line in this process; stdout and stderr apart."""
    result = CliRunner().invoke(cli.main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(result, *parts):
    """Exit code 2 and one line on stderr, without a traceback."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


# ---- verify


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_cache_has_no_problem(whole, deep):
    assert problems(whole, deep) == []


@pytest.mark.parametrize("name", ["tokens", "caption"])
def test_any_flipped_byte_of_a_shard_is_found_by_its_hash(cache, name):
    path = cache / name / "000003.tar"
    content = path.read_bytes()
    column, frozen = schema.load_column(cache, name), plan.load(cache)
    for offset in [*range(0, len(content), 997), len(content) - 1]:
        flipped = bytearray(content)
        flipped[offset] ^= 1 << offset % 8
        path.write_bytes(flipped)
        found = [p for p in verify.verify(cache, frozen, column.name, deep=True) if p]
        assert len(found) == 1 and "sha256" in found[0].what
        assert found[0].where == str(path)
    path.write_bytes(content)
    assert problems(cache, deep=True) == []


def test_a_flipped_byte_is_not_looked_for_unless_asked(cache):
    with open(cache / "tokens" / "000001.tar", "r+b") as file:
        file.write(b"\xff")
    assert problems(cache) == [] and len(problems(cache, deep=True)) == 1


@pytest.mark.parametrize("size", [0, 511, 5000])
def test_a_truncated_shard_is_found(cache, size):
    os.truncate(cache / "pixels" / "000001.tar", size)
    (where, what), *rest = problems(cache)
    assert rest == [] and where.endswith("pixels/000001.tar")
    assert what.startswith(f"it has {size} bytes, its marker says ")


def test_a_longer_shard_is_found(cache):
    with open(cache / "pixels" / "000001.tar", "ab") as file:
        file.write(b"x")
    assert len(problems(cache)) == 1


def test_a_missing_shard_and_a_missing_marker_are_found(cache):
    (cache / "pixels" / "000000.tar").unlink()
    (cache / "tokens" / "000002.json").unlink()
    (where, what), (where_2, what_2) = problems(cache)
    assert where.endswith("pixels/000000.tar") and "missing" in what
    assert where_2.endswith("tokens/000002.tar") and "no shard 2; rerun the build" in what_2


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"keys": 3}',
        b"\xff\xfe",
        b'{"column": "pixels"}',
        b'{"column": "pixels", "shard": 1, "keys": [], "failed": {}, "bytes": "x"}',
    ],
)
def test_a_broken_marker_is_reported_and_the_rest_is_checked(cache, text):
    (cache / "pixels" / "000001.json").write_bytes(text)
    (cache / "pixels" / "000003.tar").unlink()
    (where, what), (where_2, _) = problems(cache, deep=True)
    assert where.endswith("pixels/000001.tar") and "000001.json" in what
    assert where_2.endswith("pixels/000003.tar")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"column": "tokens"}, "marker of 'tokens' shard 1"),
        ({"shard": 2}, "marker of 'pixels' shard 2"),
        ({"keys": ["a"]}, "its 1 keys are not the 16 planned"),
        ({"failed": {"stranger": "x"}}, "keys are not"),
        ({"bytes": 3}, "its marker says 3"),
        ({"sha256": "00"}, "its marker says 00"),
        ({"parts": {}}, "parts []"),
    ],
)
def test_a_marker_that_does_not_fit_is_reported(cache, edit_json, changes, part):
    edit_json(cache / "pixels" / "000001.json", **changes)
    ((where, what),) = problems(cache, deep=True)
    assert where.endswith("pixels/000001.tar") and part in what


def test_a_damaged_calibration_is_reported(cache):
    path = cache / "tokens" / "calibration.npz"
    path.write_bytes(path.read_bytes()[:-1])
    ((where, what),) = problems(cache)
    assert where == "tokens" and "calibration.npz has sha256" in what
    path.unlink()
    assert len(problems(cache)) == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "other"}'])
def test_a_broken_column_is_reported_and_the_others_are_checked(cache, text):
    (cache / "pixels" / "column.json").write_text(text)
    (cache / "words" / "000000.tar").unlink()
    (where, what), (where_2, _) = problems(cache)
    assert where == "pixels" and "column.json" in what
    assert where_2.endswith("words/000000.tar")


def test_a_column_in_the_folder_of_another_is_reported(cache):
    (cache / "pixels").rename(cache / "moved")
    ((where, what),) = problems(cache)
    assert where == "moved" and "describes column 'pixels', its folder is 'moved'" in what


# ---- the command line


@pytest.fixture
def wired(fakes, monkeypatch, tmp_path):
    """The commands, with the fakes as the only pipeline and encoders; works in a fresh folder."""
    package = tmp_path / "nothing"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    encoders, sources = Registry("encoder", "nothing"), Registry("source", "nothing")
    for name, encoder in fakes.ENCODERS.items():
        encoders.register(name)(encoder)
    sources.register("fakes")(lambda data=None: fakes.Source())
    spec = Pipeline("image", "fakes", ("pixels",), ("words", "tokens"), 16)
    for module in (jobs, listing):
        monkeypatch.setattr(module, "ENCODERS", encoders)
        monkeypatch.setattr(module, "SOURCES", sources)
    real = pipelines.load
    monkeypatch.setattr(pipelines, "load", lambda name: spec if name == "fake" else real(name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_build_makes_the_pipelines_columns(fakes, whole, wired):
    result = run("build", "fake", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "cache/fake: 60 samples, columns pixels, caption, words, tokens" in result.output
    assert fakes.tree(wired / "cache" / "fake") == fakes.tree(whole)


def test_build_adds_the_column_that_is_asked_for(wired):
    assert run("build", "fake", "--encoder", "tokens", "--cache", "here").exit_code == 0
    assert schema.columns(wired / "here") == ["pixels", "tokens"]
    assert run("build", "fake", "--encoder", "words", "--cache", "here").exit_code == 0
    assert schema.columns(wired / "here") == sorted(COLUMNS)
    assert run("verify", "here", "--deep").exit_code == 0


def test_build_takes_another_codec(wired):
    assert run("build", "fake", "--codec", "pixels/x=float32").exit_code == 0
    column = schema.load_column(wired / "cache" / "fake", "pixels")
    assert column.field("x").codec == "float32"
    assert run("build", "fake").exit_code == 0  # which keeps it
    assert schema.load_column(wired / "cache" / "fake", "pixels") == column
    again = run("build", "fake", "--codec", "pixels/x=float16")
    refused(again, "was built with fields", "float32")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["digit"], ["unknown pipeline 'digit'", "Did you mean 'digits'?"]),
        (["fake", "--encoder", "tokenz"], ["unknown encoder 'tokenz'", "Did you mean 'tokens'?"]),
        (["fake", "--codec", "pixels/x=flot16"], ["unknown codec 'flot16'", "'float16'"]),
        (["fake", "--codec", "pixels/y=float16"], ["no field 'y'"]),
        (["fake", "--codec", "pixels=float16"], ["--codec 'pixels=float16'", "COLUMN/FIELD=CODEC"]),
        (["fake", "--codec", "nothing/x=float16"], ["names 'nothing', which is not built here"]),
        (["fake", "--codec", "pixels/x=utf8"], ["data field 'x' cannot be utf8"]),
        (["fake", "--device", "nonsense"], ["--device nonsense cannot be used here"]),
    ],
)
def test_build_refuses_in_one_line(wired, words, parts):
    refused(run("build", *words), *parts)
    assert not list(wired.glob("cache/fake/*/0*"))


def test_a_misspelt_encoder_leaves_no_cache_behind(wired):
    run("build", "fake", "--encoder", "tokenz")
    assert not (wired / "cache").exists()


def test_verify_exits_with_1_and_names_what_is_wrong(cache):
    result = run("verify", cache)
    assert (result.exit_code, result.output) == (0, f"{cache}: 16 shards checked, 0 problems\n")
    with open(cache / "tokens" / "000001.tar", "r+b") as file:
        file.write(b"\xff")
    assert run("verify", cache).exit_code == 0
    result = run("verify", cache, "--deep")
    assert result.exit_code == 1
    assert f"{cache}/tokens/000001.tar: sha256" in result.output
    assert "16 shards checked, 1 problem\n" in result.output

    # A column that is not there has no shards that could be checked.
    assert f"{cache}: 4 shards checked, 1 problem\n" in run("verify", cache, "pixels", "no").output


def test_verify_of_no_cache_is_an_error(tmp_path):
    refused(run("verify", tmp_path), "no cache at", "reed-cache build")
    refused(run("info", tmp_path / "absent"), "no cache at")


def test_info_shows_columns_fields_and_failures(fakes, tmp_path):
    fakes.build(tmp_path, ["pixels", "caption"], fakes.Source(150, bad=(3,)), shard_size=100)
    (tmp_path / "caption" / "000001.json").unlink()
    lines = run("info", tmp_path).output.splitlines()
    assert lines[0] == f"{tmp_path}: pipeline fake, domain image, 150 samples in 2 shards"
    assert any(line.startswith("pixels: complete, 2/2 shards, 149 samples, ") for line in lines)
    assert any(line.startswith("caption: INCOMPLETE, 1/2 shards, ") for line in lines)
    assert "  pixels/x: data, 2x2x4, float16" in lines
    assert "  pixels/label: label, one, int64" in lines
    assert "  left out 'a/sample-003.png': the file is empty" in lines


def first_words(what):
    return [line.split()[0] for line in run("list", what).output.splitlines()]


def test_list_shows_caches_and_names(wired, fakes):
    empty = run("list")
    assert empty.stdout == ""  # scripts read the caches from here
    assert empty.stderr.startswith("no caches: there is no folder ")
    assert "build one: reed-cache build digits" in empty.stderr
    run("build", "fake", "--encoder", "tokens")
    assert run("list", "caches").output == "cache/fake\n"
    assert first_words("encoders") == sorted(fakes.ENCODERS)
    assert first_words("sources") == ["fakes"]
    assert "digits" in first_words("pipelines")
    assert {"int8", "utf8", "float16"} <= set(first_words("codecs"))
    assert run("list", "cashes").exit_code == 2


def test_the_program_prints_one_line_and_exits_with_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "reed.cli.cache", "verify", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("Error: no cache at") and done.stderr.count("\n") == 1
