"""An export that is killed or refused leaves nothing that looks whole, and says why in one line."""

from __future__ import annotations

import errno
import os
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import reed
from reed.cache import convert, files
from reed.cache.schema import Field
from reed.errors import ReedError
from reed.exchange import export as exporting
from reed.exchange import mds, parquet
from reed.exchange.table import Table

NAMES = ("pixels", "tokens", "caption")


COMMANDS = runpy.run_path(str(Path(__file__).with_name("commands.py")))
run = COMMANDS["invoked"]


@pytest.fixture(scope="module")
def whole(fakes, tmp_path_factory):
    """Three columns of 20 samples in three shards."""
    folder = tmp_path_factory.mktemp("exchange") / "cache"
    return fakes.build(folder, NAMES, fakes.Source(20), shard_size=8)


@pytest.fixture
def cache(whole, tmp_path):
    """A copy of it that a test may damage."""
    return shutil.copytree(whole, tmp_path / "cache")


# ---- killed


@pytest.mark.filterwarnings("ignore:lance is not fork-safe")  # where another test imported it
@pytest.mark.parametrize("to", ["parquet", "hf", "mds"])
def test_a_killed_export_is_invisible_and_goes_on(fakes, whole, tmp_path, to):
    assert run("export", whole, "--to", to, "--out", tmp_path / "want").exit_code == 0

    # The process dies while it writes the second shard.
    pid = os.fork()
    if pid == 0:
        rename, left = os.replace, iter("xxx")

        def dying(*words):
            if "exporting" in str(words[1]) and next(left, None) is None:
                os._exit(9)
            rename(*words)

        os.replace = dying
        run("export", whole, "--to", to, "--out", tmp_path / "out")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    work = tmp_path / ".out.exporting"
    assert not (tmp_path / "out").exists() and work.is_dir()

    # What was whole is kept as it is, what was not is gone at the end.
    kept = {
        p: p.stat().st_ino for p in work.rglob("*0000*") if p.is_file() and ".tmp" not in str(p)
    }
    assert kept
    assert run("export", whole, "--to", to, "--out", tmp_path / "out").exit_code == 0
    assert fakes.tree(tmp_path / "out") == fakes.tree(tmp_path / "want") and not work.exists()
    assert {(tmp_path / "out" / p.relative_to(work)).stat().st_ino for p in kept} == {
        *kept.values()
    }


def test_another_request_begins_anew(fakes, whole, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched, reed.open_cache(whole) as opened:
        patched.setattr(parquet.Parquet, "finish", fail)
        with pytest.raises(OSError):
            exporting.export(opened, "parquet", tmp_path / "out", progress=False)
    words = ("--to", "parquet", "--dtype", "float16")
    assert run("export", whole, *words, "--out", tmp_path / "out").exit_code == 0
    assert run("export", whole, *words, "--out", tmp_path / "want").exit_code == 0
    assert fakes.tree(tmp_path / "out") == fakes.tree(tmp_path / "want")


def test_the_bytes_of_all_values_are_known(whole):
    texts = 20 * len("a picture of the nümber 0".encode()) + 5 * (0 + 1 + 2 + 3)
    with reed.open_cache(whole) as opened:
        assert Table(opened).bytes() == 20 * (4 * 16 + 8 + 4 * 48 + 4 * 8) + texts == 6470
        assert Table(opened, ["tokens/mean"], "float16").bytes() == 20 * 2 * 8


def test_only_some_rows_are_in_memory(whole, monkeypatch):
    monkeypatch.setattr("reed.exchange.table.BLOCK_ROWS", 3)
    with reed.open_cache(whole) as opened:
        table = Table(opened)
        assert [len(block) for block in table.blocks(table.rows(0))] == [3, 3, 2]


# ---- refused


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--to", "parquett"), "unknown format 'parquett'. Did you mean 'parquet'?"),
        (("--to", "mds", "--column", "pixel"), "no column 'pixel'. Did you mean 'pixels'?"),
        (("--to", "mds", "--column", "pixels/y"), "column 'pixels' has no field 'y'"),
        (("--to", "energon", "--dtype", "float16"), "so --dtype float16 has no effect"),
        (("--to", "energon", "--column", "pixels/x"), "energon reads whole columns, not pixels/x"),
    ],
)
def test_what_was_mistyped_is_one_line(whole, tmp_path, words, part):
    done = run("export", whole, *words, "--out", tmp_path / "out")
    assert done.exit_code == 2 and part in done.stderr, done.stderr
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_folder_that_is_there_stays(whole, tmp_path):
    (tmp_path / "out").mkdir()
    done = run("export", whole, "--to", "parquet", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert done.stderr == (
        f"Error: {tmp_path / 'out'} exists; remove it, or name another folder with --out\n"
    )


def test_the_default_folder_is_beside_the_cache(cache):
    assert run("export", cache, "--to", "parquet").exit_code == 0
    assert (cache.parent / "cache-parquet" / "000002.parquet").is_file()


def test_an_incomplete_column_is_named(cache, tmp_path):
    (cache / "tokens" / "000001.json").unlink()
    done = run("export", cache, "--to", "parquet", "--out", tmp_path / "out")
    assert "column 'tokens'" in done.stderr and "is incomplete: 1 of 3 shards" in done.stderr
    words = ("--column", "pixels", "--column", "caption")
    assert run("export", cache, "--to", "parquet", *words).exit_code == 0


def test_a_cache_without_columns_has_nothing_to_export(fakes, tmp_path):
    fakes.freeze(tmp_path / "cache", fakes.Source(4))
    done = run("export", tmp_path / "cache", "--to", "parquet")
    assert "has no columns; build one with: reed-cache build" in done.stderr


def test_a_damaged_shard_is_not_exported(cache, tmp_path):
    path = cache / "tokens" / "000001.tar"
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    done = run("export", cache, "--to", "mds", "--out", tmp_path / "out")
    assert f"{path}: sha256" in done.stderr and f"run reed-cache repair {cache}" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_value_beyond_float16_is_named(fakes, tmp_path, monkeypatch):
    large = np.full((2, 2, 4), 7e4, np.float32)
    monkeypatch.setattr(fakes.Pixels, "fields", (Field("x", "data", (2, 2, 4)),))
    monkeypatch.setattr(fakes.Pixels, "one", lambda self, sample: (large,))
    cache = fakes.build(tmp_path / "cache", ("pixels",), fakes.Source(4))
    done = run("export", cache, "--to", "parquet", "--dtype", "float16")
    assert "pixels/x of sample 'a/sample-" in done.stderr
    assert "holds 70000, beyond float16; use --dtype float32" in done.stderr
    assert run("export", cache, "--to", "parquet").exit_code == 0


def test_a_full_disk_is_told_before_and_while(whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(files, "free", lambda folder: 10)
        done = run("export", whole, "--to", "parquet", "--out", out)
        assert f"{tmp_path} needs 6.5 kB and its file system has 10 B free" in done.stderr
        assert not any(tmp_path.iterdir())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mds.Mds, "_file", full)
    done = run("export", whole, "--to", "mds", "--out", out)
    assert "make room there, then rerun" in done.stderr and not out.exists()
    monkeypatch.setattr(parquet.Parquet, "finish", full)
    done = run("export", whole, "--to", "parquet", "--out", out)
    work = tmp_path / ".out.exporting"
    assert f"cannot write {work}: no space left; make room there, then rerun" in done.stderr


def test_two_exports_do_not_mix(whole, tmp_path):
    with files.only_writer(tmp_path / ".out.exporting"):
        done = run("export", whole, "--to", "parquet", "--out", tmp_path / "out")
    assert "another process is writing" in done.stderr


@pytest.mark.parametrize(
    ("module", "to", "extra"),
    [
        ("pyarrow", "parquet", "export"),
        ("lance", "lance", "lance"),
        ("litdata", "litdata", "litdata"),
        ("megatron", "energon", "energon"),
    ],
)
def test_a_missing_library_is_one_line(whole, tmp_path, monkeypatch, module, to, extra):
    for name in [n for n in sys.modules if n.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    done = run("export", whole, "--to", to, "--out", tmp_path / "out")
    assert f"needs {module}, which cannot be imported" in done.stderr
    assert f"[{extra}]" in done.stderr and done.stderr.count("\n") == 1


def test_energon_reads_tars_only(whole, tmp_path):
    convert.convert(whole, tmp_path / "h5", "h5", ["tokens"], progress=False)
    done = run("export", tmp_path / "h5", "--to", "energon")
    assert "the shards of column 'tokens' are h5; convert them: reed-cache convert" in done.stderr


def test_lance_allows_no_dot_in_a_name(fakes, tmp_path, monkeypatch):
    monkeypatch.setitem(fakes.ENCODERS, "a.b", fakes.Pixels)
    cache = fakes.build(tmp_path / "cache", ("a.b",), fakes.Source(4))
    done = run("export", cache, "--to", "lance")
    assert "Lance allows no '.' in a name, and a column is called 'a.b'" in done.stderr


def test_mds_holds_no_sample_of_4_gib(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(mds, "_LARGEST", 100)
    done = run("export", whole, "--to", "mds", "--out", tmp_path / "out")
    assert "shard 0 has a sample of 4 GiB, more than MDS can hold" in done.stderr


def test_values_are_float16_or_float32(whole):
    with reed.open_cache(whole) as opened, pytest.raises(ReedError, match="unknown type 'float64'"):
        Table(opened, dtype="float64")
