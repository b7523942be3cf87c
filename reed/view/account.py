"""What a build makes of the files it was given: samples, what is left out, what is passed over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reed.build.source import Listing
from reed.cache import account, schema
from reed.cache.plan import Plan
from reed.view import info

KEYS = 100  # of the samples that one reason left out, in the JSON


def table(cache: Path, frozen: Plan, names: Iterable[str], listing: Listing) -> dict[str, Any]:
    """The account of some columns as plain data: docs/caching.md says what each entry is.

    frozen: the plan of the cache, be it written or not; listing: of the source.
    """
    manifest, there = frozen.manifest, schema.columns(cache)
    columns = {name: _column(cache, frozen, name) if name in there else None for name in names}
    lacking = {name: each["lacks"] if each else set(frozen.keys) for name, each in columns.items()}
    found = account.Account.of(listing.passed)
    return {
        "cache": str(cache),
        "samples": manifest.samples,
        "stored": manifest.samples - len(set().union(*lacking.values())),
        "views": manifest.views,
        "shards": frozen.shards,
        "classes": list(manifest.classes),
        "passed_over": {
            reason: {"count": each.count, "names": list(each.names)}
            for reason, each in found.passed.items()
        },
        "counted": dict(listing.counts),
        "columns": {
            name: {
                "samples": manifest.samples - len(lacking[name]),
                "shards": each["shards"] if each else 0,
                "left_out": _by_reason(each["failed"]) if each else {},
            }
            for name, each in columns.items()
        },
    }


def last_line(found: Mapping[str, Any]) -> str:
    """What a build ends with: the samples that every column has, and which lack how many."""
    names = ", ".join(found["columns"])
    line = f"{found['cache']}: {found['stored']} samples, columns {names}"
    if found["stored"] == found["samples"]:
        return line
    short = {name: found["samples"] - each["samples"] for name, each in found["columns"].items()}
    lacks = ", ".join(f"{name} lacks {count}" for name, count in short.items() if count)
    return f"{line}; of the {found['samples']} that were planned {lacks}"


def _column(cache: Path, frozen: Plan, name: str) -> dict[str, Any]:
    found = info.summary(cache, frozen, name)
    built = {marker.shard for marker in found.markers}
    missing = (frozen.keys_of(shard) for shard in range(frozen.shards) if shard not in built)
    return {
        "shards": len(built),
        "failed": found.failed,
        "lacks": set(found.failed).union(*missing),
    }


def _by_reason(failed: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Reason -> how many samples and the keys of the first, the commonest reason first."""
    reasons: dict[str, list[str]] = {}
    for key, reason in failed.items():
        reasons.setdefault(reason, []).append(key)
    commonest = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
    return {reason: {"count": len(keys), "keys": keys[:KEYS]} for reason, keys in commonest}
