"""Copies of shards on this machine, up to a number of bytes; the least recently used go first."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Generator
from pathlib import Path

from reed.bytes import human
from reed.errors import ReedError

BYTES = 16 * 10**9  # kept by default
PART, HAVE = ".part", ".have"  # a copy that is not whole, and which pages of it are there
_OFTEN = 64 << 20  # fetched bytes after which room is made


class Shelf:
    """A folder with copies of shards, for all processes of a machine.

    Args:
        folder: The folder.
        limit: Bytes of the copies together. One that is open uses the disk until it is closed.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit, self._grown = folder, limit, 0

    def path(self, name: str) -> Path:
        """Return the path that a copy has, or would have."""
        return self._folder / name

    @contextlib.contextmanager
    def room(self) -> Generator[None]:
        """Keep other processes from making and removing copies inside the ``with`` block."""
        with locked(self._folder / ".locks" / "room"):
            yield

    @contextlib.contextmanager
    def alone(self, name: str) -> Generator[None]:
        """Keep other processes from completing a copy inside the ``with`` block."""
        # One lock for few of them: others are fetched at the same time.
        spot = hashlib.sha256(name.encode()).hexdigest()[:2]
        with locked(self._folder / ".locks" / spot):
            yield

    def grown(self, count: int) -> None:
        """Count bytes that were added to a copy; now and then, room is made."""
        self._grown += count
        if self._grown >= min(_OFTEN, self._limit // 8):
            self._grown = 0
            self._make_room(0)

    def find(self, name: str) -> Path | None:
        """Return the path of a copy, which counts as a use of it; None if there is none."""
        path = self._folder / name
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    @contextlib.contextmanager
    def place(self, name: str, size: int) -> Generator[tuple[Path, Path | None]]:
        """Yield the path of a copy, and where to write it if this process is to fetch it.

        Other processes that want it wait. It appears after the block, if that succeeds.

        Args:
            name: Name of the copy.
            size: Its bytes.
        """
        path = self._folder / name
        if self.find(name):
            yield path, None
            return

        with self.alone(name):
            if self.find(name):
                yield path, None
                return
            self._make_room(size)
            with appearing(path) as temp:
                yield path, temp

    def take(self, name: str, path: Path, size: int) -> None:
        """Make a file a copy, which it was moved to be."""
        self._make_room(size)
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)

    def _make_room(self, size: int) -> None:
        """Remove the copies that were used longest ago, until so many bytes fit."""
        with self.room():
            copies = []
            for path in self._folder.glob("*/[0-9]*"):
                if path.suffix != HAVE:
                    about = path.stat()
                    used = min(about.st_size, about.st_blocks * 512)  # of one that is not whole
                    copies.append((about.st_mtime_ns, used, path))
            total = sum(used for _, used, _ in copies)
            for _, used, path in sorted(copies):
                if total + size <= self._limit:
                    break
                path.unlink()
                if path.suffix == PART:
                    path.with_suffix(HAVE).unlink(missing_ok=True)
                total -= used


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """Keep other processes and threads out inside the ``with`` block, by the lock of a file.

    It ends with its process. On a file system without locks there is no protection.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def appearing(path: Path) -> Generator[Path]:
    """Yield a temporary path that is renamed to ``path`` if the block succeeds, else removed.

    Raises:
        ReedError: It cannot be written; the disk may be full.
    """
    temp = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temp
        os.replace(temp, path)
    except OSError as error:
        room = os.statvfs(path.anchor if not path.parent.is_dir() else path.parent)
        free = human(room.f_bavail * room.f_frsize)
        raise ReedError(
            f"cannot write {path}: {error.strerror or error} ({free} are free there); make room, "
            "or give loader.cache_dir another folder"
        ) from error
    finally:
        temp.unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """Write a small file, which appears whole."""
    with appearing(path) as temp:
        temp.write_bytes(data)
