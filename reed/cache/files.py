"""Files that appear whole or not at all, however their writer ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from reed.errors import ReedError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@contextmanager
def new_file(path: Path, *, overwrite: bool = True) -> Generator[Path]:
    """A temp path that becomes `path` when the block ends well, and vanishes when it does not.

    The block writes and syncs the file. With overwrite=False a file that is there already wins,
    also against a racing writer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        yield temp
        try:
            _rename(temp, path, overwrite)
        except FileNotFoundError:
            if not path.exists():  # else a racing writer was first, and swept our temp file
                raise
        sweep(path.parent, {path.name})
        sync(path.parent)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        problem = f"cannot write {path}: {error.strerror}"
        raise ReedError(f"{problem}; make room there, then rerun to resume") from error
    finally:
        temp.unlink(missing_ok=True)


def sweep(folder: Path, names: Collection[str]) -> None:
    """Remove the temp files that killed writers of `names` left.

    Only for files that are in place and good: a racing writer takes that for its own success.
    """
    for temp in folder.glob(".*.tmp"):
        if temp.name[1:].rsplit(".", 2)[0] in names:
            temp.unlink(missing_ok=True)


def _rename(temp: Path, path: Path, overwrite: bool) -> None:
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
    """As new_file, opened for writing and synced at the end."""
    with new_file(path, overwrite=overwrite) as temp, open(temp, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes, *, overwrite: bool = True) -> None:
    """Write a file that appears whole or not at all: temp name, fsync, rename."""
    with open_new(path, overwrite=overwrite) as file:
        file.write(data)


@contextmanager
def only_writer(folder: Path) -> Generator[None]:
    """Keep other processes from writing the folder inside the `with`; it is made if need be.

    The lock goes with its process, however that ends. File systems without locks give none.
    Raises ReedError where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ReedError(
                f"another process is writing {folder}; wait for it, or choose another folder"
            ) from None
        except OSError:  # some network file systems: run without a lock, as they do for all
            pass
        yield
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Make what a file holds durable, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
