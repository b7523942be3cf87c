"""Integers only: which samples are in which shard, and which are in which batch."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from reed.cache import schema
from reed.cache.schema import Manifest
from reed.errors import ReedError
from reed.seeding import seed_for

BLOCK = 16  # consecutive records that travel together
WINDOW = 1024  # blocks whose records are mixed
_UNFIT = re.compile("[\t\n\r\0\ud800-\udfff]")  # in keys.txt


@dataclass(frozen=True)
class Plan:
    """The frozen content of a cache: every key, in cache order, and where it lies.

    stamps: the source's stamp of each key when the plan was made.
    """

    manifest: Manifest
    keys: tuple[str, ...]
    stamps: tuple[str, ...]

    @cached_property
    def _starts(self) -> list[int]:
        """The first row of every shard, then the number of rows."""
        starts, begin = [], 0
        for count in self.manifest.segments:
            starts += range(begin, begin + count, self.manifest.shard_size)
            begin += count
        return [*starts, begin]

    @property
    def shards(self) -> int:
        """The number of shards of every column."""
        return len(self._starts) - 1

    def rows(self, shard: int) -> range:
        """The rows (positions in cache order) of one shard."""
        return range(self._starts[shard], self._starts[shard + 1])

    def keys_of(self, shard: int) -> tuple[str, ...]:
        """The keys of one shard, in order."""
        rows = self.rows(shard)
        return self.keys[rows.start : rows.stop]

    def locate(self, row: int) -> tuple[int, int]:
        """The shard of a row and its place there."""
        shard = bisect_right(self._starts, row) - 1
        return shard, row - self._starts[shard]


def freeze(
    cache: Path, listing: Mapping[str, str], *, pipeline: str, domain: str, source: str,
    shard_size: int, order_seed: int = 0,
) -> Plan:  # fmt: skip
    """The plan of a cache: made and written on the first run, read and compared ever after.

    listing: key -> stamp, of the whole source. Raises ReedError naming the first differences
    when the source is not what the plan was made from.
    """
    if not listing:
        raise ReedError(f"source {source!r} has no samples: nothing to build")
    if not (cache / "manifest.json").is_file():
        text = _keys_text(listing, order_seed)
        schema.write_atomic(cache / "keys.txt", text)
        digest = hashlib.sha256(text).hexdigest()
        manifest = Manifest(
            schema.FORMAT, pipeline, domain, source, shard_size, order_seed, (len(listing),), digest
        )
        schema.write_atomic(cache / "manifest.json", schema.dump(manifest), overwrite=False)
    plan = load(cache)
    schema.sweep(cache, {"manifest.json", "keys.txt"})
    for name, ours in (("pipeline", pipeline), ("source", source)):
        theirs = getattr(plan.manifest, name)
        if theirs != ours:
            problem = f"{cache} was built with {name} {theirs!r}, not {ours!r}"
            raise ReedError(f"{problem}; name another folder with --cache")
    _compare(cache, plan, listing)
    return plan


def load(cache: Path) -> Plan:
    """The frozen plan of a cache; ReedError when keys.txt is not the one it was frozen with."""
    manifest = schema.load_manifest(cache)
    path = cache / "keys.txt"
    text = path.read_bytes() if path.is_file() else b""
    digest = hashlib.sha256(text).hexdigest()
    if digest != manifest.keys_sha256:
        raise ReedError(
            f"{path} is not the list this cache was planned with: sha256 {digest[:12]}, "
            f"manifest.json says {manifest.keys_sha256[:12]}; restore it or build a new cache"
        )
    lines = [line.partition("\t") for line in text.decode().split("\n")[:-1]]
    keys = tuple(key for key, _, _ in lines)
    if len(keys) != manifest.samples:
        raise ReedError(f"{path} has {len(keys)} keys, manifest.json says {manifest.samples}")
    return Plan(manifest, keys, tuple(stamp for _, _, stamp in lines))


def _keys_text(listing: Mapping[str, str], order_seed: int) -> bytes:
    keys = sorted(listing)
    for key in keys:
        if not key or _UNFIT.search(key):
            rule = "is empty, or holds a tab, a line break or what is no Unicode"
            raise ReedError(f"sample key {key!r} {rule}; rename it")
        assert not _UNFIT.search(listing[key]), f"the stamp of {key!r} is {listing[key]!r}"
    order = np.random.Generator(np.random.PCG64(seed_for(order_seed, "cache order")))
    lines = (f"{keys[i]}\t{listing[keys[i]]}\n" for i in order.permutation(len(keys)))
    return "".join(lines).encode()


def _compare(cache: Path, plan: Plan, listing: Mapping[str, str]) -> None:
    frozen = dict(zip(plan.keys, plan.stamps, strict=True))
    changes = {
        "new": [key for key in listing if key not in frozen],
        "gone": [key for key in frozen if key not in listing],
        "changed": [k for k, stamp in frozen.items() if k in listing and listing[k] != stamp],
    }
    found = [f"{len(keys)} {what} (first: {min(keys)!r})" for what, keys in changes.items() if keys]
    if found:
        raise ReedError(
            f"the source is not what {cache} was planned from: {', '.join(found)}; "
            "restore it, or build another cache with --cache"
        )


@dataclass(frozen=True)
class Order:
    """Which records are in which global batch: a pure function of (records, seed, step).

    Epochs follow one another without a gap, so every record is seen exactly once per epoch,
    every batch is full, and a batch may span two epochs. In each epoch, blocks of 16
    consecutive records are permuted, and records are permuted inside windows of 1,024 blocks.
    """

    records: int
    batch: int
    seed: int

    def batch_at(self, step: int) -> np.ndarray:
        """The records of global batch `step`, [batch] int64, in order."""
        wanted = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, places = np.divmod(wanted, self.records)
        found = np.empty(self.batch, dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            found[chosen] = self._at(int(epoch), places[chosen])
        return found

    def _at(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """The records at some places of an epoch."""
        blocks = _block_order(self.records, self.seed, epoch)
        # One block may be short. Places after its window are moved up by what it lacks, so that
        # windows can be found by division.
        size, short = WINDOW * BLOCK, -self.records % BLOCK
        short_window = int(np.flatnonzero(blocks == len(blocks) - 1)[0]) // WINDOW
        moved = places + short * (places >= (short_window + 1) * size - short)
        windows, offsets = np.divmod(moved, size)
        found = np.empty(len(places), dtype=np.int64)
        for window in np.unique(windows):
            chosen = windows == window
            order = _window_order(self.records, self.seed, epoch, int(window))
            found[chosen] = order[offsets[chosen]]
        return found


@lru_cache(maxsize=2)
def _block_order(records: int, seed: int, epoch: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(seed_for(seed, "blocks", epoch)))
    return rng.permutation(-(-records // BLOCK))


@lru_cache(maxsize=4)
def _window_order(records: int, seed: int, epoch: int, window: int) -> np.ndarray:
    blocks = _block_order(records, seed, epoch)[window * WINDOW : (window + 1) * WINDOW]
    members = (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
    members = members[members < records]
    rng = np.random.Generator(np.random.PCG64(seed_for(seed, "window", epoch, window)))
    return rng.permutation(members)
