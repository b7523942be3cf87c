"""Zips of image files in folders."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from reed import image_files as kinds
from reed.build.shard import BadSample
from reed.errors import ReedError
from reed.image_files import is_image
from reed.sources.image import captions
from reed.sources.image.layouts import (
    ABOVE,
    SPLITS,
    Folders,
    Found,
    Passed,
    Raw,
    followed,
    is_above,
    is_debris,
    plain,
    target_of,
    wrapping,
)

_LONGEST_LINK = 4096  # bytes of the path that a link leads to
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True, slots=True)
class _Member:
    """The location and storage of one file in a zip.

    Attributes:
        header: Offset of its local header in bytes.
        packed: Stored size in bytes.
        size: Uncompressed size in bytes.
        crc: CRC-32 of the uncompressed content.
        method: Number of the compression method.
        encrypted: Whether it is encrypted.
    """

    header: int
    packed: int
    size: int
    crc: int
    method: int
    encrypted: bool


class Zip(Folders):
    """A zip of a folder tree of image files (see Tree).

    A stamp is the size in bytes and the CRC-32. A key leaves out a single folder around all others
    and a folder around all that is named like the zip or like a split. It leaves out "./", and
    writes backslashes as slashes. The files are read by offset, without a shared file handle, so
    that any process or thread may read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._passed: Passed = {}
        self._others: dict[str, _Member] = {}  # files that are no images, in full names

    @cached_property
    def _tops(self) -> list[str]:
        """Names of the top folders, sorted."""
        return sorted({key.split("/")[0] for key in self.found().stamps if "/" in key})

    def names(self) -> Sequence[str]:
        return self._tops

    def found(self) -> Found:
        members = self._members  # reading these fills self._passed
        stamps = {key: f"{m.size}-{m.crc:08x}" for key, m in members.items()}
        passed = {reason: [*names] for reason, names in self._passed.items()}
        return self._sorted(stamps, self._texts, passed, self._path)

    def captions_in_tables(self) -> dict[str, str]:
        """Return the captions of every .jsonl at the top, by image."""
        return self._table

    @cached_property
    def _texts(self) -> dict[str, _Member]:
        """The files that are no images, named like keys where they lie beside images."""
        assert self._members is not None  # reading these fills self._others and self._prefix
        return {name.removeprefix(self._prefix): m for name, m in self._others.items()}

    @cached_property
    def _table(self) -> dict[str, str]:
        """The captions of every .jsonl at the top, by image."""
        table: dict[str, str] = {}
        for name in filter(captions.is_table, sorted(self._texts)):
            where = f"{self._path}, {name}"
            captions.read_table(where, self._content(self._texts[name]), table)
        return table

    @cached_property
    def _members(self) -> dict[str, _Member]:
        """Every image in the zip, by key."""
        members: dict[str, _Member] = {}
        links: dict[str, str] = {}
        try:
            with zipfile.ZipFile(self._path) as opened:
                for info in opened.infolist():
                    self._add(opened, info, members, links)
        except (OSError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
            raise ReedError(f"cannot read the zip {self._path}: {error}") from error
        members |= {
            name: members[to] for name, to in followed(links, members, self._passed).items()
        }
        self._prefix = prefix = wrapping(members, {self._path.stem, *SPLITS})
        return {name[len(prefix) :]: member for name, member in members.items()}

    def _add(
        self,
        opened: zipfile.ZipFile,
        info: zipfile.ZipInfo,
        members: dict[str, _Member],
        links: dict[str, str],
    ) -> None:
        """Add a file of the zip to the members or links, or to those that are passed over."""
        name = plain(info.filename.replace("\\", "/"))
        if info.filename.endswith(("/", "\\")) or name in ("", "."):
            return
        if is_above(name):
            self._passed.setdefault(ABOVE, []).append(name)
            return
        if any(map(is_debris, name.split("/"))):
            self._passed.setdefault("hidden", []).append(name)
            return

        member = _Member(
            info.header_offset,
            info.compress_size,
            info.file_size,
            info.CRC,
            info.compress_type,
            bool(info.flag_bits & 1),
        )
        is_link = stat.S_ISLNK(info.external_attr >> 16) and info.file_size <= _LONGEST_LINK
        if is_link and not member.encrypted and member.method in _METHODS:
            links[name] = target_of(name, opened.read(info).decode(errors="replace"))
            return

        # Reading the first bytes is slow for a million files, so the ending decides first.
        if not is_image(name) and not self._begins_like_one(opened, info, member):
            self._others[name] = member
            return
        if name in members:
            raise ReedError(f"{self._path} holds {name!r} twice")
        members[name] = member

    def _begins_like_one(
        self, opened: zipfile.ZipFile, info: zipfile.ZipInfo, member: _Member
    ) -> bool:
        """Whether a file is an image by its first bytes; False if they cannot be read."""
        if member.encrypted or member.method not in _METHODS:
            return False
        try:
            with opened.open(info) as file:
                return kinds.is_known(file.read(kinds.HEAD))
        except (OSError, zlib.error, zipfile.BadZipFile):
            return False

    def raw(self, key: str) -> Raw:
        member = self._members.get(key)
        if member is None:
            raise BadSample(f"not in {self._path.name}")
        text = self._texts.get(captions.beside(key))
        caption = self._table.get(key)
        if caption is None and text is not None:
            caption = self._content(text).decode("utf-8-sig", errors="replace").strip()
        return Raw(self._content(member), self.label(key), caption)

    def _content(self, member: _Member) -> bytes:
        """Return the content of a file; BadSample if it cannot be read, or is damaged."""
        if member.encrypted or member.method not in _METHODS:
            how = "encrypted" if member.encrypted else f"compressed by method {member.method}"
            raise BadSample(f"{how} in the zip; store it plainly or deflated")

        # zipfile would check the CRC, too, but shares one handle among all readers.
        try:
            content = self._bytes(member)
        except (OSError, zlib.error) as error:
            raise BadSample(f"damaged in the zip: {error}") from error
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise BadSample(
                f"damaged in the zip: CRC-32 is {zlib.crc32(content):08x}, not {member.crc:08x}"
            )
        return content

    def _bytes(self, member: _Member) -> bytes:
        """Read the uncompressed content of a file, one byte more than stated at the most."""
        with open(self._path, "rb") as file:
            file.seek(member.header)
            header = file.read(30)
            # The local header ends with the lengths of the name and of the extra field, which may
            # differ from those in the central directory.
            skip = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            file.seek(skip, os.SEEK_CUR)
            packed = file.read(member.packed)
        if member.method == zipfile.ZIP_STORED:
            return packed
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, member.size + 1)
