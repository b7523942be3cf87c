"""The tar container: a plain WebDataset tar that can also be read by offset.

It is ustar and byte-reproducible. The members of a sample are adjacent and in the same order in
every sample; .npy headers are padded so that payloads start on 512-byte boundaries. With one size
per part the stride is constant, and a reader needs no record's header.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, repeat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from reed.cache import aside
from reed.cache.codecs.codecs import Part
from reed.cache.containers import offsets
from reed.cache.containers.block import Block, Record, blocks, lengths_of
from reed.cache.containers.offsets import Shard as Shard
from reed.cache.containers.tar_layout import BLOCK as _BLOCK
from reed.cache.containers.tar_layout import NPY_HEADER as _NPY_HEADER
from reed.cache.containers.tar_layout import (
    Image,
    Layout,
    ending,
    layout_of,
    npy_header,
    tar_header,
)
from reed.errors import ReedError

_MEMBER_KEY = re.compile(r"[A-Za-z0-9_%-]{1,64}(~[1-9])?")
_SHAPE = re.compile(rb"'shape': \((\d{1,18}),")


def write(path: Path, parts: Sequence[Part], records: Iterable[Record | Block]) -> dict[str, Any]:
    """Write the records of a shard; return its index.

    The file is synced but not renamed; the caller renames it.

    Args:
        path: The shard file.
        parts: The parts of the column.
        records: Blocks of records, or single ones: pairs of a member name and one array (or bytes
            of text) per part.

    Returns:
        "bytes" and "sha256" of the file, and in "parts", per part, the "offsets" of the payloads:
        a list, or {"first", "stride"} where they are equally spaced. Ragged parts also have their
        "lengths" (rows, or bytes of text).
    """
    digest = hashlib.sha256()
    payloads: dict[str, list[tuple[int, int]]] = {part.name: [] for part in parts}
    with open(path, "wb") as file:

        def put(image: Image) -> int:
            file.write(image.content)
            digest.update(image.content)
            return len(image.content)

        # The next records are laid out, and their values encoded, while these are written.
        filled = _filled(parts, blocks(records), payloads)
        with contextlib.closing(aside.called(put, filled, lambda i: len(i.content))) as sizes:
            position = sum(sizes)

        # Two empty blocks end a tar archive.
        end = bytes(2 * _BLOCK)
        file.write(end)
        digest.update(end)
        file.flush()
        os.fsync(file.fileno())
    index = {part.name: offsets.entry(part, payloads[part.name]) for part in parts}
    return {"bytes": position + len(end), "sha256": digest.hexdigest(), "parts": index}


def _filled(
    parts: Sequence[Part], given: Iterable[Block], payloads: dict[str, list[tuple[int, int]]]
) -> Iterator[Image]:
    """Yield the bytes of blocks; an image is valid until the next but one is asked for.

    Args:
        parts: The parts of the column.
        given: The blocks.
        payloads: By part, receives the offset and the length of every payload.
    """
    position = 0
    images: deque[Image | None] = deque([None, None])
    for layout, block in _even(parts, given):
        # The headers are laid out once for all blocks of as many records of the same sizes.
        image = images.popleft()
        if image is None or image.layout is not layout or len(image) != len(block.names):
            image = Image(layout, len(block.names))
        image.fill(block)
        for part, start, length in zip(parts, layout.starts, layout.lengths, strict=True):
            first = position + start
            places = range(first, first + len(image.content), layout.size)
            payloads[part.name] += zip(places, repeat(length))
        position += len(image.content)
        images.append(image)
        yield image


def _even(parts: Sequence[Part], given: Iterable[Block]) -> Iterator[tuple[Layout, Block]]:
    """Yield blocks whose records all have the same sizes, with their layout."""
    parts = tuple(parts)
    for block in given:
        columns = list(zip(parts, block.values, strict=True))
        if all(isinstance(values, np.ndarray) for _, values in columns):
            sizes = tuple(lengths_of(part, values[:1])[0] for part, values in columns)
            yield layout_of(parts, sizes), block
            continue

        # Neighbours of the same sizes are written together.
        lengths = list(zip(*(lengths_of(part, values) for part, values in columns), strict=True))
        start = 0
        for sizes, run in groupby(lengths):
            stop = start + sum(1 for _ in run)
            yield layout_of(parts, sizes), block.part(start, stop)
            start = stop


def member_key(key: str, view: int = 0) -> str:
    """Return the member name of a sample: percent-encoded, without dots, at most 64 bytes.

    A longer key keeps its beginning and ends in a hash; the marker has the full key. Views after
    the first end in "~1" and so on, which no encoded key can hold. With the field's name (24),
    "-scale" and ".npy" the name fits into the 100 bytes of a ustar header.
    """
    suffix = f"~{view}" if view else ""
    name = quote(key, safe="").replace(".", "%2E").replace("~", "%7E")
    room = 64 - len(suffix)
    if len(name) > room:
        name = f"{name[: room - 17]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return name + suffix


def scan(path: Path, parts: Sequence[Part]) -> tuple[list[str], dict[str, Any]]:
    """Return the member names and the index of a shard, from its headers alone.

    No payload is read, nothing is extracted, and no name is used as a path.

    Raises:
        ReedError: The file is not as `write` makes it; the message has the member and the byte.
    """
    members: list[str] = []
    payloads: dict[str, list[tuple[int, int]]] = {part.name: [] for part in parts}

    try:
        with open(path, "rb", buffering=0) as file:
            size, position = os.fstat(file.fileno()).st_size, 0
            while (head := os.pread(file.fileno(), 2 * _BLOCK, position)) != bytes(2 * _BLOCK):
                members.append(_member_of(path, head, parts[0], position))
                for part in parts:
                    member = _parse(path, head, members[-1], part, position)
                    payloads[part.name].append((position + member.head, member.length))
                    position += member.head + member.size
                    padding = -position % _BLOCK
                    if position + padding > size:
                        raise _refuse(path, member.name, position, f"the file ends at {size}")
                    # One read gets the padding and the headers of the next member.
                    tail = os.pread(file.fileno(), padding + 2 * _BLOCK, position)
                    if any(tail[:padding]):
                        raise _refuse(path, member.name, position, "the padding is not zero")
                    position, head = position + padding, tail[padding:]
    except OSError as error:
        raise ReedError(f"cannot read {path}: {error.strerror}") from error

    if position + 2 * _BLOCK != size:
        raise _refuse(path, "the end", position, f"the file has {size} bytes")
    if len(set(members)) != len(members):
        duplicate = next(name for i, name in enumerate(members) if name in members[:i])
        raise _refuse(path, duplicate, 0, "the sample is there twice")
    return members, {part.name: offsets.entry(part, payloads[part.name]) for part in parts}


@dataclass(frozen=True)
class _Member:
    """One member of the archive.

    Attributes:
        name: Name of the member.
        head: Bytes of its headers.
        size: Bytes of its payload.
        length: Its length in rows, or in bytes of text.
    """

    name: str
    head: int
    size: int
    length: int


def _member_of(path: Path, head: bytes, part: Part, position: int) -> str:
    """Return the member name in a header that begins a sample."""
    name = head[:100].rstrip(b"\0").decode("ascii", "replace")
    key = name.partition(".")[0]
    if _MEMBER_KEY.fullmatch(key) is None or name != key + ending(part):
        problem = "it is neither the first part of a sample nor the end of the archive"
        raise _refuse(path, name, position, problem)
    return key


def _parse(path: Path, head: bytes, key: str, part: Part, position: int) -> _Member:
    """Return one member from its headers; they must be as `write` makes them."""
    name = key + ending(part)
    digits = head[124:135]
    if len(head) < 2 * _BLOCK or re.fullmatch(rb"[0-7]{11}", digits) is None:
        raise _refuse(path, name, position, "the size in its header is not eleven octal digits")
    size = int(digits, 8)
    if head[:_BLOCK] != tar_header(name, size):
        stored = head[:100].rstrip(b"\0").decode("ascii", "replace")
        problem = (
            f"its header, of {stored!r} and type {head[156:157]!r}, is not one that reed writes"
        )
        raise _refuse(path, name, position, problem)

    # The length of a ragged part is in its .npy header, which is then compared as a whole.
    if part.dtype == "utf8":
        return _Member(name, _BLOCK, size, size)
    length = 1
    if part.is_ragged:
        match = _SHAPE.search(head, _BLOCK)
        length = int(match[1]) if match else 0
    shape = part.shape_at(length)
    payload = length * offsets.row_bytes(part)
    if head[_BLOCK:] != npy_header(part.dtype, shape) or size != _NPY_HEADER + payload:
        problem = f"it is no .npy of {part.dtype} {part.shape} in {size} bytes"
        raise _refuse(path, name, position, problem)
    return _Member(name, _BLOCK + _NPY_HEADER, payload, length if part.shape else 1)


def _refuse(path: Path, name: str, position: int, problem: str) -> ReedError:
    """Return the error for a member."""
    return ReedError(f"{path}, member {name!r} at byte {position}: {problem}")
