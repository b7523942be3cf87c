"""A cache in the formats of other loaders: each is read back by its own library."""

from __future__ import annotations

import json
from urllib.parse import unquote

import numpy as np
import pytest
from click.testing import CliRunner

import reed
from reed.cli import cache as cli

NAMES = ("pixels", "tokens", "caption")
BAD = (3, 21)


def run(*words):
    """The command line in this process."""
    result = CliRunner().invoke(cli.main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def built(fakes, tmp_path_factory):
    """Three columns of 30 samples in three shards with two views; two samples failed."""
    folder = tmp_path_factory.mktemp("exchange") / "cache"
    source = fakes.Source(30, bad=BAD)
    return fakes.build(folder, NAMES, source, shard_size=12, flip=True, max_failed=0.1)


def wanted(cache, dtype=np.float32) -> list[dict]:
    """The rows as the cache gives them: in cache order, both views of a sample together."""
    rows = []
    with reed.open_cache(cache) as opened:
        places = [f"{n}/{f.name}" for n, column in opened.columns.items() for f in column.fields]
        for key in opened.plan.keys:
            for view in range(opened.manifest.views):
                if key not in opened["pixels/x"]:
                    continue
                row = {"key": key, "view": view}
                for place in places:
                    value = opened.values(place, view)[key]
                    if isinstance(value, np.ndarray):
                        value = value.astype(dtype) if value.dtype.kind == "f" else value
                    row[place.replace("/", ".")] = value
                rows.append(row)
    return rows


def same(found: list[dict], rows: list[dict]) -> None:
    """Two tables are equal bit for bit, and in the same order."""
    assert len(found) == len(rows)
    for mine, row in zip(found, rows, strict=True):
        assert mine.keys() == row.keys()
        for name, value in row.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(np.asarray(mine[name]), value, err_msg=name)
            else:
                assert mine[name] == value, name


def read_parquet(folder) -> list[dict]:
    import pyarrow.parquet as pq

    return [
        row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


# ---- formats


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parquet_has_the_values_keys_and_texts(built, tmp_path, dtype):
    done = run("export", built, "--to", "parquet", "--out", tmp_path / "out", "--dtype", dtype)
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'out'}: 28 samples, 56 rows" in done.output
    assert done.output.count("a/sample-003.png") == len(NAMES)
    rows = wanted(built, dtype)
    assert len(rows) == 56
    same(read_parquet(tmp_path / "out"), rows)
    account = json.loads((tmp_path / "out" / "export.json").read_text())
    keys = {f"a/sample-{i:03d}.png" for i in BAD}
    assert {n: set(failed) for n, failed in account["left_out"].items()} == dict.fromkeys(
        NAMES, keys
    )
    assert set(account["left_out"]["pixels"].values()) == {"the file is empty"}


def read_hf(folder) -> list[dict]:
    datasets = pytest.importorskip("datasets")
    cache = folder.with_name("hf-cache")
    data = datasets.load_dataset(str(folder), split="train", cache_dir=cache)
    return list(data.with_format("numpy"))


def read_lance(folder) -> list[dict]:
    lance = pytest.importorskip("lance")
    rows = lance.dataset(str(folder)).to_table().to_pylist()
    return [
        {name: value for name, value in row.items() if not isinstance(value, dict)}
        | {f"{n}.{f}": v for n, s in row.items() if isinstance(s, dict) for f, v in s.items()}
        for row in rows
    ]


def read_mds(folder) -> list[dict]:
    streaming = pytest.importorskip("streaming")
    data = streaming.StreamingDataset(local=str(folder), shuffle=False, batch_size=1)
    return [data[i] for i in range(len(data))]


def read_litdata(folder) -> list[dict]:
    litdata = pytest.importorskip("litdata")
    data = litdata.StreamingDataset(str(folder), shuffle=False)
    return [data[i] for i in range(len(data))]


def place(row: dict) -> tuple[str, int]:
    return row["key"], row["view"]


def read_energon(folder) -> list[dict]:
    energon = pytest.importorskip("megatron.energon")

    class Joined(energon.DefaultTaskEncoder):
        cookers = (energon.Cooker(lambda sample: sample),)

        def batch(self, samples):
            return samples

    data = energon.get_train_dataset(
        str(folder / "metadataset.yaml"),
        worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        parallel_shard_iters=1,
        repeat=False,
        task_encoder=Joined(),
    )
    samples = list(energon.get_loader(data))
    for sample in samples:
        key, _, view = sample["__key__"].partition("~")
        sample |= {"key": unquote(key), "view": int(view or 0)}
    rows = [{n: v for n, v in sample.items() if n[:2] != "__"} for sample in samples]
    return sorted(rows, key=place)  # it shuffles them


READERS = {
    "parquet": read_parquet,
    "hf": read_hf,
    "lance": read_lance,
    "mds": read_mds,
    "litdata": read_litdata,
    "energon": read_energon,
}


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # energon's loader, without a GPU
@pytest.mark.parametrize("to", READERS)
def test_every_format_is_read_by_its_own_library(built, tmp_path, to):
    done = run("export", built, "--to", to, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = wanted(built)
    same(READERS[to](tmp_path / "out"), sorted(rows, key=place) if to == "energon" else rows)
