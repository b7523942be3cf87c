"""Giving space back: removing a column, and what killed commands have left."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from reed.cache import files, mend, schema
from reed.errors import ReedError, suggest
from reed.store import mirror

IDLE = 3600.0  # seconds after which an unfinished file is taken as left behind


def check(cache: Path, names: list[str]) -> None:
    """Raise ReedError if a column does not exist or another, which stays, was made from it."""
    known = schema.columns(cache)
    for name in names:
        if name not in known:
            raise ReedError(f"{cache} has no column {name!r}.{suggest(name, known)}")
        if staying := [reader for reader in mend.readers_of(cache, [name]) if reader not in names]:
            places = " ".join(str(cache / each) for each in (*staying, name))
            raise ReedError(
                f"column {name!r} of {cache} stays: {', '.join(map(repr, staying))} was made from "
                f"it, and could not be repaired or extended; remove both: reed-cache rm {places}"
            )


def column(cache: Path, name: str) -> int:
    """Remove a column, which is gone whole at once; return its bytes.

    Raises:
        ReedError: Another process is planning the cache.
    """
    folder = cache / name
    with files.only_writer(cache):
        size = files.size_of(folder)
        if store := mirror.of(cache):
            size = store.clear(name)
        # A hidden name is no column; if this is killed, `left_behind` finds the folder.
        hidden = folder.with_name(f".{name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
        os.replace(folder, hidden)
        files.sync(cache)
        files.remove(hidden)
    return size


def left_behind(cache: Path) -> Iterator[tuple[Path, str]]:
    """Yield paths in a cache that no command reads, and what they are.

    A file younger than an hour may belong to a command that is running, and is not yielded.
    """
    for folder in (cache, *(cache / name for name in schema.columns(cache))):
        for path in sorted(folder.glob(".*.tmp")):
            yield from _idle(path, "unfinished, of a command that was killed")

    for name in schema.columns(cache):
        if not schema.has_shards(cache, name):
            yield from _idle(cache / name, "a column without a finished shard")
            continue
        found = schema.load_column(cache, name)
        for path in sorted((cache / name).glob(f"[0-9]*.{found.container}")):
            if not path.with_suffix(".json").exists():
                yield from _idle(path, "a shard without a marker")


def _idle(path: Path, what: str) -> Iterator[tuple[Path, str]]:
    """Yield a path unless something in it has changed within the last hour."""
    known = [about for p in (path, *path.rglob("*")) if (about := files.status(p))]
    if known and time.time() - max(about.st_mtime for about in known) > IDLE:
        yield path, what
