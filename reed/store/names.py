"""Names of the objects of a cache, and of the folders that stand for a URL."""

from __future__ import annotations

import re

# What a cache consists of; other files (cost.jsonl, seen.json) stay on the machine.
_MARKER = re.compile(r"[^/.][^/]*/\d{6,}\.json")
_SMALL = re.compile(
    rf"manifest\.json|listing\.json|keys(-\d+)?\.txt|[^/.][^/]*/(column\.json|calibration\.npz)"
    rf"|{_MARKER.pattern}"
)
_SHARD = re.compile(r"[^/.][^/]*/\d{6,}\.(tar|h5|zarr)")
_COMMIT = re.compile(r"(hf://[^@]+)@([0-9a-f]{40})")


def is_small(name: str) -> bool:
    """Whether a file of this name is kept in every mirror."""
    return _SMALL.fullmatch(name) is not None


def is_marker(name: str) -> bool:
    """Whether this is the name of the marker of a shard."""
    return _MARKER.fullmatch(name) is not None


def is_shard(name: str) -> bool:
    """Whether this is the name of a shard."""
    return _SHARD.fullmatch(name) is not None


def is_ours(name: str) -> bool:
    """Whether a cache has files of this name."""
    return is_small(name) or is_shard(name)


def folders(url: str) -> list[str]:
    """Return the names of the folders that stand for a URL; the last is the name of the cache."""
    if match := _COMMIT.fullmatch(url):
        whole = folders(match[1])
        return [*whole, match[2], whole[-1]]
    return url.replace("://", "/").replace("..", "%2E%2E").split("/")


def commit(url: str) -> str:
    """Return the commit that a URL of the hub names; empty for others, and for a branch."""
    match = _COMMIT.fullmatch(url)
    return match[2] if match else ""


def without_commit(url: str) -> str:
    """Return a URL without its commit: what commits have in common is kept once."""
    match = _COMMIT.fullmatch(url)
    return match[1] if match else url
