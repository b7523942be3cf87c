"""Shards on their way from an object store: whole, or ranges of them."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Executor
from pathlib import Path

from reed.store.client import Client, Entry

_PIECE = 8 << 20  # bytes of one request


class Ranges:
    """A shard in a store that is read by ranges, in place of an open file.

    Args:
        client: The store.
        name: Name of the shard.
        entry: What the listing said of it; an object that has changed since is refused.
        pool: Threads in which several ranges are read at once.
    """

    def __init__(self, client: Client, name: str, entry: Entry, pool: Executor) -> None:
        self._client, self._name, self._tag, self.pool = client, name, entry.tag, pool

    def fill(self, views: list[memoryview], offset: int, want: int) -> None:
        """Read ``want`` bytes at an offset into buffers."""
        data = self._client.read(self._name, offset, offset + want, self._tag)
        at = 0
        for view in views:
            view[:] = data[at : at + len(view)]
            at += len(view)

    @property
    def is_gone(self) -> bool:
        """Whether it should be opened anew."""
        return False

    def close(self) -> None:
        """Leave it; there is nothing to close."""


def download(client: Client, pool: Executor, name: str, entry: Entry, path: Path) -> None:
    """Fetch an object into a file, in pieces, several at a time."""
    if entry.size < 0:  # a web server that may not serve pieces
        path.write_bytes(client.get(name)[0])
        return
    with open(path, "wb") as file:
        file.truncate(entry.size)

        def fetch(start: int) -> None:
            end = min(start + _PIECE, entry.size)
            os.pwrite(file.fileno(), client.read(name, start, end, entry.tag), start)

        list(pool.map(fetch, range(0, entry.size, _PIECE)))


def sha256_of(client: Client, name: str, entry: Entry) -> str:
    """Return the hash of an object, which is read for that."""
    digest = hashlib.sha256()
    for start in range(0, entry.size, _PIECE):
        digest.update(client.read(name, start, min(start + _PIECE, entry.size), entry.tag))
    return digest.hexdigest()
