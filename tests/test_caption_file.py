"""Captions from a user's own file, joined by the keys of the cache."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from reed import config
from reed.build import shard
from reed.build.shard import BadSample
from reed.cache import reader
from reed.encoders.text.caption_file import CaptionFile
from reed.errors import ReedError

RECORDS = [{"key": "a/1.png", "text": " A dog. "}, {"key": "a/2.png", "text": "Ein Bär."}]


def write(path: Path, records: list[dict]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        path.write_text("\n".join([*map(json.dumps, records), ""]))
    return path


def from_file(path: Path, **options) -> CaptionFile:
    encoder = config.build(CaptionFile, {"file": str(path), **options}, "caption-file")
    encoder.load("cpu")
    return encoder


@pytest.mark.parametrize("name", ["c.jsonl", "c.parquet"])
def test_a_file_of_captions_is_joined_by_key(tmp_path, name):
    path = write(tmp_path / name, RECORDS)
    encoder = from_file(path)
    assert encoder.encode([{"key": "a/2.png"}, {"key": "a/1.png"}])["text"] == [
        "Ein Bär.",
        "A dog.",
    ]
    with pytest.raises(BadSample, match=f"no caption in {path}"):
        encoder.encode([{"key": "a/3.png"}])
    renamed = [{"id": r["key"], "words": r["text"]} for r in RECORDS]
    other = from_file(write(tmp_path / f"other-{name}", renamed), key="id", text="words")
    assert other.encode([{"key": "a/1.png"}])["text"] == ["A dog."]
    assert other.revision() != encoder.revision()


@pytest.mark.parametrize("name", ["c.jsonl", "c.parquet"])
def test_a_caption_that_is_null_is_none(tmp_path, name):
    encoder = from_file(write(tmp_path / name, [*RECORDS, {"key": "a/3.png", "text": None}]))
    assert encoder.encode([{"key": "a/1.png"}])["text"] == ["A dog."]
    with pytest.raises(BadSample, match="no caption in"):
        encoder.encode([{"key": "a/3.png"}])


@pytest.mark.parametrize("name", ["c.jsonl", "c.parquet"])
@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([*RECORDS, RECORDS[0]], "record 3: key 'a/1.png' has a caption already; keep one"),
        ([{"key": "a", "text": 5}], "record 1: 'text' is 5, it must be text"),
        ([{"key": 1, "text": "A dog."}], "record 1: 'key' is 1, it must be text"),
    ],
)
def test_a_file_of_captions_that_cannot_be_is_refused(tmp_path, name, records, message):
    with pytest.raises(ReedError, match=message):
        from_file(write(tmp_path / name, records))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", "{\n", "record 1 is not JSON"),
        ("c.jsonl", "[]\n", "record 1 is list; write objects with 'key' and 'text'"),
        ("c.parquet", "PAR1", "cannot read .* as parquet"),
        ("c.csv", "", "use a .jsonl or .parquet file"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ReedError, match=message):
        from_file(tmp_path / name)


def test_an_absent_file_or_column_is_named(tmp_path):
    with pytest.raises(ReedError, match="no captions at .*c.jsonl"):
        from_file(tmp_path / "c.jsonl")
    with pytest.raises(ReedError, match="cannot read .*c.jsonl"):
        CaptionFile(tmp_path / "c.jsonl").revision()
    path = write(tmp_path / "c.parquet", RECORDS)
    with pytest.raises(ReedError, match="has no column 'keys'. Did you mean 'key'"):
        from_file(path, key="keys")


def test_a_column_is_built_from_a_file_by_the_keys_of_the_cache(fakes, tmp_path):
    source = fakes.Source(8)
    source.read = None  # what needs the key alone does not open the raw data
    records = [{"key": key, "text": f"picture {key[-7:-4]}"} for key in source.keys[:7]]
    encoder = from_file(write(tmp_path / "c.jsonl", records))
    job = fakes.job(tmp_path / "cache", "words", source, encoder)
    marker, _ = shard.build_shard(job, 0)
    assert marker.failed == {source.keys[7]: f"no caption in {tmp_path / 'c.jsonl'}"}
    stored = dict(reader.records(job.cache, job.column, 0, list(job.column.fields), job.state))
    assert {key: values["text"] for key, values in stored.items()} == {
        record["key"]: record["text"] for record in records
    }
