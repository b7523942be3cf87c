"""A cache in the formats of other loaders: each is read back by its own library."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

import reed

RAGGED = runpy.run_path(str(Path(__file__).with_name("tiny_ragged.py")))
NAMES = ("pixels", "tokens", "caption")
BAD = (3, 21)


COMMANDS = runpy.run_path(str(Path(__file__).with_name("commands.py")))
run = COMMANDS["invoked"]


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
        views = opened.manifest.views
        places = [f"{n}/{f.name}" for n, column in opened.columns.items() for f in column.fields]
        for key in opened.plan.keys:
            for view in range(views):
                if key not in opened[places[0]]:
                    continue
                row = {"key": key} | ({"view": view} if views > 1 else {})
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


# Where the extra is absent that brings a library, nothing can be written or read with it.
LIBRARIES = {
    "hf": "datasets",
    "lance": "lance",
    "mds": "streaming",
    "litdata": "litdata",
    "energon": "megatron.energon",
}


def need(to: str) -> None:
    if to in LIBRARIES:
        pytest.importorskip(LIBRARIES[to])


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # energon's loader, without a GPU
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # lance, at a fork
@pytest.mark.parametrize("to", READERS)
def test_every_format_is_read_by_its_own_library(built, tmp_path, to):
    need(to)
    done = run("export", built, "--to", to, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = wanted(built)
    same(READERS[to](tmp_path / "out"), sorted(rows, key=place) if to == "energon" else rows)


def mds_by_hand(folder) -> list[dict]:
    """What the documents of the format say, without its library."""
    rows = []
    for shard in json.loads((folder / "index.json").read_text())["shards"]:
        content = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(content) == shard["raw_data"]["bytes"]
        count = int.from_bytes(content[:4], "little")
        assert count == shard["samples"]
        offsets = np.frombuffer(content, np.uint32, count + 1, 4)
        for begin, end in zip(offsets, offsets[1:], strict=False):
            rows.append(mds_sample(content[begin:end], shard))
    return rows


def mds_sample(data: bytes, shard: dict) -> dict:
    row, varying = {}, shard["column_sizes"].count(None)
    lengths = list(np.frombuffer(data, np.uint32, varying))
    position = 4 * varying
    columns = zip(
        shard["column_names"], shard["column_encodings"], shard["column_sizes"], strict=True
    )
    for name, encoding, size in columns:
        size = int(lengths.pop(0)) if size is None else size
        value, position = data[position : position + size], position + size
        kind, _, rest = encoding.partition(":")
        if kind == "str":
            row[name] = value.decode()
        elif kind == "int":
            row[name] = int.from_bytes(value, "little", signed=True)
        else:
            dtype, _, shape = rest.partition(":")
            if shape:
                sizes, head = [int(n) for n in shape.split(",")], 0
            else:
                axes, kind = divmod(value[0], 4)
                head = 1 + axes * 2**kind
                sizes = np.frombuffer(value[1:head], f"u{2**kind}").tolist()
            row[name] = np.frombuffer(value[head:], dtype).reshape(sizes)
    assert position == len(data)
    return row


def test_mds_is_as_its_documents_say(built, tmp_path):
    run("export", built, "--to", "mds", "--out", tmp_path / "out")
    same(mds_by_hand(tmp_path / "out"), wanted(built))


# ---- lengths that vary, and names of classes


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
    """Chains of 3 to 31 tokens in several shards."""
    folder = tmp_path_factory.mktemp("chains") / "cache"
    return RAGGED["build"](folder)


@pytest.mark.parametrize("to", [name for name in READERS if name != "energon"])
def test_arrays_of_varying_length_keep_it(chains, tmp_path, to):
    if to != "mds":  # read by hand
        need(to)
    done = run("export", chains, "--to", to, "--out", tmp_path / "out", "--column", "chain/x")
    assert done.exit_code == 0, done.output
    rows = [{n: row[n] for n in ("key", "chain.x")} for row in wanted(chains)]
    assert len({len(row["chain.x"]) for row in rows}) > 5
    same((READERS | {"mds": mds_by_hand})[to](tmp_path / "out"), rows)


def test_the_hub_gets_the_names_of_classes_and_a_card(fakes, tmp_path):
    datasets = pytest.importorskip("datasets")
    names = [f"class {i}" for i in range(10)]
    cache, out = tmp_path / "cache", tmp_path / "out"
    fakes.build(cache, ("pixels",), fakes.Source(20), options={"classes": names})
    assert run("export", cache, "--to", "hf", "--out", out).exit_code == 0
    data = datasets.load_dataset(str(out), split="train", cache_dir=tmp_path / "hf")
    assert data.features["pixels.label"].names == names
    assert sorted(data["pixels.label"]) == sorted(int(key[-7:-4]) % 10 for key in data["key"])
    assert (
        "| `pixels.x` | data | float32 | [2, 2, 4] | pixels | MIT |"
        in (out / "README.md").read_text()
    )
