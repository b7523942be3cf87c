"""Bytes: a readable number of them, and the hash of a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from reed.errors import NoPermission, ReedError


def human(count: float) -> str:
    """Return a number of bytes in decimal units: 999 B, 1.2 kB, 3.4 GB."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    power = 0
    while round(count, min(power, 1)) >= 1000 and power < len(units) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.{min(power, 1)}f} {units[power]}"


def check_readable(path: Path) -> None:
    """Raise NoPermission if this user may not read a file, which is no reason to remove it."""
    try:
        with open(path, "rb"):
            pass
    except PermissionError as error:
        raise NoPermission(f"no permission to read {path} {_advice(path)}") from error
    except OSError:  # another error, which the caller reports
        pass


def is_closed(folder: Path) -> bool:
    """Return whether this user may not list or enter a folder, which then seems to be empty."""
    try:
        os.stat(folder / ".")
        with os.scandir(folder):
            return False
    except OSError as error:  # another error is reported by the caller
        return isinstance(error, PermissionError)


def check_enterable(folder: Path) -> None:
    """Raise NoPermission if this user may not list or enter a folder."""
    if is_closed(folder):
        raise NoPermission(f"no permission to read the folder {folder} {_advice(folder)}")


def _advice(path: Path) -> str:
    """Return the mode of what may not be read, and what its owner can do."""
    try:
        mode = f"{path.stat().st_mode & 0o777:04o}"
        allow = "a+rx" if path.is_dir() else "a+r"
        return f"(mode {mode}); its owner can allow it: chmod {allow} {path}"
    except PermissionError:  # a folder above it may not be entered
        return f"(nor to enter its folder); the owner can allow it: chmod a+rx {path.parent}"


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal; ReedError if the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        check_readable(path)
        raise ReedError(f"cannot read {path}: {error.strerror}") from error
