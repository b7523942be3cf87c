"""Folder trees of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from reed import image_files as kinds
from reed.build.shard import BadSample
from reed.errors import ReedError
from reed.image_files import is_image
from reed.sources.image import captions
from reed.sources.image.layouts import Folders, Found, Raw, is_debris


class Tree(Folders):
    """A folder of image files at any depth.

    A file is an image by the ending of its name, or by its first bytes. Hidden files, __MACOSX,
    other files and masks beside an image are passed over. A key is the path below the root, a
    stamp is the size in bytes. Links are followed; a link to nothing fails when it is read.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @cached_property
    def _tops(self) -> list[str]:
        """Names of the top folders, sorted."""
        return sorted(e.name for e in scan(self._root) if e.is_dir())

    def names(self) -> Sequence[str]:
        return self._tops

    def found(self) -> Found:
        stamps, passed, hidden, others = {}, {}, [], []
        for key, entry in walk(self._root, hidden):
            if not is_image(entry.name) and not kinds.begins_like_one(entry.path):
                others.append(key)
                continue
            try:
                stamps[key] = str(entry.stat().st_size)
            except OSError as error:  # such as a link to nothing
                stamps[key] = f"unreadable ({error.strerror})"
        passed |= {"hidden": hidden} if hidden else {}
        return self._sorted(stamps, others, passed, self._root)

    def captions_in_tables(self) -> dict[str, str]:
        """Return the captions of every .jsonl at the top, by image."""
        return self._table

    @cached_property
    def _table(self) -> dict[str, str]:
        """The captions of every .jsonl at the top, by image."""
        table: dict[str, str] = {}
        for name in sorted(entry.name for entry in scan(self._root)):
            if captions.is_table(name) and (self._root / name).is_file():
                path = self._root / name
                captions.read_table(str(path), path.read_bytes(), table)
        return table

    def raw(self, key: str) -> Raw:
        path = self._root / key
        try:
            if not path.is_file():  # opening a pipe would wait forever
                raise BadSample("there is no such file, or only a link to nothing")
            return Raw(path.read_bytes(), self.label(key), self._caption(key))
        except OSError as error:
            raise BadSample(f"cannot be read: {error.strerror}") from error

    def _caption(self, key: str) -> str | None:
        """Return the caption of an image; None if it has none."""
        path = self._root / captions.beside(key)
        if key in self._table or not path.is_file():
            return self._table.get(key)
        return path.read_bytes().decode("utf-8-sig", errors="replace").strip()


def scan(folder: Path | str, hidden: list[str] | None = None) -> list[os.DirEntry]:
    """Return the entries of a folder without hidden files and __MACOSX, in no particular order.

    Args:
        folder: The folder.
        hidden: List to which the names that are left out are added.

    Raises:
        ReedError: The folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except OSError as error:
        raise ReedError(f"cannot list {folder}: {error.strerror}") from error
    kept = [entry for entry in listed if not is_debris(entry.name)]
    if hidden is not None and len(kept) < len(listed):
        hidden += [entry.name for entry in listed if is_debris(entry.name)]
    return kept


def walk(root: Path, hidden: list[str] | None = None) -> Iterator[tuple[str, os.DirEntry]]:
    """Yield every file below a folder with its path relative to the folder.

    Args:
        root: The folder.
        hidden: List to which the paths of hidden files and folders are added.

    Raises:
        ReedError: A folder cannot be entered, a link leads to nothing, or a link leads to a folder
            around it.
    """
    pending = [""]
    while pending:
        below = pending.pop()
        left_out: list[str] = []
        entries = scan(os.path.join(root, below), left_out)
        if hidden is not None and left_out:
            hidden += [below + name for name in left_out]

        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError as error:
                raise ReedError(f"cannot enter {entry.path}: {error.strerror}") from error
            if is_folder:
                if entry.is_symlink():
                    _check_loop(entry)
                pending.append(f"{below}{entry.name}/")
            # A link to nothing that is named like an image is yielded: it fails as a sample.
            elif entry.is_symlink() and not is_image(entry.name) and not os.path.exists(entry.path):
                raise ReedError(f"{entry.path} is a link to nothing; mend or remove it")
            else:
                yield below + entry.name, entry


def _check_loop(entry: os.DirEntry) -> None:
    """Refuse a link to a folder that holds the link, which would be walked forever."""
    target, inside = os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path))
    if os.path.join(inside, "").startswith(os.path.join(target, "")):
        raise ReedError(f"{entry.path} is a link to a folder that holds it; remove it")
