"""Index of a tar: offsets of its images and of the files beside them."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from reed import image_files as kinds
from reed.errors import ReedError
from reed.sources.image.layouts import (
    ABOVE,
    Passed,
    followed,
    is_above,
    is_debris,
    plain,
    target_of,
)

COMPANIONS = (".cls", ".txt", ".json")  # endings of the files beside an image
_BLOCK = 512  # bytes of a block in a tar
_OCTAL = re.compile(rb"[0-7]+")

Location = tuple[int, int]  # offset and size of the content of a member, in bytes


@dataclass(frozen=True)
class Index:
    """The content of one tar.

    Attributes:
        members: Location of every image, and of the files beside images, by name; the endings of
            the latter are in lower case.
        images: Names of the images, in the order of the tar.
        passed: Names of members that are passed over, by the reason.
        beside: Whether there is a file beside an image.
    """

    members: dict[str, Location]
    images: tuple[str, ...]
    passed: Passed
    beside: bool


def base(name: str) -> str:
    """Return a member's name up to the first dot of its last part, as WebDataset groups them."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".")[0]


def stem(name: str) -> str:
    """Return a member's name without its ending."""
    return os.path.splitext(name)[0]


class _Quick(tarfile.TarInfo):
    """A member of a tar; the header of a plain file is read without the fields not used here.

    This makes it quicker to index a tar with many small files.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        size, checksum = buf[124:136].rstrip(b" \0"), buf[148:156].rstrip(b" \0")
        is_plain = buf[156:157] == tarfile.REGTYPE and _OCTAL.fullmatch(size + checksum)
        # The checksum is computed with its own field filled with blanks.
        if not is_plain or sum(buf) - sum(buf[148:156]) + 8 * ord(" ") != int(checksum or b"0", 8):
            return super().frombuf(buf, encoding, errors)

        member = cls(buf[:100].split(b"\0", 1)[0].decode(encoding, errors))
        member.size = int(size or b"0", 8)
        if prefix := buf[345:500].split(b"\0", 1)[0]:
            member.name = f"{prefix.decode(encoding, errors)}/{member.name}"
        return member


def index(path: Path) -> Index:
    """Index a tar.

    Raises:
        ReedError: The tar cannot be read, breaks off, or holds a name twice.
    """
    files: dict[str, Location] = {}
    links: dict[str, str] = {}
    passed: Passed = {}
    try:
        with open(path, "rb") as file:
            for member in members(path, file):
                _add(path, member, files, links, passed)
            files |= {name: files[to] for name, to in followed(links, files, passed).items()}
            return _sorted(file, files, passed)
    except (OSError, tarfile.TarError) as error:
        raise ReedError(f"cannot read the tar {path} (a compressed one?): {error}") from error


def members(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar, or of several tars that `cat` joined into one file.

    Args:
        path: What a message calls the file.
        file: The file.

    Raises:
        ReedError: It breaks off, or goes on with what is no header.
    """
    size, begin = os.fstat(file.fileno()).st_size, 0
    while begin < size or not begin:
        file.seek(begin)
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Quick) as tar:
            for member in tar:
                # A plain list of all members would keep a kilobyte of each.
                tar.members = []  # ty: ignore[missing-attribute]  # typeshed lacks it
                yield member
            end = tar.offset  # the next header would begin here
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise ReedError(f"the tar {path} breaks off after {end} bytes; fetch it again")
        begin = _next(file)


def _next(file: BinaryIO) -> int:
    """Return the offset of the next block that is not all zeros, or of the end."""
    while block := file.read(_BLOCK):
        if block.count(0) < len(block):
            return file.tell() - len(block)
    return file.tell()


def _add(
    path: Path,
    member: tarfile.TarInfo,
    files: dict[str, Location],
    links: dict[str, str],
    passed: Passed,
) -> None:
    """Add a member to the files, the links or the names that are passed over."""
    name = plain(member.name)
    if member.isdir():
        return

    # The first tests are quicker than the ones after them, which alone would do.
    if name[:2] == ".." and is_above(name):
        passed.setdefault(ABOVE, []).append(name)
    elif (name[0] == "." or "/." in name or "__MACOSX" in name) and _is_hidden(name):
        passed.setdefault("hidden", []).append(name)
    elif member.issparse() or not (member.isreg() or member.islnk() or member.issym()):
        passed.setdefault("no plain file", []).append(name)
    elif name in files or name in links:
        if kinds.is_image(name) or name.lower().endswith(COMPANIONS):
            raise ReedError(f"{path} holds {name!r} twice")
        kinds.by_reason([name], passed)
    elif member.isreg():
        files[name] = (member.offset_data, member.size)
    else:  # a hard link names a member, a symbolic link is relative to its own folder
        links[name] = target_of(name, member.linkname) if member.issym() else plain(member.linkname)


def _is_hidden(name: str) -> bool:
    return any(map(is_debris, name.split("/")))


def _sorted(file: BinaryIO, files: dict[str, Location], passed: Passed) -> Index:
    """Sort the files of a tar into images, files beside images, and files that are passed over."""
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

    # Only files that no ending decides are opened: a tar may hold millions.
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
    """Return the images of one WebDataset sample that are passed over.

    If names without a second dot exist, one of these images is the sample: the first JPEG, or else
    the first. If not, every image is a sample, except masks and repeated names.
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
