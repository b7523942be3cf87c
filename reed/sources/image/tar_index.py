"""What a tar holds, by place: its images, what stands beside them, and what is neither."""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from reed import image_files as kinds
from reed.errors import ReedError
from reed.sources.image.layouts import Passed, is_debris

COMPANIONS = (".cls", ".txt", ".json")  # of an image that has their name
_BLOCK = 512  # bytes, of a tar
_OCTAL = re.compile(rb"[0-7]+")

Place = tuple[int, int]  # where the bytes of a member begin, and how many they are


@dataclass(frozen=True)
class Index:
    """What is in one tar.

    members: the images and what stands beside them, whose endings are in lower case; images: their
    names, in the order of the tar; beside: whether anything stands beside an image.
    """

    members: dict[str, Place]
    images: tuple[str, ...]
    passed: Passed
    beside: bool


def base(name: str) -> str:
    """A member's name up to the first dot of its last part, which is what WebDataset goes by."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".")[0]


def stem(name: str) -> str:
    """A member's name without its ending."""
    return os.path.splitext(name)[0]


class _Quick(tarfile.TarInfo):
    """A member whose header, where it is that of a plain file, is read without what we leave."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        size, checksum = buf[124:136].rstrip(b" \0"), buf[148:156].rstrip(b" \0")
        is_plain = buf[156:157] == tarfile.REGTYPE and _OCTAL.fullmatch(size + checksum)
        # the sum is taken with blanks in the place of the sum
        if not is_plain or sum(buf) - sum(buf[148:156]) + 8 * ord(" ") != int(checksum or b"0", 8):
            return super().frombuf(buf, encoding, errors)
        found = cls(buf[:100].split(b"\0", 1)[0].decode(encoding, errors))
        found.size = int(size or b"0", 8)
        if prefix := buf[345:500].split(b"\0", 1)[0]:
            found.name = f"{prefix.decode(encoding, errors)}/{found.name}"
        return found


def index(path: Path) -> Index:
    """The index of a tar; ReedError if it is not whole, or holds a name twice."""
    files: dict[str, Place] = {}
    links: dict[str, str] = {}
    passed: Passed = {}
    try:
        with open(path, "rb") as file:
            _scan(path, file, files, links, passed)
            _resolve(files, links, passed)
            return _sorted(file, files, passed)
    except (OSError, tarfile.TarError) as error:
        raise ReedError(f"cannot read the tar {path} (a compressed one?): {error}") from error


def _scan(
    path: Path, file: BinaryIO, files: dict[str, Place], links: dict[str, str], passed: Passed
) -> None:
    """Every member of a tar, or of several that were joined into one file by `cat`."""
    size, begin = os.fstat(file.fileno()).st_size, 0
    while begin < size or not begin:
        file.seek(begin)
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Quick) as tar:
            for member in tar:
                # A plain list of all members would keep a kilobyte of each.
                tar.members = []  # ty: ignore[missing-attribute]  # typeshed lacks it
                _take(path, member, files, links, passed)
            end = tar.offset  # where the next header would be
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise ReedError(f"the tar {path} breaks off after {end} bytes; fetch it again")
        begin = _next(file)


def _next(file: BinaryIO) -> int:
    """Where the next block begins that is not zero, or the end."""
    while block := file.read(_BLOCK):
        if block.count(0) < len(block):
            return file.tell() - len(block)
    return file.tell()


def _take(
    path: Path,
    member: tarfile.TarInfo,
    files: dict[str, Place],
    links: dict[str, str],
    passed: Passed,
) -> None:
    name = _plain(member.name)
    if member.isdir():
        return
    if (name[0] == "." or "/." in name or "__MACOSX" in name) and _is_hidden(name):
        passed.setdefault("hidden", []).append(name)
    elif member.issparse() or not (member.isreg() or member.islnk() or member.issym()):
        passed.setdefault("no plain file", []).append(name)
    elif name in files or name in links:
        if kinds.is_image(name) or name.lower().endswith(COMPANIONS):
            raise ReedError(f"{path} holds {name!r} twice")
        kinds.by_reason([name], passed)
    elif member.isreg():
        files[name] = (member.offset_data, member.size)
    else:  # a hard link names a member, a symbolic one is relative to its folder
        folder = posixpath.dirname(name) if member.issym() else ""
        links[name] = _plain(posixpath.join(folder, member.linkname))


def _is_hidden(name: str) -> bool:
    return any(map(is_debris, name.split("/")))


def _plain(name: str) -> str:
    """A name without "./", ".." and double slashes, where it has some."""
    return posixpath.normpath(name) if "./" in name or "//" in name else name


def _resolve(files: dict[str, Place], links: dict[str, str], passed: Passed) -> None:
    """Put links where they lead, over other links, too."""
    found: dict[str, Place] = {}
    for name in links:
        target, seen = name, set()
        while target in links and target not in seen:
            seen.add(target)
            target = links[target]
        if target in files:
            found[name] = files[target]
        else:
            passed.setdefault("link to nothing", []).append(name)
    files |= found


def _sorted(file: BinaryIO, files: dict[str, Place], passed: Passed) -> Index:
    """Images, what stands beside them, and the others."""
    groups: dict[str, list[str]] = {}
    companions: dict[str, str] = {}
    others = []
    for name in files:
        if kinds.is_image(name):
            groups.setdefault(base(name), []).append(name)
        elif name.lower().endswith(COMPANIONS):
            root, ending = os.path.splitext(name)
            companions[root + ending.lower()] = name
        else:
            others.append(name)
    for name in others:
        file.seek(files[name][0])
        if kinds.is_known(file.read(min(kinds.HEAD, files[name][1]))):
            groups.setdefault(base(name), []).append(name)
        else:
            kinds.by_reason([name], passed)
    masks = [mask for group in groups.values() if len(group) > 1 for mask in _masks(group)]
    if masks:
        passed[kinds.BESIDE] = masks
    left_out = set(masks)
    images = tuple(name for group in groups.values() for name in group if name not in left_out)
    owners = {*groups, *map(stem, images)}
    members = {name: files[name] for name in images}
    for name, written in companions.items():
        if stem(name) in owners:
            members[name] = files[written]
        else:
            passed.setdefault("beside no image", []).append(written)
    return Index(members, images, passed, len(members) > len(images))


def _masks(group: list[str]) -> list[str]:
    """The images of one sample but for the one that it is of.

    Of those whose name has one dot a photograph (JPEG) before others, then the first; without any
    such, all of different names that are no masks are samples of their own.
    """
    plain = [name for name in group if stem(name) == base(name)]
    if plain:
        photos = [name for name in plain if name.lower().endswith(kinds.JPEGS)]
        chosen = {(photos or plain)[0]}
    else:
        first: dict[str, str] = {}
        for name in group:
            first.setdefault(stem(name), name)
        words = kinds.MASK_WORD
        chosen = {n for n in first.values() if not words.search(stem(n))} or set(first.values())
    return [name for name in group if name not in chosen]
