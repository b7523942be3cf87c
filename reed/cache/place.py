"""Where a file of a cache is: in its folder, or in the object store that the folder mirrors."""

from __future__ import annotations

from pathlib import Path

from reed.cache.order import BLOCK
from reed.cache.schema import Marker
from reed.store import mirror
from reed.store.partial import Pages
from reed.store.transfer import Ranges

_PAGE = 256 << 10  # least bytes of a request that fetches more than is asked for


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


def to_read(path: Path, marker: Marker, *, is_whole: bool, views: int) -> Path | Ranges:
    """Return what to read records of a shard from: a file, or ranges of an object.

    Args:
        path: The path that the file has, or would have beside its marker.
        marker: The marker of the shard.
        is_whole: Whether most of the shard will be read.
        views: Records per sample.
    """
    found = mirror.of_file(path)
    if not found:
        return path
    store, name = found
    if is_whole:
        return store.fetch(name, marker.sha256)
    if copy := store.shelf.find(store.copy_of(name, marker.sha256)):
        return copy
    if store.is_kept:
        return store.partial(name, marker.sha256, _pages(marker, views))
    return store.ranges(name, marker.bytes)


def _pages(marker: Marker, views: int) -> Pages:
    """Return how a shard is cut: by the blocks of the order, where records have one size."""
    places = [part["offsets"] for part in marker.parts.values()]
    strides = {p["stride"] if isinstance(p, dict) else 0 for p in places}
    if len(strides) > 1 or not all(strides):
        return Pages(_PAGE, 0, marker.bytes)
    block = BLOCK * views * strides.pop()
    return Pages(block * -(-_PAGE // block), min(p["first"] for p in places), marker.bytes)


def refresh(path: Path) -> None:
    """Look whether another machine has stored a file of a cache since the command began."""
    if found := mirror.of_file(path):
        found[0].pull(found[1])
