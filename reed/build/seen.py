"""What a source found in each file, remembered beside the plan in ``cache/NAME/seen.json``.

A listing that has to parse every file takes long, and each command lists. A file that has not
changed since is not parsed again. The memory is no part of the content of a cache: builds of equal
data may differ in it, and without it a listing only takes longer.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reed.cache import files, sealed
from reed.errors import ReedError

NAME = "seen.json"
HEAD = 4096  # bytes at the beginning of a file that are compared
_RECENT = 2 * 10**9  # nanoseconds in which a file may change again without another time


class Seen:
    """What was found in the files of a folder, by a reader of a certain version.

    Args:
        path: The file to remember it in; None to remember nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._scope = ""
        self._before: dict[str, str] = {}
        self._now: dict[str, str] = {}

    def begin(self, folder: Path, reader: str) -> None:
        """Recall what was found in a folder by the same reader.

        Args:
            folder: The folder.
            reader: All that the findings depend on besides the files.
        """
        place = f"{folder.resolve()}\n{reader}"
        self._scope = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
        self._before, self._now = {}, {}
        if self._path is None or not self._path.is_file():
            return
        try:
            table = sealed.read(self._path)
        except ReedError:  # a memory that is damaged is none
            return
        if table.get("scope") == self._scope:
            self._before = table["files"]

    def find(self, path: Path, name: str, look: Callable[[], Any]) -> Any:
        """Return what is in a file: as it is remembered, if the file is the same, else by looking.

        Args:
            path: The file.
            name: Its name in the folder.
            look: Function that parses the file; it returns what JSON can hold.
        """
        state = _state(path) if _is_text(name) else None
        remembered = json.loads(self._before.get(name, "null"))
        if state and remembered and remembered[0] == state:
            found = remembered[1]
        else:
            found = look()

        # What has just been written may be written again within the resolution of its times.
        if state and max(state[1:3]) + _RECENT < time.time_ns():
            self._now[name] = json.dumps([state, found])
        return found

    def save(self) -> None:
        """Write what was found if it is not what is written already."""
        if self._path is not None and self._now != self._before:
            table = {"scope": self._scope, "files": self._now}
            files.write_atomic(self._path, sealed.dump(table))


def _state(path: Path) -> list[Any] | None:
    """Return size, times and hash of the head of a file; None if it cannot be read.

    The time of the last change of the inode is one of them, because that of the content can be set.
    """
    try:
        with open(path, "rb") as file:
            head = hashlib.sha256(file.read(HEAD)).hexdigest()[:32]
        about = path.stat()
    except OSError:
        return None
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns, head]


def _is_text(name: str) -> bool:
    """Whether a JSON file can hold a name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
