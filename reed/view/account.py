"""The account of a build: samples, failures, files that no sample uses, bytes to write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reed.build import size as sizing
from reed.build.source import Listing
from reed.bytes import human
from reed.cache import account, files, schema
from reed.cache.plan import Plan
from reed.stage_one import Build
from reed.store import mirror
from reed.view import info
from reed.wording import counted

KEYS = 100  # keys listed per reason in the JSON


def plan_lines(prepared: Build) -> Iterator[str]:
    """Yield the lines of `reed-cache plan`: the cache, each column, the total."""
    manifest, cache, shards = prepared.plan.manifest, prepared.request.cache, prepared.plan.shards
    views = f", {manifest.views} views of each" if manifest.views > 1 else ""
    yield (
        f"{mirror.shown(cache)}: {counted(manifest.samples, 'sample')}{views}, "
        f"{counted(shards, 'shard')} of up to {manifest.shard_size:,}"
    )

    for size in prepared.sizes:
        basis = f"{human(size.record)} per record, {size.basis}"
        # The duration is known only if some shards of the column have been built.
        duration = "" if size.seconds is None else sizing.duration(size.seconds)
        pace = f"; about {duration} at the pace of the shards that are there" if duration else ""
        yield (
            f"  {size.column}: {size.shards:,} of {counted(shards, 'shard')} to write, "
            f"{size.bytes:,} bytes ({basis}){pace}"
        )

    total = sum(size.bytes for size in prepared.sizes)
    count = sum(2 * size.shards for size in prepared.sizes)
    free = human(files.free(cache))
    yield f"total: {total:,} bytes ({human(total)}) in {counted(count, 'file')}; {free} free"


def table(cache: Path, frozen: Plan, names: Iterable[str], listing: Listing) -> dict[str, Any]:
    """Return the account of columns as plain data; docs/caching.md explains each entry.

    Args:
        cache: Folder of the cache.
        frozen: Plan of the cache, whether or not it is written yet.
        names: Names of the columns.
        listing: What the source listed.
    """
    manifest, existing = frozen.manifest, schema.columns(cache)
    columns = {name: _column(cache, frozen, name) if name in existing else None for name in names}
    # A column that does not exist yet lacks every sample.
    lacking = {name: each["lacks"] if each else set(frozen.keys) for name, each in columns.items()}
    passed = account.Account.of(listing.passed).passed

    return {
        "cache": mirror.shown(cache),
        "samples": manifest.samples,
        "stored": manifest.samples - len(set().union(*lacking.values())),
        "views": manifest.views,
        "shards": frozen.shards,
        "classes": list(manifest.classes),
        "passed_over": {
            reason: {"count": each.count, "names": list(each.names)}
            for reason, each in passed.items()
        },
        "counted": dict(listing.counts),
        "examples": {what: list(keys[:KEYS]) for what, keys in listing.examples.items()},
        "columns": {
            name: {
                "samples": manifest.samples - len(lacking[name]),
                "shards": each["shards"] if each else 0,
                "left_out": _by_reason(each["failed"]) if each else {},
            }
            for name, each in columns.items()
        },
    }


def last_line(table: Mapping[str, Any]) -> str:
    """Return the last line of a build: the samples in all columns, and how many each lacks."""
    names = ", ".join(table["columns"])
    columns = "columns" if len(table["columns"]) > 1 else "column"
    line = f"{table['cache']}: {counted(table['stored'], 'sample')}, {columns} {names}"
    if table["stored"] == table["samples"]:
        return line
    short = {name: table["samples"] - each["samples"] for name, each in table["columns"].items()}
    lacks = ", ".join(f"{name} lacks {count:,}" for name, count in short.items() if count)
    return f"{line}; of the {table['samples']:,} that were planned {lacks}"


def _column(cache: Path, frozen: Plan, name: str) -> dict[str, Any]:
    summary = info.summary(cache, frozen, name)
    built = {marker.shard for marker in summary.markers}
    missing = (frozen.keys_of(shard) for shard in range(frozen.shards) if shard not in built)
    return {
        "shards": len(built),
        "failed": summary.failed,
        "lacks": set(summary.failed).union(*missing),
    }


def _by_reason(failed: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Group failures by reason, the most frequent first: {reason: count and first keys}."""
    reasons: dict[str, list[str]] = {}
    for key, reason in failed.items():
        reasons.setdefault(reason, []).append(key)
    ordered = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
    return {reason: {"count": len(keys), "keys": keys[:KEYS]} for reason, keys in ordered}
