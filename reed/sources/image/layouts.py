"""Image files in a folder tree or a zip: what they are called, and their bytes."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from reed.build.shard import BadSample
from reed.errors import ReedError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = {"train", "training", "val", "valid", "validation", "test"}


@dataclass(frozen=True)
class Raw:
    """What is stored of one sample: the image file, and what stands beside it."""

    image: bytes
    label: int | None = None
    caption: str | None = None


class Layout(Protocol):
    """One way of storing images.

    classes: the names of the top folders, sorted, where these are the classes; beside: which of
    "label" and "caption" stand beside the images.
    """

    classes: list[str]
    beside: tuple[str, ...]

    def stamps(self) -> dict[str, str]:
        """Every key with a stamp, sorted by key; ReedError when there is none."""
        ...

    def raw(self, key: str) -> Raw:
        """One sample, undecoded; BadSample with the reason when it cannot be read."""
        ...


class Tree:
    """A folder of image files at any depth; files of other types are none of its samples.

    Names that begin with a dot, and __MACOSX, are passed over. A key is the path below the root,
    a stamp the size in bytes. Links are followed; one to nothing fails when it is read.
    """

    beside = ()

    def __init__(self, root: Path) -> None:
        self._root = root

    @cached_property
    def classes(self) -> list[str]:
        """The names of the folders in the root."""
        return sorted(e.name for e in scan(self._root) if e.is_dir())

    def stamps(self) -> dict[str, str]:
        found = {}
        others = []
        for key, entry in walk(self._root):
            if not is_image(entry.name):
                others.append(key)
                continue
            try:
                found[key] = str(entry.stat().st_size)
            except OSError as error:  # such as a link to nothing
                found[key] = f"unreadable ({error.strerror})"
        return ordered(found, others, self._root)

    def raw(self, key: str) -> Raw:
        path = self._root / key
        try:
            if not path.is_file():  # to open a pipe would wait forever
                raise BadSample("there is no such file, or only a link to nothing")
            return Raw(path.read_bytes())
        except OSError as error:
            raise BadSample(f"cannot be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class _Member:
    """Where a file lies in a zip."""

    header: int
    packed: int
    size: int
    crc: int
    method: int
    encrypted: bool


class Zip:
    """A zip of such a folder. A stamp is the size in bytes and the CRC-32.

    A single folder around all others, or one named like the zip or a split, is not part of a key.
    The files are read by place, without a shared handle, so any process or thread may read.
    """

    beside = ()

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def classes(self) -> list[str]:
        """The names of the top folders that hold images."""
        return sorted({key.split("/")[0] for key in self._members if "/" in key})

    def stamps(self) -> dict[str, str]:
        return ordered(
            {k: f"{m.size}-{m.crc:08x}" for k, m in self._members.items()}, (), self._path
        )

    @cached_property
    def _members(self) -> dict[str, _Member]:
        found: dict[str, _Member] = {}
        try:
            with zipfile.ZipFile(self._path) as opened:
                for info in opened.infolist():
                    parts = info.filename.split("/")
                    if is_image(info.filename) and not any(map(_is_debris, parts)):
                        if info.filename in found:
                            raise ReedError(f"{self._path} holds {info.filename!r} twice")
                        found[info.filename] = _Member(
                            info.header_offset,
                            info.compress_size,
                            info.file_size,
                            info.CRC,
                            info.compress_type,
                            bool(info.flag_bits & 1),
                        )
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise ReedError(f"cannot read the zip {self._path}: {error}") from error
        prefix = _wrapping(found, {self._path.stem, *SPLITS})
        return {name[len(prefix) :]: member for name, member in found.items()}

    def raw(self, key: str) -> Raw:
        member = self._members.get(key)
        if member is None:
            raise BadSample(f"not in {self._path.name}")
        if member.encrypted or member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            how = "encrypted" if member.encrypted else f"compressed by method {member.method}"
            raise BadSample(f"{how} in the zip; store it plainly or deflated")
        try:
            content = self._bytes(member)
        except (OSError, zlib.error) as error:
            raise BadSample(f"damaged in the zip: {error}") from error
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise BadSample(
                f"damaged in the zip: CRC-32 is {zlib.crc32(content):08x}, not {member.crc:08x}"
            )
        return Raw(content)

    def _bytes(self, member: _Member) -> bytes:
        with open(self._path, "rb") as file:
            file.seek(member.header)
            header = file.read(30)
            # the local header ends with the lengths of the name and of the extra field
            skip = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            file.seek(skip, os.SEEK_CUR)
            packed = file.read(member.packed)
        if member.method == zipfile.ZIP_STORED:
            return packed
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, member.size + 1)


def is_image(name: str) -> bool:
    """Whether a file name ends like an image's."""
    return name.lower().endswith(SUFFIXES)


def ordered(found: dict[str, str], others: Iterable[str], where: Path) -> dict[str, str]:
    """The stamps sorted by key; ReedError when there are none, naming what there is instead."""
    if not found:
        types = sorted({os.path.splitext(name)[1] or name for name in others})[:5]
        there = f"; there are {', '.join(types)}" if types else ""
        raise ReedError(f"{where} holds no image files ({', '.join(SUFFIXES)}){there}")
    return dict(sorted(found.items()))


def _is_debris(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def scan(folder: Path | str) -> list[os.DirEntry]:
    """What lies in a folder, but for hidden files and __MACOSX; ReedError when it cannot be read.

    In no particular order.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not _is_debris(entry.name)]
    except OSError as error:
        raise ReedError(f"cannot list {folder}: {error.strerror}") from error


def walk(root: Path) -> Iterator[tuple[str, os.DirEntry]]:
    """Every file below a folder, with its path from there; ReedError for what it cannot enter."""
    pending = [""]
    while pending:
        below = pending.pop()
        for entry in scan(os.path.join(root, below)):
            try:
                is_folder = entry.is_dir()
            except OSError as error:
                raise ReedError(f"cannot enter {entry.path}: {error.strerror}") from error
            if is_folder:
                if entry.is_symlink():
                    _check_loop(entry)
                pending.append(f"{below}{entry.name}/")
            elif entry.is_symlink() and not is_image(entry.name) and not os.path.exists(entry.path):
                raise ReedError(f"{entry.path} is a link to nothing; mend or remove it")
            else:
                yield below + entry.name, entry


def _check_loop(entry: os.DirEntry) -> None:
    target, inside = os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path))
    if os.path.join(inside, "").startswith(os.path.join(target, "")):
        raise ReedError(f"{entry.path} is a link to a folder that holds it; remove it")


def _wrapping(names: Iterable[str], known: set[str]) -> str:
    """The folders that lie around all names, with a slash behind them; empty without any.

    A folder counts if it holds nothing but folders, or if its name is known.
    """
    prefix = ""
    while True:
        rest = [name[len(prefix) :].split("/") for name in names]
        tops = {parts[0] for parts in rest}
        if len(tops) != 1 or any(len(parts) == 1 for parts in rest):
            return prefix
        (top,) = tops
        if top not in known and any(len(parts) == 2 for parts in rest):
            return prefix
        prefix += f"{top}/"
