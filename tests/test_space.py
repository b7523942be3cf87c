"""Space and time of a build: what limits it, and how a column or leftovers are removed."""

from __future__ import annotations

import json
import os
import re
import time

import pytest
from click.testing import CliRunner

from reed.build.size import Size
from reed.build.tally import Timing
from reed.cache import files, plan, remove, verify
from reed.cli import cache as cli
from reed.view import pace


def run(*words, code=0):
    """The output of a command that ends with a code."""
    result = CliRunner().invoke(cli.main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def cache(fakes, tmp_path, monkeypatch):
    """A cache with columns pixels, words and tokens, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    return fakes.build(tmp_path / "cache" / "mine", source=fakes.Source(8), shard_size=4)


def a_run(folder, cache, **table):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"shards": str(cache)} | table))


def age(path, seconds=2 * remove.IDLE):
    for each in (path, *path.rglob("*")):
        os.utime(each, (time.time() - seconds,) * 2)


def test_a_removed_column_is_gone_and_the_others_are_untouched(cache):
    names = verify.names(cache)
    before = {p: p.read_bytes() for p in cache.rglob("*") if p.is_file()}
    size = sum(len(data) for path, data in before.items() if path.parent.name == names[-1])
    assert files.size_of(cache / names[-1]) == size
    assert "removed" in run("rm", cache / names[-1])
    after = {p: p.read_bytes() for p in cache.rglob("*") if p.is_file()}
    assert after == {p: data for p, data in before.items() if p.parent.name != names[-1]}
    assert not any(verify.verify(cache, plan.load(cache), names[0]))


def test_a_column_that_another_was_made_from_stays(fakes, cache):
    run("convert", cache, "--codec", "tokens/tokens=float16", "--name", "small")
    said = run("rm", cache / "tokens", code=2)
    assert "'tokens'" in said and "'small'" in said and "rm" in said
    assert (cache / "tokens" / "column.json").is_file()
    run("rm", cache / "tokens", cache / "small")
    assert not {"tokens", "small"} & set(verify.names(cache))


@pytest.mark.parametrize(
    "table",
    [
        {"data": {"image": "tokens/x"}},
        {"align": {"a": {"target": "tokens/x"}}},
        {"guide": {"z": {"target": "tokens/x"}}},
    ],
)
def test_a_column_that_a_run_reads_stays_unless_forced(cache, table):
    a_run(cache.parents[1] / "runs" / "sweep" / "seed=1", cache, **table)
    said = run("rm", cache / "tokens", code=2)
    assert "seed=1" in said and "--force" in said
    assert "no run in" in run("prune", cache)
    assert f"{cache / 'tokens'}:" not in run("prune", cache)
    run("rm", cache / "tokens", "--force")
    assert not (cache / "tokens").exists()


def test_a_run_of_another_cache_holds_nothing(cache):
    a_run(cache.parents[1] / "runs" / "a", cache.parent / "other", data={"image": "tokens/x"})
    run("rm", cache / "tokens")


def test_an_unknown_column_and_no_cache_are_named(cache):
    assert "has no column 'token'" in run("rm", cache / "token", code=2)
    assert "nowhere" in run("rm", cache.parent / "nowhere" / "tokens", code=2)


def test_prune_removes_what_killed_commands_left_and_nothing_that_is_younger_than_an_hour(cache):
    before = {p: p.read_bytes() for p in cache.rglob("*") if p.is_file()}
    shard = next((cache / "tokens").glob("0*.tar"))
    left = [
        cache / ".manifest.json.1-ab.tmp",
        cache / "tokens" / ".000000.tar.1-ab.tmp",
        cache / "tokens" / "000009.tar",
    ]
    for path in left:
        path.write_bytes(shard.read_bytes())
    (cache / ".gone.1-ab.tmp").mkdir()
    (cache / ".gone.1-ab.tmp" / "000000.tar").write_bytes(b"1234")
    (cache / "failed").mkdir()
    text = (cache / "tokens" / "column.json").read_text().replace('"tokens"', '"failed"', 1)
    (cache / "failed" / "column.json").write_text(text)
    left += [cache / ".gone.1-ab.tmp", cache / "failed"]

    run("prune", cache)
    assert all(path.exists() for path in left), "younger than an hour"
    for path in left:
        age(path)
    said = run("prune", cache, "--dry-run")
    assert all(str(path) in said for path in left) and all(path.exists() for path in left)
    run("prune", cache)
    assert {p: p.read_bytes() for p in cache.rglob("*") if p.is_file()} == before


def test_plan_measures_every_stage_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pace, "PROBE", 2**20)
    said = run("plan", "digits", "--measure", "--device", "cpu")
    assert "disk: " in said and not list(tmp_path.rglob("*"))
    for column in ("pixels", "digits-vit", "describe", "caption-ngrams"):
        line = next(
            line for line in said.splitlines() if re.match(rf"  {column}: read .* limits$", line)
        )
        assert "1,797 missing samples" in line and "64 were timed" in line


def test_what_limits_is_the_slowest_stage_over_the_processes_that_read():
    size = Size("c", 1, 3600, 10, 1.0, "exact")
    line = pace._line(size, pace.Pace(2.0, 1.5, 0.5), "cpu", 64)
    processes = pace.most_workers()
    assert line.endswith("read limits" if processes == 1 else "encode limits")
    assert "encode (cpu) 1.5 h" in line and "write 30.0 min" in line


def test_a_smaller_codec_is_named_where_writing_limits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pace, "PROBE", 2**20)
    monkeypatch.setattr(pace, "_timed", lambda spec: (Timing(0.0, 0.0, 1.0), 1))
    said = run(
        "plan", "digits", "--measure", "--device", "cpu", "--codec", "digits-vit/tokens=float32"
    )
    assert "--codec digits-vit/tokens=int8 would write" in said


def test_an_encoder_that_cannot_be_loaded_is_named_and_the_others_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pace, "PROBE", 2**20)
    (tmp_path / "unloadable.py").write_text(
        "from reed.cache.schema import Field\n"
        "from reed.errors import ReedError\n"
        "class Mine:\n"
        "    reads, licence, batch_size = ('pixels',), '', 4\n"
        "    fields = (Field('x', 'sample', (1,), 'float16'),)\n"
        "    def revision(self): return '1'\n"
        "    def load(self, device): raise ReedError('no weights at w.pt')\n"
        "    def encode(self, samples): raise AssertionError\n"
    )
    said = run(
        "plan", "digits", "--measure", "--encoder", "mine=unloadable:Mine", "--device", "cpu"
    )
    assert "mine: not measured: no weights at w.pt" in said
