"""Where a file of a cache is: in its folder, or in the object store that the folder mirrors."""

from __future__ import annotations

from pathlib import Path

from reed.cache.schema import Marker
from reed.store import mirror
from reed.store.transfer import Ranges


def size_of(path: Path, stated: int = 0) -> int | None:
    """Return the bytes of a shard file; None if there is none.

    Args:
        path: The path that the file has, or would have beside its marker.
        stated: What its marker says, which is taken where a store does not tell.
    """
    if found := mirror.of_file(path):
        entry = found[0].entry(found[1])
        return None if entry is None else stated if entry.size < 0 else entry.size
    return path.stat().st_size if path.is_file() else None


def whole(path: Path, sha256: str = "") -> Path:
    """Return the path of a whole shard on this machine.

    Args:
        path: The path that the file has, or would have beside its marker.
        sha256: Where it has to be fetched, what its content must hash to; empty for anything.
    """
    found = mirror.of_file(path)
    return found[0].fetch(found[1], sha256) if found else path


def to_read(path: Path, marker: Marker, *, is_whole: bool) -> Path | Ranges:
    """Return what to read records of a shard from: a file, or ranges of an object.

    Args:
        path: The path that the file has, or would have beside its marker.
        marker: The marker of the shard.
        is_whole: Whether most of the shard will be read.
    """
    found = mirror.of_file(path)
    if not found:
        return path
    store, name = found
    if is_whole or store.is_kept:
        return store.fetch(name, marker.sha256)
    if copy := store.shelf.find(store.copy_of(name, marker.sha256)):
        return copy
    return store.ranges(name, marker.bytes)


def refresh(path: Path) -> None:
    """Look whether another machine has stored a file of a cache since the command began."""
    if found := mirror.of_file(path):
        found[0].pull(found[1])
