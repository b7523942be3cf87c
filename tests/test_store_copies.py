"""Copies of shards of an object store on this machine: fetched once, bounded, checked."""

from __future__ import annotations

import itertools
import runpy
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import reed
from reed.cache import schema
from reed.errors import ReedError
from reed.store import client, mirror, shelf, transfer
from reed.store.partial import Pages

HERE = Path(__file__).parent
BUCKETS = SimpleNamespace(**runpy.run_path(str(HERE / "buckets.py")))
server, proxy, bucket = BUCKETS.server, BUCKETS.proxy, BUCKETS.bucket
LATE = 0.02  # seconds


# ---- copies on this machine


def test_a_shard_is_fetched_once_per_machine(bucket, proxy, whole, tmp_path):
    bucket.machine(AWS_ENDPOINT_URL=proxy.url)
    proxy.fault = lambda *_: LATE
    bucket.upload(whole, "fake")
    url = f"{bucket.url}/fake"
    folder = mirror.local(url)
    marker = schema.load_marker(folder, schema.load_column(folder, "tokens"), 0)
    stores = [mirror.of(folder)] + [type(mirror.of(folder))(folder, url) for _ in range(3)]
    paths: list[Path] = []
    ends = [
        threading.Thread(
            target=lambda s=s: paths.append(s.fetch("tokens/000000.tar", marker.sha256))
        )
        for s in stores
    ]
    for end in ends:
        end.start()
    for end in ends:
        end.join(30)
    assert len(set(paths)) == 1 and len(paths) == 4
    assert proxy.asked["GET", "000000.tar"] == 1


def test_the_copies_are_bounded(tmp_path):
    kept = shelf.Shelf(tmp_path, 250)
    for number in range(4):
        with kept.place(f"c/00000{number}.tar", 100) as (_, temp):
            temp.write_bytes(bytes(100))
        time.sleep(0.02)
        assert kept.find("c/000000.tar")  # is used all the time
        time.sleep(0.02)
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["000000.tar", "000003.tar"]
    with pytest.raises(KeyError), kept.place("c/000009.tar", 1) as (_, temp):
        temp.write_bytes(b"x")
        raise KeyError
    assert not (tmp_path / "c" / "000009.tar").exists() and not list(tmp_path.rglob("*.tmp"))


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shelf.os, "replace", fail)
    with pytest.raises(ReedError, match="No space left on device .*loader.cache_dir another"):
        shelf.write(tmp_path / "x", b"data")


def test_ranges_fill_their_buffers():
    class Fixed:
        def read(self, name, start, end, tag):
            return memoryview(bytes(range(start, end)))

    a, b = bytearray(3), bytearray(2)
    made = transfer.Ranges(Fixed(), "x", client.Entry(100, ""), None)
    made.fill([memoryview(a), memoryview(b)], 10, 5)
    assert (a, b) == (bytearray([10, 11, 12]), bytearray([13, 14]))


# ---- copies that are filled as they are read


def stream_of(url: str, kept: Path, limit: int = 10**9, steps: int = 30) -> list[dict]:
    """The first batches of a stream that keeps copies."""
    with reed.open_cache(url) as cache:
        mirror.of(cache.folder).keep(kept, limit)
        stream = cache.stream(["tokens/tokens", "pixels/x"], 12, seed=3)
        batches = itertools.islice(stream.batches(), steps)
        return [{k: v.clone() for k, v in stream.decode(b).items()} for b in batches]


def test_a_page_is_fetched_once_and_a_whole_copy_is_checked(bucket, proxy, whole, tmp_path):
    url = bucket.upload(whole, "fake")
    bucket.machine(AWS_ENDPOINT_URL=proxy.url)
    theirs = reed.open_cache(whole).stream(["tokens/tokens", "pixels/x"], 12, seed=3)
    theirs = [theirs.decode(b) for b in itertools.islice(theirs.batches(), 30)]
    for run_of in range(2):
        ours = stream_of(url, tmp_path / "kept")
        assert all(torch.equal(a[k], b[k]) for a, b in zip(ours, theirs, strict=True) for k in a)
        asked = sum(n for (_, name), n in proxy.asked.items() if name.endswith(".tar"))
        assert 8 <= asked <= 10, run_of  # two that come at once may fetch a page twice
    copies = sorted(p.suffix for p in (tmp_path / "kept").rglob("*") if p.is_file())
    assert copies.count(".tar") == 8 and ".part" not in copies and ".have" not in copies


def test_copies_make_room(bucket, whole, tmp_path):
    """With room for about half of the shards, batches are the same and the disk is bounded."""
    url = bucket.upload(whole, "fake")
    size = sum(p.stat().st_size for n in ("tokens", "pixels") for p in (whole / n).glob("*.tar"))
    ours = stream_of(url, tmp_path / "kept", size // 2)
    theirs = stream_of(url, tmp_path / "other")
    assert all(torch.equal(a[k], b[k]) for a, b in zip(ours, theirs, strict=True) for k in a)
    used = sum(p.stat().st_size for p in (tmp_path / "kept").rglob("*.tar*"))
    assert used <= size * 0.8


def test_what_a_killed_machine_left_is_not_trusted(bucket, whole, tmp_path):
    url = bucket.upload(whole, "fake")
    folder = mirror.local(url)
    store, marker = (
        mirror.of(folder),
        schema.load_marker(folder, schema.load_column(folder, "tokens"), 0),
    )
    store.keep(tmp_path / "kept", 10**9)
    pages = Pages(1024, 100, marker.bytes)
    copy = store.partial("tokens/000000.tar", marker.sha256, pages)
    copy.need(1)
    copy.close()
    (have,) = (tmp_path / "kept").rglob("*.have")
    assert have.read_bytes()[64:67] == b"\0\2\0"
    have.write_bytes(b"another start of the machine".ljust(64) + have.read_bytes()[64:])
    copy = store.partial("tokens/000000.tar", marker.sha256, pages)
    assert copy.lacking([0, 1124, 2148]) == {0, 1, 2} and not copy.is_gone

    # The last page seals it; a copy that hashes to something else is refused.
    for page in range(pages.count):
        copy.need(page)
    (whole_copy,) = (tmp_path / "kept").rglob("*.tar")
    assert whole_copy.read_bytes() == (whole / "tokens" / "000000.tar").read_bytes()
    other = store.partial(
        "tokens/000001.tar", "0" * 64, Pages(10**6, 0, store.entry("tokens/000001.tar").size)
    )
    with pytest.raises(ReedError, match="sha256 .*its marker says 000000000000"):
        other.need(0)
    assert other.is_gone


@pytest.mark.parametrize(
    ("size", "shift", "end"), [(10, 3, 33), (10, 0, 30), (7, 20, 21), (9, 9, 9)]
)
def test_pages_cut_every_byte_once(size, shift, end):
    pages = Pages(size, shift, end)
    spans = [pages.span(page) for page in range(pages.count)]
    assert [at for begin, stop in spans for at in range(begin, stop)] == list(range(end))
    for at in range(end):
        (page,) = pages.of(at, at + 1)
        assert at in range(*spans[page])
    assert pages.of(0, max(end, 1)) == range(pages.count)
