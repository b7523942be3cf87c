"""An open cache: what it holds by place and key, as pairs, as a torch Dataset and as batches."""

from __future__ import annotations

import itertools
import pickle
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import reed
from reed.build import column, engines
from reed.cache import reader, schema
from reed.cache.values import NoSample
from reed.errors import ReedError

HERE = Path(__file__).parent
RAGGED = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_ragged.py")))
PLACES = {"x": "pixels/x", "y": "pixels/label", "z": "tokens/tokens", "text": "caption/text"}
BAD = 7  # the sample that the source cannot read


def refused(*parts, call, kind=ReedError):
    with pytest.raises(kind) as caught:
        call()
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def folder(fakes, tmp_path_factory):
    """60 samples, of which one failed; two views; int8 tokens, bfloat16 means, text, labels."""
    source = fakes.Source(60, bad=(BAD,))
    return fakes.build(
        tmp_path_factory.mktemp("opened") / "fake", source=source, flip=True, retry=False
    )


@pytest.fixture
def cache(folder):
    with reed.open_cache(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    return RAGGED.build(tmp_path_factory.mktemp("ragged") / "cache")


def by_hand(folder, name, view=0):
    """Every record of a column, read without the open cache: key -> {field: value}."""
    found = schema.load_column(folder, name)
    state, shards = reader.load_state(folder, found), sorted((folder / name).glob("[0-9]*.json"))
    return {
        key: values
        for path in shards
        for key, values in reader.records(
            folder, found, int(path.stem), found.fields, state, view=view
        )
    }


def same(ours, theirs):
    if isinstance(theirs, str):
        assert ours == theirs
    else:
        np.testing.assert_array_equal(ours, theirs)


def test_importing_reed_imports_nothing_heavy():
    code = (
        "import sys, reed; assert reed.__version__ and 'open_cache' in reed.__all__\n"
        "heavy = {'numpy', 'torch', 'reed.cache'} & set(sys.modules); assert not heavy, heavy\n"
        "assert reed.open_cache.__name__ == 'open_cache' and reed.Cache\n"
        "assert 'torch' not in sys.modules  # nor does opening a cache need it\n"
        "assert not hasattr(reed, 'opencache')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_columns_and_plan(cache, folder):
    assert list(cache.columns) == schema.columns(folder) == ["caption", "pixels", "tokens", "words"]
    assert cache.columns["tokens"] == schema.load_column(folder, "tokens")
    assert len(cache.plan.keys) == cache.manifest.samples == 60
    assert str(folder) in repr(cache)


@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize("name", ["pixels", "tokens", "caption", "words"])
def test_records_and_values_are_those_of_the_column(cache, folder, name, view):
    wanted = by_hand(folder, name, view)
    assert len(wanted) == 59
    for (key, values), expected in zip(cache.records(name, view=view), wanted.items(), strict=True):
        assert key == expected[0] and values.keys() == expected[1].keys()
        for field, value in expected[1].items():
            same(values[field], value)
            same(cache.values(name, view)[key][field], value)
    field = next(iter(values))
    for key, value in cache.records(f"{name}/{field}", view=view):
        same(value, wanted[key][field])
        same(cache.values(f"{name}/{field}", view)[key], value)


def test_the_views_differ(cache):
    key, value = next(cache.records("caption/text"))
    assert cache["caption/text"][key] == value
    assert cache.values("caption/text", view=1)[key] == value[::-1]


def test_some_shards_and_some_keys(cache):
    keys = cache.plan.keys_of(1)
    assert [key for key, _ in cache.records("pixels", shards=[1])] == [
        key for key in keys if key not in cache.marker("pixels", 1).failed
    ]
    found = dict(cache.records("pixels/label", keys={keys[0], keys[3]}))
    assert found.keys() <= {keys[0], keys[3]} and found


def test_values_are_a_mapping(cache, fakes):
    labels, source = cache["pixels/label"], fakes.Source()
    assert len(labels) == len(list(labels)) == 59 and dict(labels).keys() == set(labels)
    assert all(int(label) == source.keys.index(key) % 10 for key, label in labels.items())
    assert source.keys[3] in labels and source.keys[BAD] not in labels
    assert labels.get(source.keys[BAD]) is None and labels.get("nobody", 5) == 5


def test_a_sample_that_a_column_skipped_says_why(cache, fakes):
    key = fakes.Source().keys[BAD]
    parts = ("column 'tokens'", repr(key), "left out: the file is empty")
    refused(*parts, call=lambda: cache["tokens/tokens"][key], kind=NoSample)
    refused(*parts, call=lambda: cache["tokens/tokens"][key], kind=KeyError)
    assert key not in dict(cache.records("tokens/tokens"))


@pytest.mark.parametrize(
    ("place", "key", "parts"),
    [
        ("token/tokens", "", ["has no column 'token'", "Did you mean 'tokens'"]),
        ("tokens/token", "", ["has no field 'token'", "Did you mean 'tokens'"]),
        ("pixels/x", "a/sample-0133.png", ["no sample 'a/sample-0133.png'", "'a/sample-013.png'"]),
        ("pixels/x", 3, ["has no sample 3"]),
    ],
)
def test_what_is_not_there_is_said_with_what_is_near(cache, place, key, parts):
    refused(*parts, call=lambda: cache[place][key])


def test_a_view_that_is_not_stored(cache, ragged):
    for call in (
        lambda: cache.values("pixels/x", view=2),
        lambda: cache.records("pixels/x", view=-1),
        lambda: cache.dataset(PLACES, view=2),
    ):
        refused("it has 2 views", call=call)
    refused("it has 1 view of", call=lambda: reed.open_cache(ragged).dataset(["chain/x"], view=1))


def test_a_closed_cache_says_so(folder):
    with reed.open_cache(folder) as cache:
        data, labels = cache.dataset(["pixels/x"]), cache["pixels/label"]
        stream, key = cache.stream(["pixels/x"], batch=4), data.keys[0]
        assert data[0] and labels[key] is not None
    for call in (
        lambda: cache.columns,
        lambda: cache.plan,
        lambda: cache["pixels/x"],
        lambda: cache.records("pixels/x"),
        lambda: data[0],
        lambda: labels[key],
        lambda: pickle.dumps(cache),
    ):
        refused(f"{folder} is closed", "reed.open_cache", call=call)
    assert "closed" in repr(cache)
    assert next(stream.batches())  # which opens its own files


def test_no_cache(tmp_path):
    refused("no cache at", "reed-cache build", call=lambda: reed.open_cache(str(tmp_path)))


def test_places_are_not_one_word(cache):
    refused("the places are 'pixels/x'", "list", call=lambda: cache.dataset("pixels/x"))
    for place in ("pixels", "pixels/"):
        refused("names a column", "pixels/x", call=lambda p=place: cache.dataset([p]))


def test_a_column_that_is_not_whole(fakes, tmp_path):
    cache = reed.open_cache(fakes.build(tmp_path / "fake", names=("pixels",)))
    key, path = cache.plan.keys_of(2)[0], tmp_path / "fake" / "pixels" / "000002.json"
    path.rename(tmp_path / "kept")
    refused("lacks sample", "shard 2 of 4", call=lambda: cache["pixels/x"][key], kind=NoSample)
    refused("incomplete: 1 of 4", call=lambda: cache.dataset(["pixels/x"]))
    assert cache["pixels/x"][cache.plan.keys_of(1)[0]].shape == (2, 2, 4)
    (tmp_path / "kept").rename(path)  # built in the meantime
    assert cache["pixels/x"][key].shape == (2, 2, 4) and len(cache.dataset(["pixels/x"])) == 60


def test_keys_that_are_not_the_planned_ones(fakes, tmp_path):
    folder = fakes.build(tmp_path / "fake", names=("pixels",))
    path = folder / "pixels" / "000000.json"
    marker = schema.load_marker(folder, schema.load_column(folder, "pixels"), 0)
    first, *others = marker.keys
    changed = schema.Marker(**vars(marker) | {"keys": ("other", *others)})
    path.write_bytes(schema.dump(changed))
    cache = reed.open_cache(folder)
    refused("not the planned ones", "verify", call=lambda: cache["pixels/x"][first])


def test_a_dataset_joins_places_and_decodes_them(cache, folder):
    for view in (0, 1):
        data = cache.dataset(PLACES, view)
        columns = {name: by_hand(folder, name, view) for name in ("pixels", "tokens", "caption")}
        assert len(data) == len(data.keys) == 59
        for key, sample in zip(data.keys, data, strict=True):
            for name, place in PLACES.items():
                column_name, _, field = place.partition("/")
                same(sample[name], columns[column_name][key][field])
    assert data[0]["x"].dtype == data[0]["z"].dtype == torch.float32
    assert data[0]["y"].dtype == torch.int64 and data[0]["y"].shape == ()
    same(data[-1]["z"], data[58]["z"])
    with pytest.raises(IndexError):
        data[59]


@pytest.mark.parametrize("method", ["", "fork", "spawn"])
def test_a_dataloader_reads_it_in_any_process(cache, method):
    places = ["pixels/x", "pixels/label", "tokens/tokens", "tokens/mean"]
    data = cache.dataset(places)
    straight = [data[i] for i in range(len(data))]  # files are open now, which a fork inherits
    workers = {"num_workers": 2, "multiprocessing_context": method} if method else {}
    batches = list(DataLoader(data, batch_size=8, **workers))
    assert len(batches) == 8
    for place in places:
        whole = torch.cat([batch[place] for batch in batches])
        assert torch.equal(whole, torch.stack([sample[place] for sample in straight]))


def test_samples_of_different_lengths(ragged):
    with reed.open_cache(ragged) as cache:
        data = cache.dataset({"x": "chain/x", "z": "teacher/tokens"})
        source = RAGGED.Source()
        for key, sample in zip(data.keys, data, strict=True):
            raw = source.read(key)
            same(sample["x"], raw["x"])
            assert sample["z"].shape == (len(raw["x"]), 6)
            same(cache["chain/x"][key], raw["x"])
        stored = next(cache.stream(["chain/x"], tokens=160).batches())
        assert stored.mask().sum() == stored.lengths.sum()


def test_components_in_place_of_channels(fakes, tmp_path):
    folder = fakes.build(tmp_path / "fake", names=("tokens",))
    source, encoder = fakes.Source(), fakes.Tokens()
    fields = {f.name: f for f in encoder.fields}
    encoder.fields = (schema.Field("tokens", "token", (6, 8), "pca:3+int8"), fields["mean"])
    job = column.open_job(folder, fakes.freeze(folder, source), "reduced", encoder, source)
    engines.run(job, engines.Share(), progress=False)
    with reed.open_cache(folder) as cache:
        data, wanted = cache.dataset(["reduced/tokens"]), by_hand(folder, "reduced")
        assert data[0]["reduced/tokens"].shape == (6, 3)
        for key, sample in zip(data.keys, data, strict=True):
            same(sample["reduced/tokens"], wanted[key]["tokens"])


def test_a_stream_is_that_of_training(cache):
    stream = cache.stream({"z": "tokens/tokens"}, batch=10, seed=3, threads=0)
    batches = stream.batches()
    for stored in itertools.islice(batches, 3):
        keys = stream.keys_at(stored.step)
        values = stream.decode(stored)["z"]
        views = [cache.values("tokens/tokens", view) for view in (0, 1)]
        for key, value in zip(keys, values, strict=True):
            assert any(np.array_equal(view[key], value) for view in views)
    batches.close()
    refused("which no net can read", call=lambda: cache.stream(["caption/text"], batch=4))


def test_a_damaged_shard_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "pixels" / "000000.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with reed.open_cache(tmp_path / "copy") as cache:
        key = cache.plan.keys_of(0)[0]
        refused("000000.tar has", "verify", call=lambda: cache["pixels/x"][key])
        refused("000000.tar has", call=lambda: cache.dataset(["pixels/x"]))
