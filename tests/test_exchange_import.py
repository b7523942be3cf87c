"""Arrays that were computed elsewhere become a column, by key."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import reed
from reed.build.shard import BadSample
from reed.encoders.array_file import ArrayFile
from reed.encoders.keyed import open_arrays
from reed.errors import ReedError

COMMANDS = runpy.run_path(str(Path(__file__).with_name("commands.py")))
run = COMMANDS["invoked"]


@pytest.fixture(scope="module")
def whole(fakes, tmp_path_factory):
    """Pixels and tokens of 20 samples in three shards."""
    folder = tmp_path_factory.mktemp("import") / "cache"
    source = fakes.Source(20)
    return fakes.build(folder, ("pixels", "tokens"), source, shard_size=8, max_failed=0.1)


@pytest.fixture
def cache(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "cache")


def arrays_of(keys, shape=(6,)) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    return {key: draws.standard_normal(shape).astype(np.float32) for key in keys}


def npz(path, arrays):
    np.savez(path, **arrays)


def folder(path, arrays):
    for key, array in arrays.items():
        (path / key).parent.mkdir(parents=True, exist_ok=True)
        np.save(path / f"{key}.npy", array)


def safetensors(path, arrays):
    save_file({key: torch.from_numpy(array) for key, array in arrays.items()}, path)


def hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array


def parquet(path, arrays):
    table = pa.table({"key": list(arrays), "v": [array.tolist() for array in arrays.values()]})
    pq.write_table(table.cast(_narrow(table.schema)), path, row_group_size=3)


def _narrow(schema):
    """Lists of float32 in place of those of Python's floats."""
    kind = schema.field("v").type
    inner = pa.list_(pa.list_(pa.float32())) if pa.types.is_list(kind.value_type) else None
    return pa.schema([("key", pa.string()), ("v", inner or pa.list_(pa.float32()))])


WRITERS = {
    "x.npz": npz,
    "x": folder,
    "x.safetensors": safetensors,
    "x.h5": hdf5,
    "x.hdf5": hdf5,
    "x.parquet": parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_arrays_by_key_become_a_column(cache, tmp_path, name):
    with reed.open_cache(cache) as opened:
        keys = list(opened.plan.keys)
    arrays = arrays_of(keys[:19], shape=(6,) if name == "x" else (3, 6))  # one has none
    WRITERS[name](tmp_path / name, arrays)
    done = run("import", cache / "mine", tmp_path / name, "--codec", "float32", "--licence", "MIT")
    assert done.exit_code == 0, done.output
    assert "float32, 19 of 20 samples" in done.output
    with reed.open_cache(cache) as opened:
        values = opened["mine/array"]
        assert opened.column("mine").licence == "MIT" and list(values) == keys[:19]
        for key, array in arrays.items():
            np.testing.assert_array_equal(values[key], array)
    assert run("verify", cache, "--deep").exit_code == 0

    # A rerun makes what is missing; other arrays are refused.
    words = ("import", cache / "mine", tmp_path / name, "--codec", "float32", "--licence", "MIT")
    (cache / "mine" / "000001.json").unlink()
    assert run(*words).exit_code == 0
    assert run("verify", cache, "--deep").exit_code == 0
    WRITERS[name](tmp_path / name, arrays_of(keys, next(iter(arrays.values())).shape))
    done = run(*words)
    assert done.exit_code == 2 and "revision" in done.stderr


def test_what_was_exported_is_imported(cache, tmp_path):
    for dtype in ("float32", "float16"):
        out = tmp_path / dtype
        assert (
            run("export", cache, "--to", "parquet", "--dtype", dtype, "--out", out).exit_code == 0
        )
        words = ("--entry", "tokens.tokens", "--codec", dtype)
        assert run("import", cache / f"again-{dtype}", out, *words).exit_code == 0
        with reed.open_cache(cache) as opened:
            for key, value in opened["tokens/tokens"].items():
                again = opened[f"again-{dtype}/array"][key]
                np.testing.assert_array_equal(again, value.astype(dtype))


def test_bfloat16_of_safetensors_is_read(tmp_path):
    value = torch.randn(5, generator=torch.Generator().manual_seed(0)).bfloat16()
    save_file({"a": value}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(open_arrays(tmp_path / "x.safetensors")["a"], value.float())


@pytest.mark.parametrize("length", [0, 1, 4])
def test_lengths_vary_in_parquet(tmp_path, length):
    rows = [[[0.5, 1.5]] * length, [[2.5, 3.5]] * 2]
    kind = pa.list_(pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"key": ["a", "b"], "v": pa.array(rows, kind)}), tmp_path / "x.parquet")
    opened = open_arrays(tmp_path / "x.parquet")
    assert list(opened) == ["a", "b"] and len(opened) == 2
    assert opened["a"].shape == (length, 2)
    np.testing.assert_array_equal(opened["b"], np.float32(rows[1]))


# ---- refused


def table(path, **columns):
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize(
    ("columns", "entry", "part"),
    [
        ({"id": ["a"], "v": [[1.0]]}, "", "has no column 'key' with the keys of samples"),
        ({"key": ["a"], "v": [[1.0]], "w": [[1.0]]}, "", "has the columns v, w; name one of them"),
        ({"key": ["a"], "value": [[1.0]]}, "valeu", "no column 'valeu'. Did you mean 'value'?"),
        ({"key": ["a", "a"], "v": [[1.0], [2.0]]}, "", "has the key 'a' twice"),
    ],
)
def test_parquet_that_cannot_be_used_is_one_line(tmp_path, columns, entry, part):
    table(tmp_path / "x.parquet", **columns)
    with pytest.raises(ReedError, match=part):
        open_arrays(tmp_path / "x.parquet", entry)


def test_lists_of_different_lengths_fail(tmp_path):
    table(tmp_path / "x.parquet", key=["a"], v=[[[1.0], [1.0, 2.0, 3.0]]])
    encoder = ArrayFile(tmp_path / "x.parquet", "token", channels=2)
    encoder.load("cpu")
    with pytest.raises(BadSample, match="its lists differ in length"):
        encoder.encode([{"key": "a"}])


def test_what_cannot_be_imported_is_one_line(fakes, cache, tmp_path):
    with reed.open_cache(cache) as opened:
        keys = list(opened.plan.keys)
    npz(tmp_path / "deep.npz", arrays_of(keys, (2, 2, 2)))
    npz(tmp_path / "other.npz", arrays_of(["b/1", "b/2", "b/3"]))
    npz(tmp_path / "none.npz", {})
    (tmp_path / "x.h5").write_bytes(b"no such thing")
    twice = fakes.build(tmp_path / "two", ("pixels",), fakes.Source(4), flip=True)
    for target, name, words, part in (
        (cache, "deep.npz", (), "shape [2, 2, 2]; import takes [channels] or [tokens, channels]"),
        (cache, "other.npz", (), "has no array for any key of 20; the cache has keys such as"),
        (cache, "other.npz", (), "the file 'b/1', 'b/2'"),
        (cache, "none.npz", (), "the file none at all"),
        (cache, "x.h5", (), "x.h5 as .npz, .safetensors, .h5, .parquet or folder"),
        (cache, "other.npz", ("--entry", "v"), "is not parquet, so there is no column 'v' in it"),
        (twice, "other.npz", (), "has a mirrored view of each sample"),
        (tmp_path / "gone", "other.npz", (), "no cache at"),
    ):
        done = run("import", target / "mine", tmp_path / name, *words)
        assert done.exit_code == 2 and part in done.stderr, done.stderr
        assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
        assert not (target / "mine").exists()
