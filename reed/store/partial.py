"""Copies of shards that are filled page by page, as they are read, for all processes of a machine.

The order of training takes a few neighbouring records from many shards at once. Pages of about that
many records are fetched when they are first needed, or before, and serve the records' neighbours
later.
"""

from __future__ import annotations

import mmap
import os
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from reed.bytes import file_sha256
from reed.errors import ReedError
from reed.store.client import Client, Entry
from reed.store.shelf import HAVE, PART, Shelf
from reed.store.transfer import Ranges

_ABSENT, _FETCHING, _THERE = 0, 1, 2
_HEAD = 64  # bytes before the states of the pages: which start of the machine they are of
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_POLL = 0.002  # seconds between two looks at a page that another process is fetching


@dataclass(frozen=True)
class Pages:
    """How an object is cut: page ``k`` ends at byte ``shift + (k + 1) * size``.

    Attributes:
        size: Bytes of a page.
        shift: Bytes by which the first page is longer.
        end: Bytes of the object.
    """

    size: int
    shift: int
    end: int

    @property
    def count(self) -> int:
        """Return the number of pages."""
        return max(1, -(-(self.end - self.shift) // self.size))

    def of(self, begin: int, end: int) -> range:
        """Return the pages that hold some bytes."""
        first, last = (max(0, (b - self.shift) // self.size) for b in (begin, end - 1))
        return range(first, last + 1)

    def span(self, page: int) -> tuple[int, int]:
        """Return the first byte of a page, and the byte after its last one."""
        begin = self.shift + page * self.size
        return begin if page else 0, min(begin + self.size, self.end)


class Partial(Ranges):
    """A copy of a shard of which some pages are there.

    Args:
        client: The store.
        name: Name of the shard.
        entry: What the listing said of it.
        pool: Threads in which several pages are fetched at once.
        shelf: Where the copy is.
        copy: Name of the copy.
        sha256: Hash of the whole shard, which is checked when its last page has come.
        pages: How it is cut.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        entry: Entry,
        pool: Executor,
        *,
        shelf: Shelf,
        copy: str,
        sha256: str,
        pages: Pages,
    ) -> None:
        super().__init__(client, name, entry, pool)
        self._shelf, self._path, self._sha256 = shelf, shelf.path(copy), sha256
        self._pages, self._url = pages, f"{client.url}/{name}"
        boot = _BOOT.read_bytes().strip() if _BOOT.is_file() else b"?"
        head = boot[: _HEAD - 1].ljust(_HEAD)
        data, have = (self._path.with_name(self._path.name + end) for end in (PART, HAVE))

        # Both files are made, and removed, under one lock: they belong together. After a crash of
        # the machine, what the states say of the data may not be true.
        with shelf.room():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            is_sound = data.is_file() and have.is_file() and have.read_bytes()[:_HEAD] == head
            if not is_sound:
                data.unlink(missing_ok=True)
                have.unlink(missing_ok=True)
                have.write_bytes(head + bytes(pages.count))
            self._file = os.open(data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.truncate(self._file, pages.end)
            with open(have, "r+b") as states:
                self._states = mmap.mmap(states.fileno(), _HEAD + pages.count)

    @property
    def is_gone(self) -> bool:
        """Whether the copy was removed to make room, and should be opened anew."""
        return os.fstat(self._file).st_nlink == 0

    def fill(self, views: list[memoryview], offset: int, want: int) -> None:
        """Read ``want`` bytes at an offset into buffers."""
        for page in self._pages.of(offset, offset + want):
            self.need(page)
        if os.preadv(self._file, views, offset) != want:
            raise EOFError(f"{self._path} ends before byte {offset + want}")

    def lacking(self, offsets: list[int]) -> set[int]:
        """Return the pages with some bytes that are neither there nor on their way."""
        pages = {page for offset in offsets for page in self._pages.of(offset, offset + 1)}
        return {page for page in pages if self._states[_HEAD + page] == _ABSENT}

    def need(self, page: int) -> None:
        """Fetch a page unless it is there; wait for another process that is fetching it."""
        at, until = _HEAD + page, time.monotonic() + self._client.patience.silence
        while self._states[at] == _FETCHING and time.monotonic() < until:
            time.sleep(_POLL)
        if self._states[at] == _THERE:
            return

        # Two that come here at once fetch it twice, which does no harm.
        self._states[at] = _FETCHING
        try:
            begin, end = self._pages.span(page)
            data = self._client.read(self._name, begin, end, self._tag) if end > begin else b""
            os.pwrite(self._file, data, begin)
            self._states[at] = _THERE
        finally:
            if self._states[at] != _THERE:
                self._states[at] = _ABSENT
        self._shelf.grown(end - begin)
        if self._states[_HEAD:].count(_THERE) == self._pages.count:
            self._seal()

    def _seal(self) -> None:
        """Make a copy that has all pages a whole one, which stays when the machine restarts."""
        data, have = (self._path.with_name(self._path.name + end) for end in (PART, HAVE))
        with self._shelf.alone(self._path.name):
            if not data.is_file():  # another process was first, or it was removed to make room
                return

            # What was fetched in pieces is checked as a whole before it may stay.
            if (digest := file_sha256(data)) != self._sha256:
                with self._shelf.room():
                    data.unlink(missing_ok=True)
                    have.unlink(missing_ok=True)
                raise ReedError(
                    f"{self._url}: sha256 {digest[:12]}, its marker says {self._sha256[:12]}; "
                    "run reed-cache verify --deep"
                )
            os.fsync(self._file)
            with self._shelf.room():
                os.replace(data, self._path)
                have.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the copy."""
        file, self._file = self._file, -1  # a thread that is late then fails
        self._states.close()
        os.close(file)
