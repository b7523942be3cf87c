"""What the containers with one array per part (h5, zarr) share: writing arrays, making the index.

A part of one shape is an array ``[records, *shape]``. A part whose length varies is one flat array
of all rows, or all bytes of text, together with NAME~offsets, [records + 1] int64: record i is
rows offsets[i] to offsets[i + 1]. The member names are such a text, ~members. No field name can
hold "~".
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
from reed.cache.containers.block import Block, Record, arrays_of, blocks, lengths_of
from reed.errors import ReedError

MEMBERS = Part("~members", "utf8", ())
_MEMBER = re.compile(rb"[A-Za-z0-9_%-]{1,64}(~[1-9])?")
_PIECE = 4 * 2**20


@dataclass(frozen=True)
class Array:
    """One array of a shard.

    Attributes:
        name: Name of the array.
        dtype: The numpy dtype.
        shape: Shape of the array.
        by_record: Whether entry i of the first axis is record i.
        file: File with the bytes of the array.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    by_record: bool
    file: BinaryIO

    def pieces(self) -> Iterator[bytes]:
        """Return the bytes, a few MiB at a time."""
        self.file.seek(0)
        return iter(lambda: self.file.read(_PIECE), b"")


@contextmanager
def spooled(
    path: Path, parts: Sequence[Part], records: Iterable[Record | Block]
) -> Generator[list[Array]]:
    """Yield the arrays of a shard, collected in temporary files beside ``path``; names first."""
    with ExitStack() as stack:
        parts = [MEMBERS, *parts]
        files = [stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for _ in parts]
        lengths: list[list[int]] = [[] for _ in parts]
        for block in blocks(records):
            columns = [[name.encode() for name in block.names], *block.values]
            for part, file, counts, values in zip(parts, files, lengths, columns, strict=True):
                counts += lengths_of(part, values)
                _append(file, part, values)

        # Only now are the lengths known that the shapes of the arrays follow from.
        yield [
            array
            for part, file, counts in zip(parts, files, lengths, strict=True)
            for array in _arrays(part, file, counts)
        ]


def _append(file: BinaryIO, part: Part, values: Sequence[Any] | np.ndarray) -> None:
    """Append the values of a block to a part's file."""
    if part.dtype == "utf8":
        file.write(b"".join(values))
        return
    for piece in [values] if isinstance(values, np.ndarray) else values:
        array = arrays_of(part, piece)
        file.write(array.data.cast("B") if array.size else b"")


def _arrays(part: Part, file: BinaryIO, lengths: Sequence[int]) -> list[Array]:
    """Return the array of a part, and its offsets where its length varies."""
    bounds = np.cumsum([0, *lengths], dtype="<i8")
    shapes = shapes_of(part, len(lengths), int(bounds[-1]))
    dtype = "|u1" if part.dtype == "utf8" else part.dtype
    arrays = [Array(part.name, dtype, shapes[0], not part.is_ragged, file)]
    if part.is_ragged:
        content = io.BytesIO(bounds.tobytes())
        arrays.append(Array(f"{part.name}~offsets", "<i8", shapes[1], False, content))
    return arrays


def shapes_of(part: Part, count: int, rows: int) -> list[tuple[int, ...]]:
    """Return the shape of a part's array, and that of its offsets where its length varies.

    Args:
        part: The part.
        count: Number of records.
        rows: Rows of all records together, or bytes of all texts.
    """
    if not part.is_ragged:
        return [(count, *part.shape_at(0))]
    return [(rows, *part.shape_at(0)[1:]), (count + 1,)]


def scan(
    path: Path, parts: Sequence[Part], starts: Mapping[str, Sequence[int]], rows: Mapping[str, int]
) -> tuple[list[str], dict[str, Any]]:
    """Return the member names and the index of a shard.

    The caller has checked that all arrays are inside the file.

    Args:
        path: The shard file.
        parts: The parts of the column.
        starts: By array name, the byte offset of the array, or the offsets of all its records.
        rows: By array name, the length of the array.

    Raises:
        ReedError: The member names or the offsets are invalid.
    """
    with open(path, "rb", buffering=0) as file:
        bounds = {p.name: _bounds(path, file, p, starts, rows) for p in (MEMBERS, *parts)}
        text = os.pread(file.fileno(), rows[MEMBERS.name], starts[MEMBERS.name][0])

    # Names are checked, as they come from a file and decide which record is whose.
    names = bounds[MEMBERS.name]
    members = [text[a:b] for a, b in zip(names[:-1], names[1:], strict=True)]
    for name in members:
        if _MEMBER.fullmatch(name) is None:
            raise ReedError(f"{path}: {name!r} is not a valid member name of a sample")
    if len(set(members)) != len(members):
        raise ReedError(f"{path}: a sample is there twice")

    index = {}
    for part in parts:
        ends, first = bounds[part.name], starts[part.name]
        if len(ends) != len(names):
            raise ReedError(f"{path}: {part.name} has {len(ends) - 1} records, not {len(members)}")
        size = offsets.row_bytes(part)
        if part.is_ragged:
            lengths = np.diff(ends).tolist()
            payloads = [(first[0] + a * size, n) for a, n in zip(ends, lengths, strict=False)]
        else:
            if len(first) != len(members):  # the array is contiguous
                first = [first[0] + record * size for record in range(len(members))]
            payloads = [(start, 1) for start in first]
        index[part.name] = offsets.entry(part, payloads)
    return [name.decode() for name in members], index


def _bounds(path: Path, file: BinaryIO, part: Part, starts, rows) -> list[int]:
    """Return the first row of every record of a part, then the end of the last record."""
    if not part.is_ragged:
        return list(range(rows[part.name] + 1))
    name = f"{part.name}~offsets"
    raw = os.pread(file.fileno(), 8 * rows[name], starts[name][0])
    bounds = np.frombuffer(raw, "<i8")
    is_sorted = len(bounds) and bounds[0] == 0 and (bounds[1:] >= bounds[:-1]).all()
    if not is_sorted or bounds[-1] != rows[part.name]:
        raise ReedError(f"{path}: {name} does not rise from 0 to {rows[part.name]}")
    return bounds.tolist()


def finished(path: Path, index: dict[str, Any]) -> dict[str, Any]:
    """Return the result of ``write`` for a file that is written and synced."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path), "parts": index}
