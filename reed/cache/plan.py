"""The plan of a cache: which samples it has, in which order, in which shards."""

from __future__ import annotations

import difflib
import hashlib
import os
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from reed import config
from reed.cache import account, changes, classes, files, key_lists, schema
from reed.cache.key_lists import unfit as unfit
from reed.cache.schema import Manifest
from reed.errors import ReedError
from reed.seeding import seed_for
from reed.store import mirror

_DISCARDED = "manifest.json.discarded"


@dataclass(frozen=True)
class Plan:
    """The frozen plan of a cache: every key, in cache order, and the shard of each row.

    Attributes:
        manifest: The content of manifest.json.
        keys: The key of every row.
        stamps: The stamp of every row: what the source said of its content when the plan was made.
    """

    manifest: Manifest
    keys: tuple[str, ...]
    stamps: tuple[str, ...]

    @cached_property
    def _starts(self) -> list[int]:
        """Return the first row of every shard, then the number of rows."""
        starts, begin = [], 0
        for count in self.manifest.segments:
            starts += range(begin, begin + count, self.manifest.shard_size)
            begin += count
        return [*starts, begin]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.keys)}

    @property
    def shards(self) -> int:
        """Return the number of shards of every column."""
        return len(self._starts) - 1

    def rows(self, shard: int) -> range:
        """Return the rows of one shard."""
        return range(self._starts[shard], self._starts[shard + 1])

    def keys_of(self, shard: int) -> tuple[str, ...]:
        """Return the keys of one shard, in order."""
        rows = self.rows(shard)
        return self.keys[rows.start : rows.stop]

    def locate(self, row: int) -> tuple[int, int]:
        """Return the shard of a row and the position of the row in it."""
        shard = bisect_right(self._starts, row) - 1
        return shard, row - self._starts[shard]

    def row_of(self, key: str) -> int | None:
        """Return the row of a sample; None if there is no such key."""
        return self._rows.get(key)

    def near(self, key: str) -> list[str]:
        """Return the three most similar keys.

        Candidates are the key's neighbours in alphabetical order and keys that contain it.
        """
        ordered = sorted(self.keys)
        position = bisect_left(ordered, key)
        longer = islice((other for other in self.keys if key and key in other), 50)
        candidates = dict.fromkeys([*ordered[max(0, position - 50) : position + 50], *longer])
        return difflib.get_close_matches(key, candidates, n=3, cutoff=0.0)


def propose(
    cache: Path,
    listing: Mapping[str, str],
    *,
    pipeline: str,
    domain: str,
    source: str,
    shard_size: int,
    order_seed: int = 0,
    flip: bool = False,
    extend: bool = False,
    options: Mapping[str, Any] | None = None,
    max_failed: float | None = None,
) -> Plan:
    """Return the plan that `freeze` would write or find, without writing anything.

    An existing cache keeps its shard size, its order, its views and its class numbers.

    Args:
        cache: Folder of the cache.
        listing: Key -> stamp, of the whole source.
        pipeline: Name of the pipeline; likewise ``domain`` and ``source``.
        domain: See ``pipeline``.
        source: See ``pipeline``.
        shard_size: Samples of a full shard; only a new cache uses it.
        order_seed: Seed of the order; only a new cache uses it.
        flip: Whether to store the mirrored samples, too.
        extend: Whether to put samples that the plan lacks into new shards.
        options: Settings of the source, with the names of all classes as ``classes``.
        max_failed: Share of samples that may fail; None for that of the cache, or the usual one.

    Raises:
        ReedError: A setting differs from that of the existing cache, or the source is not what
            the plan was made from; the message names the first differences.
    """
    if not listing:
        raise ReedError(f"source {source!r} has no samples{account.instead(listing)}")
    if not (cache / "manifest.json").is_file():
        _refuse_orphans(cache)
        first = (schema.FORMAT, pipeline, domain, source, shard_size, order_seed)
        share = schema.MAX_FAILED if max_failed is None else max_failed
        empty = Manifest(*first, (), "", 1 + flip, dict(options or {}), share)
        return _grown(Plan(empty, (), ()), listing)

    plan = load(cache)
    if max_failed is not None:
        plan = replace(plan, manifest=replace(plan.manifest, max_failed=max_failed))
    asked: dict[str, Any] = {"pipeline": pipeline, "source": source, "domain": domain}
    asked |= {} if options is None else {"options": options}
    changes.check_settings(cache, plan.manifest, asked, flip)

    # An extension may append class names but never renumber a class.
    frozen = dict(zip(plan.keys, plan.stamps, strict=True))
    new = changes.new_samples(cache, frozen, listing, extend)
    named = tuple((options or {}).get("classes", ()))
    classes.check(cache, plan.manifest, plan.keys, named, is_new=bool(new))
    if not new:
        return plan
    kept = plan.manifest.options | ({"classes": list(named)} if named else {})
    return _grown(replace(plan, manifest=replace(plan.manifest, options=kept)), new)


def freeze(
    cache: Path,
    listing: Mapping[str, str],
    passed: Mapping[str, Sequence[str]] | None = None,
    counts: Mapping[str, int] | None = None,
    examples: Mapping[str, Sequence[str]] | None = None,
    **settings: Any,
) -> Plan:
    """Return the plan of a cache: write it in the first build, compare it in later builds.

    An extension writes a new list of keys, then replaces manifest.json, as another ``max_failed``
    does; they change no other file.

    Args:
        cache: Folder of the cache.
        listing: Key -> stamp, of the whole source.
        passed: Files that the listing passed over, by reason; written to listing.json.
        counts: Counts of the listing; written to listing.json.
        examples: The first keys of what was counted; written to listing.json.
        **settings: The other arguments of `propose`.

    Raises:
        ReedError: As `propose` does.
    """
    if (cache / _DISCARDED).is_file():
        discard(cache)
    plan = propose(cache, listing, **settings)

    have, is_same = 0, False
    if (cache / "manifest.json").is_file():
        stored = schema.load_manifest(cache)
        have, is_same = len(stored.segments), stored == plan.manifest
    account.save(cache, passed or {}, counts or {}, examples or {}, anew=not have)

    # The lists of keys come first: without a manifest that counts them they mean nothing.
    if not is_same:
        for segment in range(have, len(plan.manifest.segments)):
            files.write_atomic(key_lists.path_of(cache, segment), _lines(plan, segment))
        manifest = _dump(plan.manifest)
        files.write_atomic(cache / "manifest.json", manifest, overwrite=have > 0)
        plan = propose(cache, listing, **settings)  # another writer may have been first

    segments = range(len(plan.manifest.segments))
    files.sweep(cache, {"manifest.json", *(key_lists.path_of(cache, i).name for i in segments)})
    return plan


def load(cache: Path) -> Plan:
    """Return the frozen plan of a cache.

    Raises:
        ReedError: There is no cache, or its lists of keys are not those it was planned with.
    """
    manifest = schema.load_manifest(cache)
    digest, keys, stamps = hashlib.sha256(), [], []
    for segment in range(len(manifest.segments)):
        path = key_lists.path_of(cache, segment)
        data = path.read_bytes() if path.is_file() else b""
        digest.update(data)
        more_keys, more_stamps = key_lists.parse(data)
        keys += more_keys
        stamps += more_stamps

    if digest.hexdigest() != manifest.keys_sha256:
        segments = range(len(manifest.segments))
        names = " and ".join(key_lists.path_of(cache, i).name for i in segments)
        raise ReedError(
            f"{names} of {cache} are not what this cache was planned with: sha256 "
            f"{digest.hexdigest()[:12]}, manifest.json says {manifest.keys_sha256[:12]}; "
            "restore them, or start anew with --rebuild"
        )
    if len(keys) != manifest.samples:
        counts = f"{len(keys)} keys, manifest.json says {manifest.samples}"
        raise ReedError(f"{key_lists.path_of(cache, 0)} has {counts}; restore them")
    account.load(cache)  # raises an error if listing.json is damaged
    return Plan(manifest, tuple(keys), tuple(stamps))


def is_unused(cache: Path) -> bool:
    """Whether a cache has a plan and no finished shard, so that the plan binds no later build."""
    return (cache / "manifest.json").is_file() and not any(
        schema.has_shards(cache, name) for name in schema.columns(cache)
    )


def discard(cache: Path) -> None:
    """Remove the plan and the columns of a cache, the manifest first.

    The manifest is renamed at first. If this is killed, the next build finds the renamed manifest
    and continues the removal.
    """
    if store := mirror.of(cache):
        store.clear()
    if (cache / "manifest.json").is_file():
        os.replace(cache / "manifest.json", cache / _DISCARDED)
    for name in schema.columns(cache):
        described = cache / name / "column.json"  # last: the folder is a column while it is there
        for path in [p for p in (cache / name).iterdir() if p != described] + [described]:
            path.unlink()
        (cache / name).rmdir()
    last = [cache / name for name in ("keys.txt", account.NAME, _DISCARDED)]
    for path in [*cache.glob("keys-[0-9]*.txt"), *last]:
        path.unlink(missing_ok=True)


def _grown(plan: Plan, listing: Mapping[str, str]) -> Plan:
    """Return the plan with one more segment that holds the listed samples."""
    key_lists.check(listing)
    keys = sorted(listing)

    # Each segment has an order of its own, so an extension leaves earlier rows as they are.
    number = len(plan.manifest.segments)
    scope = ("cache order", number) if number else ("cache order",)
    order = np.random.Generator(np.random.PCG64(seed_for(plan.manifest.order_seed, *scope)))
    keys = [keys[i] for i in order.permutation(len(keys))]
    grown = Plan(
        replace(plan.manifest, segments=(*plan.manifest.segments, len(keys))),
        (*plan.keys, *keys),
        (*plan.stamps, *(listing[key] for key in keys)),
    )

    digest = hashlib.sha256()
    for segment in range(number + 1):
        digest.update(_lines(grown, segment))
    return replace(grown, manifest=replace(grown.manifest, keys_sha256=digest.hexdigest()))


def _dump(manifest: Manifest) -> bytes:
    """Return the content of manifest.json."""
    table = config.plain(manifest)
    if manifest.max_failed == schema.MAX_FAILED:  # versions that do not know it read the file, too
        del table["max_failed"]
    return schema.dump(table)


def _lines(plan: Plan, segment: int) -> bytes:
    """Return the content of the list of keys of one segment."""
    begin = sum(plan.manifest.segments[:segment])
    rows = slice(begin, begin + plan.manifest.segments[segment])
    return key_lists.dump(plan.keys[rows], plan.stamps[rows])


def _refuse_orphans(cache: Path) -> None:
    if not (cache / _DISCARDED).is_file() and (names := schema.columns(cache)):
        raise ReedError(
            f"{cache} has columns ({', '.join(names)}) but no manifest.json; "
            "restore it, or start anew with --rebuild"
        )
