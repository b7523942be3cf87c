"""The tar container: a plain WebDataset tar that can also be read by offset.

ustar, byte-reproducible; the members of a sample are adjacent and in the same order in every
sample; .npy headers are padded so that payloads start on 512-byte boundaries. With one size per
part the stride is then constant, and a reader needs no header of any record.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from reed.cache.codecs.codecs import Part
from reed.cache.containers import offsets
from reed.cache.containers.offsets import Shard as Shard
from reed.errors import ReedError

_BLOCK = 512
_NPY_HEADER = 512
_MEMBER_KEY = re.compile(r"[A-Za-z0-9_%-]{1,64}(~[1-9])?")
_SHAPE = re.compile(rb"'shape': \((\d{1,18}),")

Record = tuple[str, Sequence[Any]]


def write(path: Path, parts: Sequence[Part], records: Iterable[Record]) -> dict[str, Any]:
    """Write records (member name, one array or bytes per part); returns the index of the shard.

    The index has "bytes", "sha256" and, per part, "offsets" of the payloads: a list, or
    {"first", "stride"} where it is constant; ragged parts also list their "lengths" (rows, or
    bytes of text). The file is synced, but not renamed: that is the caller's.
    """
    digest, position = hashlib.sha256(), 0
    places: dict[str, list[tuple[int, int]]] = {part.name: [] for part in parts}
    with open(path, "wb") as file:
        for member, values in records:
            for part, value in zip(parts, values, strict=True):
                head, payload, length = _member(member, part, value)
                places[part.name].append((position + len(head), length))
                padding = bytes(-(len(payload)) % _BLOCK)
                for piece in (head, payload, padding):
                    file.write(piece)
                    digest.update(piece)
                    position += len(piece)
        end = bytes(2 * _BLOCK)
        file.write(end)
        digest.update(end)
        file.flush()
        os.fsync(file.fileno())
    index = {part.name: offsets.entry(part, places[part.name]) for part in parts}
    return {"bytes": position + len(end), "sha256": digest.hexdigest(), "parts": index}


def member_key(key: str, view: int = 0) -> str:
    """The name of a sample inside a shard: percent-encoded, without dots, at most 64 bytes.

    A longer key keeps its beginning and ends in a hash; the marker has the true key. Views but
    the first end in "~1" and so on, which no encoded key can hold. With the field's name (24),
    "-scale" and ".npy" that fits into the 100 bytes of a ustar header.
    """
    suffix = f"~{view}" if view else ""
    name = quote(key, safe="").replace(".", "%2E").replace("~", "%7E")
    room = 64 - len(suffix)
    if len(name) > room:
        name = f"{name[: room - 17]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return name + suffix


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """A version 1.0 .npy header of exactly 512 bytes (numpy.lib.format)."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {tuple(shape)!r}, }}"
    body = text.encode().ljust(_NPY_HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def _member(member: str, part: Part, value: Any) -> tuple[bytes, bytes | memoryview, int]:
    name = _member_name(member, part)
    if part.dtype == "utf8":
        return _tar_header(name, len(value)), value, len(value)
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    assert array.dtype.str == part.dtype, f"{part.name}: {array.dtype.str} is not {part.dtype}"
    header = npy_header(part.dtype, array.shape)
    head = _tar_header(name, len(header) + array.nbytes) + header
    return head, array.tobytes(), array.shape[0] if array.ndim else 1


def _member_name(key: str, part: Part) -> str:
    return f"{key}.{part.name}.{'txt' if part.dtype == 'utf8' else 'npy'}"


def _tar_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(format=tarfile.USTAR_FORMAT, encoding="ascii", errors="strict")


def scan(path: Path, parts: Sequence[Part]) -> tuple[list[str], dict[str, Any]]:
    """The member names and the index of a shard, from its headers alone.

    Accepts what `write` writes and nothing else; ReedError names the file, the member and the
    byte. No payload is read, nothing is extracted, and no name is used as a path.
    """
    members: list[str] = []
    places: dict[str, list[tuple[int, int]]] = {part.name: [] for part in parts}
    try:
        with open(path, "rb", buffering=0) as file:
            size, position = os.fstat(file.fileno()).st_size, 0
            while (head := os.pread(file.fileno(), 2 * _BLOCK, position)) != bytes(2 * _BLOCK):
                members.append(_member_of(path, head, parts[0], position))
                for part in parts:
                    place = _parse(path, head, members[-1], part, position)
                    places[part.name].append((position + place.head, place.length))
                    position += place.head + place.size
                    padding = -position % _BLOCK
                    if position + padding > size:
                        raise _refuse(path, place.name, position, f"the file ends at {size}")
                    tail = os.pread(file.fileno(), padding + 2 * _BLOCK, position)
                    if any(tail[:padding]):
                        raise _refuse(path, place.name, position, "the padding is not zero")
                    position, head = position + padding, tail[padding:]
    except OSError as error:
        raise ReedError(f"cannot read {path}: {error.strerror}") from error
    if position + 2 * _BLOCK != size:
        raise _refuse(path, "the end", position, f"the file has {size} bytes")
    if len(set(members)) != len(members):
        twice = next(name for i, name in enumerate(members) if name in members[:i])
        raise _refuse(path, twice, 0, "the sample is there twice")
    return members, {part.name: offsets.entry(part, places[part.name]) for part in parts}


@dataclass(frozen=True)
class _Place:
    """A member: its name, the bytes of its headers and of its payload, and its length in rows."""

    name: str
    head: int
    size: int
    length: int


def _member_of(path: Path, head: bytes, part: Part, position: int) -> str:
    """The member key in a header that begins a sample."""
    name = head[:100].rstrip(b"\0").decode("ascii", "replace")
    key = name.partition(".")[0]
    if _MEMBER_KEY.fullmatch(key) is None or name != _member_name(key, part):
        what = "it is neither the first part of a sample nor the end of the archive"
        raise _refuse(path, name, position, what)
    return key


def _parse(path: Path, head: bytes, key: str, part: Part, position: int) -> _Place:
    """What the headers of a part say; refused unless they are those that `write` would write."""
    name = _member_name(key, part)
    digits = head[124:135]
    if len(head) < 2 * _BLOCK or re.fullmatch(rb"[0-7]{11}", digits) is None:
        raise _refuse(path, name, position, "the size in its header is not eleven octal digits")
    size = int(digits, 8)
    if head[:_BLOCK] != _tar_header(name, size):
        found = head[:100].rstrip(b"\0").decode("ascii", "replace")
        what = f"its header, of {found!r} and type {head[156:157]!r}, is not one that reed writes"
        raise _refuse(path, name, position, what)
    if part.dtype == "utf8":
        return _Place(name, _BLOCK, size, size)
    length = 1
    if part.is_ragged:
        found = _SHAPE.search(head, _BLOCK)
        length = int(found[1]) if found else 0
    shape = part.shape_at(length)
    payload = length * offsets.row_bytes(part)
    if head[_BLOCK:] != npy_header(part.dtype, shape) or size != _NPY_HEADER + payload:
        what = f"it is no .npy of {part.dtype} {part.shape} in {size} bytes"
        raise _refuse(path, name, position, what)
    return _Place(name, _BLOCK + _NPY_HEADER, payload, length if part.shape else 1)


def _refuse(path: Path, name: str, position: int, what: str) -> ReedError:
    return ReedError(f"{path}, member {name!r} at byte {position}: {what}")
