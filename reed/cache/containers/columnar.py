"""What the containers with one array per part share (h5, zarr): records in, arrays out.

A part of one shape is an array ``[records, *shape]``. A part that varies is one flat array of all
rows, or bytes of text, and NAME~offsets, [records + 1] int64: record i is rows offsets[i] to
offsets[i + 1]. The member names are such a text, ~members. No field's name can hold "~".
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from reed.bytes import file_sha256
from reed.cache.codecs.codecs import Part
from reed.cache.containers import offsets
from reed.errors import ReedError

MEMBERS = Part("~members", "utf8", ())
_MEMBER = re.compile(rb"[A-Za-z0-9_%-]{1,64}(~[1-9])?")
_PIECE = 4 * 2**20


@dataclass(frozen=True)
class Array:
    """One array of a shard: its bytes are in `file`; by_record: whether row i is record i."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    by_record: bool
    file: BinaryIO

    def pieces(self) -> Iterator[bytes]:
        """The bytes, a few MiB at a time."""
        self.file.seek(0)
        return iter(lambda: self.file.read(_PIECE), b"")


@contextmanager
def spooled(
    path: Path, parts: Sequence[Part], records: Iterable[tuple[str, Sequence[Any]]]
) -> Generator[list[Array]]:
    """The arrays of a shard, collected in nameless files beside `path`: members first."""
    with ExitStack() as stack:
        parts = [MEMBERS, *parts]
        files = [stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for _ in parts]
        lengths: list[list[int]] = [[] for _ in parts]
        for member, values in records:
            for part, file, seen, value in zip(
                parts, files, lengths, [member.encode(), *values], strict=True
            ):
                seen.append(_append(file, part, value))
        yield [
            array
            for part, file, seen in zip(parts, files, lengths, strict=True)
            for array in _arrays(part, file, seen)
        ]


def _append(file: BinaryIO, part: Part, value: Any) -> int:
    if part.dtype == "utf8":
        file.write(value)
        return len(value)
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    assert array.dtype.str == part.dtype, f"{part.name}: {array.dtype.str} is not {part.dtype}"
    file.write(array.tobytes())
    return array.shape[0] if array.ndim else 1


def _arrays(part: Part, file: BinaryIO, lengths: Sequence[int]) -> list[Array]:
    bounds = np.cumsum([0, *lengths], dtype="<i8")
    shapes = shapes_of(part, len(lengths), int(bounds[-1]))
    dtype = "|u1" if part.dtype == "utf8" else part.dtype
    found = [Array(part.name, dtype, shapes[0], not part.is_ragged, file)]
    if part.is_ragged:
        places = io.BytesIO(bounds.tobytes())
        found.append(Array(f"{part.name}~offsets", "<i8", shapes[1], False, places))
    return found


def shapes_of(part: Part, count: int, rows: int) -> list[tuple[int, ...]]:
    """The shape of a part's array, and of its offsets where it varies."""
    if not part.is_ragged:
        return [(count, *part.shape_at(0))]
    return [(rows, *part.shape_at(0)[1:]), (count + 1,)]


def scan(
    path: Path, parts: Sequence[Part], starts: Mapping[str, Sequence[int]], rows: Mapping[str, int]
) -> tuple[list[str], dict[str, Any]]:
    """Member names and index of a shard, from where its arrays lie.

    starts: the offset of every array, or those of all its records; rows: the length of every
    array. That all of it is inside the file was checked.
    """
    with open(path, "rb", buffering=0) as file:
        bounds = {p.name: _bounds(path, file, p, starts, rows) for p in (MEMBERS, *parts)}
        text = os.pread(file.fileno(), rows[MEMBERS.name], starts[MEMBERS.name][0])
    names = bounds[MEMBERS.name]
    members = [text[a:b] for a, b in zip(names[:-1], names[1:], strict=True)]
    for name in members:
        if _MEMBER.fullmatch(name) is None:
            raise ReedError(f"{path}: {name!r} is no name of a sample")
    if len(set(members)) != len(members):
        raise ReedError(f"{path}: a sample is there twice")
    index = {}
    for part in parts:
        found, first = bounds[part.name], starts[part.name]
        if len(found) != len(names):
            raise ReedError(f"{path}: {part.name} has {len(found) - 1} records, not {len(members)}")
        each = offsets.row_bytes(part)
        if part.is_ragged:
            lengths = np.diff(found).tolist()
            places = [(first[0] + a * each, n) for a, n in zip(found, lengths, strict=False)]
        else:
            if len(first) != len(members):  # one run of bytes
                first = [first[0] + row * each for row in range(len(members))]
            places = [(start, 1) for start in first]
        index[part.name] = offsets.entry(part, places)
    return [name.decode() for name in members], index


def _bounds(path: Path, file: BinaryIO, part: Part, starts, rows) -> list[int]:
    """The rows at which the records of a part begin, and the last one ends."""
    if not part.is_ragged:
        return list(range(rows[part.name] + 1))
    name = f"{part.name}~offsets"
    raw = os.pread(file.fileno(), 8 * rows[name], starts[name][0])
    found = np.frombuffer(raw, "<i8")
    ordered = len(found) and found[0] == 0 and (found[1:] >= found[:-1]).all()
    if not ordered or found[-1] != rows[part.name]:
        raise ReedError(f"{path}: {name} does not rise from 0 to {rows[part.name]}")
    return found.tolist()


def finished(path: Path, index: dict[str, Any]) -> dict[str, Any]:
    """What `write` returns, of a file that is written and synced."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path), "parts": index}
