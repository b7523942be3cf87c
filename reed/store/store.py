"""A cache in an object store: its small files in a mirror, and its shards by need."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reed.bytes import file_sha256
from reed.errors import ReedError, StoreError
from reed.store import hub, names, shelf
from reed.store.client import Absent, Client, Entry, Exists
from reed.store.partial import Pages, Partial
from reed.store.shelf import Shelf
from reed.store.transfer import Ranges, download, sha256_of

OURS = ".store"  # folder in the mirror: the URL, the list of objects, copies of shards, locks
_MANY = 32  # requests at once
_GONE = -2  # size in the list of an object that was removed


class Store:
    """A cache in an object store.

    Args:
        folder: The mirror.
        url: URL of the cache.

    Attributes:
        is_kept: Whether readers keep what they have read, in place of reading ranges.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url, self.is_kept = folder, url, False
        self.client = hub.HubClient(url) if url.startswith("hf:") else Client(url)
        root = folder.parents[1] if names.commit(url) else folder
        self.shelf = Shelf(root / OURS / "shards", shelf.BYTES)
        self._list = folder / OURS / "objects"
        self._known: dict[str, Entry] = {}
        self._read_to = 0

    def keep(self, root: Path, limit: int) -> None:
        """Keep what is read from now on, up to ``limit`` bytes, below a folder."""
        self.shelf = Shelf(root.joinpath(*names.folders(names.without_commit(self.url))), limit)
        self.is_kept = True

    @functools.cached_property
    def pool(self) -> ThreadPoolExecutor:
        """The threads in which requests wait."""
        return ThreadPoolExecutor(_MANY, thread_name_prefix="reed-store")

    # ---- what the store has

    def refresh(self) -> None:
        """List the store once, and make the small files of the mirror those of the store."""
        with self._lock():
            before = self._entries()  # a commit does not change
            listed = before if names.commit(self.url) and before else self.client.list()
            now = {name: entry for name, entry in listed.items() if names.is_ours(name)}
            stale = (n for n, entry in before.items() if entry.tag and now.get(n) != entry)
            for name in {*stale, *self._strays(now)}:
                (self.folder / name).unlink(missing_ok=True)

            # A web server tells no versions. The manifest comes last, as in a build: it says that
            # the lists of keys are there.
            small = [name for name in now if names.is_small(name)]
            want = [n for n in small if not now[n].tag or not (self.folder / n).is_file()]
            want.sort(key="manifest.json".__eq__)
            now |= self._fetched(want[:-1]) | self._fetched(want[-1:])
            lines = "".join(_line(name, entry) for name, entry in sorted(now.items()))
            shelf.write(self._list, lines.encode())
            shelf.write(self.folder / OURS / "url", self.url.encode())
        self._known, self._read_to = {}, 0

    def _strays(self, now: dict[str, Entry]) -> Iterator[str]:
        """Yield the files of the mirror that the store does not have."""
        for path in (*self.folder.glob("*.*"), *self.folder.glob("*/*.*")):
            name = path.relative_to(self.folder).as_posix()
            if name not in now and names.is_ours(name):
                yield name

    def _fetched(self, wanted: Iterable[str]) -> dict[str, Entry]:
        """Fetch small files; return their entries."""

        def fetch(name: str) -> tuple[str, Entry] | None:
            try:
                data, entry = self.client.get(name)
            except Absent:  # it was removed since the listing
                return None
            shelf.write(self.folder / name, data)
            return name, entry

        return dict(filter(None, self.pool.map(fetch, wanted)))

    def _entries(self) -> dict[str, Entry]:
        """Return the known objects, with those that other processes have added since."""
        size = self._list.stat().st_size if self._list.is_file() else 0
        if size != self._read_to:
            with open(self._list, "rb") as file:
                file.seek(self._read_to if size > self._read_to else 0)
                for line in file.read().decode().splitlines():
                    name, count, tag = line.split("\t")
                    self._known[name] = Entry(int(count), tag)
                self._read_to = file.tell()
        return {name: entry for name, entry in self._known.items() if entry.size != _GONE}

    def _note(self, name: str, entry: Entry) -> None:
        """Add to the list of objects."""
        with self._lock(), open(self._list, "ab") as file:
            file.write(_line(name, entry).encode())

    @contextlib.contextmanager
    def _lock(self) -> Generator[None]:
        """Keep other processes from changing the list of objects and from listing."""
        with shelf.locked(self.folder / OURS / "lock"):
            yield

    def entry(self, name: str) -> Entry | None:
        """Return what is known of an object; None if the store does not have it."""
        self._entries()
        entry = self._known.get(name)
        return None if entry is None or entry.size == _GONE else entry

    def pull(self, name: str) -> None:
        """Fetch a small file that another machine may have stored since the listing."""
        if not (self.folder / name).is_file():
            for got, entry in self._fetched([name]).items():
                shard = self._shard_of(got)
                if shard and (there := self.client.head(shard)):
                    self._note(shard, there)
                self._note(got, entry)

    # ---- shards

    def copy_of(self, name: str, sha256: str) -> str:
        """Return the name of the copy of a shard, which is that of its content."""
        stem, _, ending = name.rpartition(".")
        return f"{stem}-{sha256[:16]}.{ending}"

    def fetch(self, name: str, sha256: str) -> Path:
        """Return the path of a whole shard on this machine, fetching it once per machine.

        Args:
            name: Name of the shard.
            sha256: What its content must hash to; empty for anything.

        Raises:
            ReedError: The hash differs.
            StoreError: The store cannot be read, or lacks the shard.
        """
        entry = self._there(name)
        version = sha256 or entry.tag or "none"
        with self.shelf.place(self.copy_of(name, version), max(entry.size, 0)) as (path, temp):
            if temp is not None:
                download(self.client, self.pool, name, entry, temp)
                if sha256 and (digest := file_sha256(temp)) != sha256:
                    raise ReedError(
                        f"{self.url}/{name}: sha256 {digest[:12]}, its marker says {sha256[:12]}; "
                        f"run reed-cache repair {self.url}"
                    )
        return path

    def ranges(self, name: str, size: int) -> Ranges:
        """Return a shard that is read by ranges; StoreError if it is missing or of another size."""
        entry = self._sound(name, size)
        return Ranges(self.client, name, entry, self.pool)

    def partial(self, name: str, sha256: str, pages: Pages) -> Partial:
        """Return a shard that is fetched page by page; StoreError as in `ranges`."""
        return Partial(
            self.client,
            name,
            self._sound(name, pages.end),
            self.pool,
            shelf=self.shelf,
            copy=self.copy_of(name, sha256),
            sha256=sha256,
            pages=pages,
        )

    def _sound(self, name: str, size: int) -> Entry:
        entry = self._there(name)
        if entry.size not in (size, -1):
            raise StoreError(
                f"{self.url}/{name} has {entry.size} bytes, its marker says {size}; "
                f"run reed-cache verify {self.url}"
            )
        return entry

    def _there(self, name: str) -> Entry:
        """Return what is known of an object; StoreError if the store does not have it."""
        entry = self.entry(name)
        if entry is None:
            raise StoreError(f"{self.url}/{name} is missing; run reed-cache verify {self.url}")
        return entry

    def publish(self, name: str, path: Path, *, overwrite: bool) -> bool:
        """Store a file under a name of the cache, before it appears in the mirror.

        Of two builders of a shard one is first: the other takes its marker.

        Args:
            name: Name of the object.
            path: The file; a shard is moved away.
            overwrite: Whether to replace an object that is there.

        Returns:
            Whether the file has to appear in the mirror; what another process stored is there.
        """
        if names.is_shard(name):
            self._publish_shard(name, path)
            return False
        is_marker = names.is_marker(name)
        try:
            entry = self.client.put(name, path, create=is_marker or not overwrite)
        except Exists:
            if not is_marker:
                self.pull(name)
                return False
            return self._second(name, path)
        self._note(name, entry)
        return True

    def _publish_shard(self, name: str, path: Path) -> None:
        """Store a shard and keep it as a copy.

        One that is there already is of a builder that was killed before its marker, or is about to
        put that, see `_second`.
        """
        sha256 = file_sha256(path)
        try:
            entry = self.client.put(name, path, create=True)
        except Exists:
            there = self.client.head(name)
            if there is None or sha256_of(self.client, name, there) != sha256:
                there = self.client.put(name, path, create=False)
            entry = there
        self._note(name, entry)
        self.shelf.take(self.copy_of(name, sha256), path, entry.size)

    def _second(self, name: str, path: Path) -> bool:
        """Settle whose shard and marker stay, where another builder's marker is there already.

        They are made from the same inputs and mostly equal. Where a container or a GPU has given
        them other bytes, the shard that is in the store decides.
        """
        theirs, entry = self.client.get(name)
        stated, ours = (json.loads(data)["sha256"] for data in (theirs, path.read_bytes()))
        shard = self._shard_of(name)
        there = self.client.head(shard) if shard and stated != ours else None
        if there is not None:
            if sha256_of(self.client, shard, there) == ours:
                self._note(name, self.client.put(name, path, create=False))
                return True
            self._note(shard, there)

        shelf.write(self.folder / name, theirs)
        self._note(name, entry)
        return False

    def _shard_of(self, name: str) -> str:
        """Return the name of the shard of a marker; empty for other files."""
        if not names.is_marker(name):
            return ""
        column = self.folder / name.partition("/")[0] / "column.json"
        return f"{name[:-4]}{json.loads(column.read_bytes())['container']}"

    def delete(self, name: str) -> None:
        """Remove an object."""
        self.client.delete(name)
        self._note(name, Entry(_GONE, ""))

    def clear(self, column: str = "") -> int:
        """Remove a column, or the whole cache; return its bytes.

        What says that the rest is there goes first, and the description of a column last.
        """
        listed = {n: e for n, e in self.client.list().items() if names.is_ours(n)}
        chosen = [n for n in listed if not column or n.startswith(f"{column}/")]
        last = "column.json"
        chosen.sort(key=lambda n: (n != "manifest.json", n.endswith(last), not names.is_marker(n)))
        for name in chosen:
            self.delete(name)
        return sum(max(listed[name].size, 0) for name in chosen)


def _line(name: str, entry: Entry) -> str:
    return f"{name}\t{entry.size}\t{entry.tag}\n"
