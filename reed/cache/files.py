"""Files that appear whole or not at all, even if their writer is killed."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import stat
import time
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from reed.errors import ReedError
from reed.store import mirror

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_OURS_ALONE = 0o600
_MOST_FILES = 65536
_LEFT = 86400.0  # seconds after which no upload runs any more
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@contextmanager
def new_file(path: Path, *, overwrite: bool = True) -> Generator[Path]:
    """Yield a temporary path that is renamed to ``path`` if the block succeeds, else removed.

    The block writes and syncs the file, which gets the permissions of a new one. A file of a cache
    in an object store is stored there before it appears; a shard appears only there.

    Args:
        path: The final path.
        overwrite: Whether to replace an existing file. If False, an existing file is kept, even one
            that another process writes at the same time.
    """
    with _appearing(path) as temp:
        yield temp
        try:
            _follow_umask(temp)
            stored = mirror.of_file(path)
            if not stored or stored[0].publish(stored[1], temp, overwrite=overwrite):
                _rename(temp, path, overwrite)
        except FileNotFoundError:
            if not path.exists():  # else another writer was first and removed our file
                raise


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """Yield a temporary folder that replaces ``path`` if the block succeeds, else is removed.

    The block writes files into it; they are synced here.
    """
    with _appearing(path) as temp:
        temp.mkdir()
        yield temp
        for file in temp.iterdir():
            _follow_umask(file)
            sync(file)
        sync(temp)
        remove(path)
        os.replace(temp, path)


@contextmanager
def _appearing(path: Path) -> Generator[Path]:
    """Yield a temporary path beside ``path`` and remove it afterwards.

    Syncs the folder after the block, so that the block's rename is durable.

    Raises:
        ReedError: The disk or the quota is full, or the file system is read-only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        yield temp
        sweep(path.parent, {path.name})
        sync(path.parent)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        problem = f"cannot write {path}: {error.strerror}"
        raise ReedError(f"{problem}; make room there, then rerun to resume") from error
    finally:
        remove(temp)


def sweep(folder: Path, names: Collection[str]) -> None:
    """Remove the temporary files and folders that killed writers of some files left.

    Args:
        folder: The folder of the files.
        names: Names of files that are in place and valid. A writer that is still running takes its
            missing temporary file as a sign that another process has written the same file.
    """
    in_store = mirror.of(folder) or mirror.of(folder.parent)
    for temp in folder.glob(".*.tmp"):
        # One that is on its way to a store is removed only when it must have been left behind.
        about = status(temp)
        if about is None or (in_store and time.time() - about.st_mtime < _LEFT):
            continue
        if temp.name[1:].rsplit(".", 2)[0] in names:
            remove(temp)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def delete(path: Path) -> None:
    """Remove a file of a cache, if it exists: first from the object store that it is in."""
    if stored := mirror.of_file(path):
        stored[0].delete(stored[1])
    path.unlink(missing_ok=True)


def _rename(temp: Path, path: Path, overwrite: bool) -> None:
    """Rename a temporary file; without ``overwrite`` an existing file is kept."""
    if overwrite:
        os.replace(temp, path)
    else:
        try:
            os.link(temp, path)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Two writers may both get here; what they write was made from the same inputs.
            if not path.exists():
                os.replace(temp, path)


@contextmanager
def open_new(path: Path, *, overwrite: bool = True) -> Generator[BinaryIO]:
    """Open a new file for writing, as `new_file` does, and sync it at the end."""
    with new_file(path, overwrite=overwrite) as temp, open(temp, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes, *, overwrite: bool = True) -> None:
    """Write a file that appears whole or not at all: temporary name, fsync, rename."""
    with open_new(path, overwrite=overwrite) as file:
        file.write(data)


@contextmanager
def only_writer(folder: Path, *, wait: bool = False) -> Generator[None]:
    """Keep other processes from writing to a folder inside the ``with`` block.

    The lock ends with its process, however that ends. On a file system without locks there is no
    protection.

    Args:
        folder: The folder; it is created if needed.
        wait: Whether to wait for another process that holds the lock.

    Raises:
        ReedError: Another process holds the lock and ``wait`` is False.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ReedError(
                f"another process is writing {folder}; wait for it, or choose another folder"
            ) from None
        except OSError:  # some network file systems have no locks: continue without one
            pass
        yield
    finally:
        os.close(descriptor)


def _follow_umask(temp: Path) -> None:
    """Give a file that only we can read the permissions of a new one.

    safetensors and tempfile make such files, whatever the umask says.
    """
    if stat.S_IMODE(temp.stat().st_mode) != _OURS_ALONE:
        return

    # The umask of a process can only be read by setting it, which other threads would notice.
    probe = temp.with_name(f".{temp.name.strip('.')}.{os.urandom(4).hex()}.tmp")
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        temp.chmod(stat.S_IMODE(probe.stat().st_mode))
    finally:
        probe.unlink(missing_ok=True)


def nearest(path: Path) -> Path:
    """Return the folder itself, or the nearest one above it that exists."""
    folder = path.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def free(path: Path) -> int:
    """Return the free bytes of the file system where a folder is or would be."""
    return shutil.disk_usage(nearest(path)).free


def size_of(path: Path, follow: bool = False) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if there is neither.

    Others may write there: a file that is gone by the time it is looked at has none. follow: count
    what links point to, in place of the links.
    """
    inside = path.rglob("*") if path.is_dir() else [path]
    found = [about for each in inside if (about := status(each, follow))]
    return sum(about.st_size for about in found if not stat.S_ISDIR(about.st_mode))


def status(path: Path, follow: bool = False) -> os.stat_result | None:
    """Return what is known of a file, or of what it links to; None if it is gone by now."""
    try:
        return path.stat(follow_symlinks=follow)
    except FileNotFoundError:
        return None


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def most_open() -> int:
    """Raise the system's limit of open files; return half of it, the number to keep open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return (_MOST_FILES if soft == resource.RLIM_INFINITY else soft) // 2
