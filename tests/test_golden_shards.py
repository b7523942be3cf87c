"""The bytes of shards and markers are those of the first version that wrote a shard in batches.

golden/shards.json has the sha256 of every file, recorded with the code before that, which encoded
and wrote record by record. ``python tests/test_golden_shards.py`` writes it anew.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from reed.build import column
from reed.build import shard as build
from reed.cache import aside, plan
from reed.cache.schema import Field, marker_path, shard_path

GOLDEN = Path(__file__).parent / "golden" / "shards.json"
SAMPLES, SHARD, BATCH = 23, 12, 5
CONTAINERS = ("tar", "h5", "zarr")
BAD, ODD = "s04", "s 7.~é" + "x" * 80  # one that int8 refuses, one with a long and odd key


def numbers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Float32 numbers of many magnitudes, from integer arithmetic: no library's random stream."""
    index = np.arange(np.prod(shape, dtype=int), dtype=np.uint64) + np.uint64(seed * 65_537)
    mixed = (index * np.uint64(2_654_435_761)) % np.uint64(2**32)
    signed = mixed.astype(np.float64) / 2**31 - 1
    powers = (mixed % np.uint64(7)).astype(int)
    return (signed * np.float64(2) ** powers).astype(np.float32).reshape(shape)


def fields(name: str) -> tuple[Field, ...]:
    """The fields of a column."""
    if name == "ragged":
        return (
            Field("chain", "token", (None, 8), "int8"),
            Field("coords", "data", (None, 3), "float32+nan"),
            Field("kinds", "data", (None,), "int32"),
            Field("words", "text", (), "utf8"),
        )
    if name == "white":
        codecs = ("pca:5", "pca:5+int8", "standard", "standard+int8")
        return tuple(Field(f"f{i}", "token", (70, 16), codec) for i, codec in enumerate(codecs))
    return (
        Field("tokens", "token", (70, 16), "int8"),
        Field("half", "token", (70, 16), "float16"),
        Field("brain", "token", (70, 16), "bfloat16"),
        Field("cls", "sample", (16,), "float32"),
        Field("moments", "moments", (4, 6, 6), "float16"),
        Field("pixels", "data", (3, 6, 6), "uint8"),
        Field("many", "data", (5,), "int64"),
        Field("single", "data", (), "float32"),
        Field("label", "label", (), "int64"),
        Field("flat", "token", (70, 1), "float32"),
        Field("none", "token", (0, 4), "float32"),
    )


def value(field: Field, i: int, view: int) -> object:
    """The value of a field of a sample."""
    if field.kind == "text":
        return "né " * (i % 5)
    shape = tuple(1 + i % 4 if n is None else n for n in field.shape)
    found = numbers(shape, 100 * i + 7 * view + len(field.name))
    if field.codec in ("uint8", "int32", "int64"):
        return np.abs(found * 2).astype(field.codec)
    if field.codec == "float32+nan":
        found[::2] = np.nan
    return found


class Source:
    """Numbers of the samples."""

    entries, views = ("number", "view"), 2

    def listing(self) -> dict[str, str]:
        return {ODD if i == 7 else f"s{i:02d}": "1" for i in range(SAMPLES)}

    def read(self, key: str, view: int = 0) -> dict[str, int]:
        return {"number": 7 if key == ODD else int(key[1:]), "view": view}


class Encoder:
    """Values of every field; arrays of a whole batch where the shape is one and the same."""

    licence, batch_size, reads = "", BATCH, ("number", "view")

    def __init__(self, name: str) -> None:
        self.fields = fields(name)

    def revision(self) -> str:
        return "1"

    def encode(self, samples):
        batch: dict[str, object] = {}
        for field in self.fields:
            values = [value(field, sample["number"], sample["view"]) for sample in samples]
            bad = [i for i, sample in enumerate(samples) if sample["number"] == int(BAD[1:])]
            if bad and field.name in ("tokens", "chain", "f1"):
                values[bad[0]][-1, 3] = np.inf
            is_ragged = field.kind == "text" or None in field.shape
            batch[field.name] = values if is_ragged else np.stack(values)
        return batch


def state_of(field: Field) -> dict[str, np.ndarray]:
    """A calibration that no linear algebra was needed for."""
    channels = (field.shape[-1] if field.shape else 0) or 1
    kept = 5 if field.codec.startswith("pca") else channels
    state = {"rms": np.abs(numbers((kept,), 3)) + np.float32(0.5)}
    if field.name.startswith("f") and field.name[1:].isdigit():
        state |= {"mean": numbers((channels,), 5), "std": np.abs(numbers((kept,), 6)) + 1}
        if field.codec.startswith("pca"):
            state["basis"] = numbers((kept, channels), 9)
    return {name: np.asarray(array, np.float32) for name, array in state.items()}


def hashes(folder: Path, name: str, container: str) -> dict[str, str]:
    """Build a column; return the sha256 of its files."""
    source, cache = Source(), folder / f"{name}-{container}"
    frozen = plan.freeze(
        cache,
        source.listing(),
        pipeline="p",
        domain="image",
        source="s",
        shard_size=SHARD,
        flip=True,
    )
    encoder = Encoder(name)
    described = column.Column(name, "e", "1", encoder.reads, encoder.fields, "", container)
    states = {field.name: state_of(field) for field in encoder.fields}
    job = build.Job(cache, frozen, described, source, encoder, states)
    found = {}
    for shard in range(frozen.shards):
        marker, _ = build.build_shard(job, shard, build.Tally(name, SAMPLES, allowed=1.0))
        for place in (shard_path, marker_path):
            data = place(cache, described, shard).read_bytes()
            found[f"{container}/{name}/{shard}/{place.__name__}"] = hashlib.sha256(data).hexdigest()
        assert (BAD in marker.failed) == (BAD in frozen.keys_of(shard))
    return found


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", ["plain", "ragged", "white"])
def test_shards_and_markers_are_those_of_before(tmp_path, name, container):
    golden = json.loads(GOLDEN.read_text())
    found = hashes(tmp_path, name, container)
    assert found == {name: golden[name] for name in found}


def test_threads_write_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(aside, "LEAST", 0)  # batches as small as these stay in one thread
    golden = json.loads(GOLDEN.read_text())
    for name in ("plain", "ragged", "white"):
        found = hashes(tmp_path, name, "tar")
        assert found == {name: golden[name] for name in found}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temp:
        every = {}
        for one in ("plain", "ragged", "white"):
            for kind in CONTAINERS:
                every |= hashes(Path(temp), one, kind)
    GOLDEN.write_text(json.dumps(every, indent=1) + "\n")
    sys.stdout.write(f"{len(every)} hashes\n")
