"""Integers only: which samples are in which shard."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from reed.cache import account, classes, files, schema
from reed.cache.schema import Manifest
from reed.errors import ReedError
from reed.seeding import seed_for

_UNFIT = re.compile("[\t\n\r\0\ud800-\udfff]")  # in keys.txt
_DISCARDED = "manifest.json.discarded"


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

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.keys)}

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

    def row_of(self, key: str) -> int | None:
        """The row of a sample; None where there is no such key."""
        return self._rows.get(key)

    def near(self, key: str) -> list[str]:
        """Three keys like it, out of its neighbours in the alphabet and some that contain it."""
        ordered = sorted(self.keys)
        place = bisect_left(ordered, key)
        parts = islice((each for each in self.keys if key and key in each), 50)
        among = dict.fromkeys([*ordered[max(0, place - 50) : place + 50], *parts])
        return difflib.get_close_matches(key, among, n=3, cutoff=0.0)


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
) -> Plan:
    """The plan that `freeze` would freeze or find, without writing anything.

    listing: key -> stamp, of the whole source; flip: store the mirrored samples too; extend: put
    samples that the plan lacks into new shards; options: the source's settings, with the names of
    all classes as `classes`. What a cache was frozen with stays: its shard size, its order, its
    views and the numbers of its classes. ReedError names what cannot stay, and the first
    differences when the source is not what the plan was made from.
    """
    if not listing:
        raise ReedError(f"source {source!r} has no samples: nothing to build")
    if not (cache / "manifest.json").is_file():
        _refuse_orphans(cache)
        empty = Manifest(
            schema.FORMAT,
            pipeline,
            domain,
            source,
            shard_size,
            order_seed,
            (),
            "",
            1 + flip,
            dict(options or {}),
        )
        return _grown(Plan(empty, (), ()), listing)
    plan = load(cache)
    asked: dict[str, Any] = {"pipeline": pipeline, "source": source, "domain": domain}
    asked |= {} if options is None else {"options": _unnamed(options)}
    for name, ours in asked.items():
        theirs = getattr(plan.manifest, name)
        theirs = _unnamed(theirs) if name == "options" else theirs
        if theirs != ours:
            problem = f"{cache} was built with {name} {theirs!r}, not {ours!r}"
            raise ReedError(f"{problem}; name another folder with --cache")
    if flip and plan.manifest.views == 1:
        raise ReedError(
            f"{cache} was planned with 1 view of each sample, --flip asks for 2; "
            "name another folder with --cache, or start anew with --rebuild"
        )
    new = _compare(cache, plan, listing, extend)
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
    counted: Mapping[str, int] | None = None,
    **settings: Any,
) -> Plan:
    """The plan of a cache: made and written on the first run, read and compared ever after.

    Takes and raises what `propose` does; passed: what the listing left out, by reason; counted:
    what it counted; both are noted each time (reed.cache.account). An extension writes its own
    list of keys, then replaces manifest.json, and touches nothing else.
    """
    if (cache / _DISCARDED).is_file():
        discard(cache)
    plan = propose(cache, listing, **settings)
    have = 0
    if (cache / "manifest.json").is_file():
        have = len(schema.load_manifest(cache).segments)
    account.save(cache, passed or {}, counted or {}, anew=not have)
    if have < len(plan.manifest.segments):
        for segment in range(have, len(plan.manifest.segments)):
            files.write_atomic(_keys_path(cache, segment), _lines(plan, segment))
        manifest = schema.dump(plan.manifest)
        files.write_atomic(cache / "manifest.json", manifest, overwrite=have > 0)
        plan = propose(cache, listing, **settings)  # a racing writer may have been first
    segments = range(len(plan.manifest.segments))
    files.sweep(cache, {"manifest.json", *(_keys_path(cache, i).name for i in segments)})
    return plan


def load(cache: Path) -> Plan:
    """The frozen plan of a cache; ReedError when its keys are not those it was frozen with."""
    manifest = schema.load_manifest(cache)
    digest, keys, stamps = hashlib.sha256(), [], []
    for segment in range(len(manifest.segments)):
        path = _keys_path(cache, segment)
        text = path.read_bytes() if path.is_file() else b""
        digest.update(text)
        lines = [line.partition("\t") for line in text.decode(errors="replace").split("\n")[:-1]]
        keys += [key for key, _, _ in lines]
        stamps += [stamp for _, _, stamp in lines]
    if digest.hexdigest() != manifest.keys_sha256:
        names = " and ".join(_keys_path(cache, i).name for i in range(len(manifest.segments)))
        raise ReedError(
            f"{names} of {cache} are not what this cache was planned with: sha256 "
            f"{digest.hexdigest()[:12]}, manifest.json says {manifest.keys_sha256[:12]}; "
            "restore them, or start anew with --rebuild"
        )
    if len(keys) != manifest.samples:
        what = f"{len(keys)} keys, manifest.json says {manifest.samples}"
        raise ReedError(f"{_keys_path(cache, 0)} has {what}; restore them")
    account.load(cache)  # no bit of a cache changes unseen
    return Plan(manifest, tuple(keys), tuple(stamps))


def discard(cache: Path) -> None:
    """Throw the plan and the columns of a cache away, the manifest first.

    One that is killed is finished by the next build, which finds the manifest under another name.
    """
    if (cache / "manifest.json").is_file():
        os.replace(cache / "manifest.json", cache / _DISCARDED)
    for name in schema.columns(cache):
        described = cache / name / "column.json"  # last: it makes the folder a column
        for path in [p for p in (cache / name).iterdir() if p != described] + [described]:
            path.unlink()
        (cache / name).rmdir()
    ours = [cache / name for name in ("keys.txt", account.NAME, _DISCARDED)]
    for path in [*cache.glob("keys-[0-9]*.txt"), *ours]:
        path.unlink(missing_ok=True)


def _unnamed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a source without the names of classes, which grow."""
    return {name: value for name, value in options.items() if name != "classes"}


def unfit(keys: Collection[str]) -> list[str]:
    """The keys that keys.txt cannot hold: empty, with a tab or a line break, or no Unicode."""
    if "" not in keys and not _UNFIT.search("".join(keys)):  # one search is faster than a million
        return []
    return [key for key in keys if not key or _UNFIT.search(key)]


def _keys_path(cache: Path, segment: int) -> Path:
    return cache / (f"keys-{segment}.txt" if segment else "keys.txt")


def _grown(plan: Plan, listing: Mapping[str, str]) -> Plan:
    """The plan with one more segment, of these samples."""
    keys = sorted(listing)
    for key in unfit(keys):
        rule = "is empty, or holds a tab, a line break or what is no Unicode"
        raise ReedError(f"sample key {key!r} {rule}; rename it")
    if _UNFIT.search("".join(listing.values())):
        key = next(key for key in keys if _UNFIT.search(listing[key]))
        raise AssertionError(f"the stamp of {key!r} is {listing[key]!r}")
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


def _lines(plan: Plan, segment: int) -> bytes:
    """The content of the file of keys of one segment."""
    begin = sum(plan.manifest.segments[:segment])
    rows = range(begin, begin + plan.manifest.segments[segment])
    return "".join(f"{plan.keys[i]}\t{plan.stamps[i]}\n" for i in rows).encode()


def _refuse_orphans(cache: Path) -> None:
    if not (cache / _DISCARDED).is_file() and (names := schema.columns(cache)):
        raise ReedError(
            f"{cache} has columns ({', '.join(names)}) but no manifest.json; "
            "restore it, or start anew with --rebuild"
        )


def _compare(cache: Path, plan: Plan, listing: Mapping[str, str], extend: bool) -> dict[str, str]:
    """The samples that the plan lacks, where it may be extended; ReedError for other changes."""
    frozen = dict(zip(plan.keys, plan.stamps, strict=True))
    changes = {
        "new": [key for key in listing if key not in frozen],
        "gone": [key for key in frozen if key not in listing],
        "changed": [k for k, stamp in frozen.items() if k in listing and listing[k] != stamp],
    }
    if extend and not (changes["gone"] or changes["changed"]):
        return {key: listing[key] for key in changes["new"]}
    found = [f"{len(keys)} {what} (first: {min(keys)!r})" for what, keys in changes.items() if keys]
    if found:
        raise ReedError(
            f"the source is not what {cache} was planned from: {', '.join(found)}; restore it, "
            "add what is new (and only that) with --extend, or start anew with --rebuild"
        )
    return {}
