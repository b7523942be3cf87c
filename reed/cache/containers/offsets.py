"""Reading payloads by their offsets: what the shards of every container have in common.

All containers store the plain bytes of the arrays, and the index in the marker says where. So
one reader serves them all; it needs no container's library, holds no lock and survives a fork.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reed.cache.codecs.codecs import Part
from reed.errors import ReedError

_GAP = 64 * 1024  # reading over a smaller gap is cheaper than a second system call
_IOV_MAX = 1024
_MOST = 2**53  # more than any file has, and what float64 still counts exactly
Out = Mapping[str, Sequence[np.ndarray | memoryview]]
Call = tuple[int, list[memoryview], int, int]  # descriptor, buffers, offset, bytes
_START = operator.itemgetter(0)
_scratch = memoryview(bytearray(_GAP))


class Shard:
    """An open shard: `read` fills arrays with the payloads of chosen records."""

    def __init__(self, path: Path, index: dict[str, Any]) -> None:
        self._parts = index
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ReedError(f"cannot open shard {path}: {error.strerror}") from error

    def read(self, rows: Sequence[int], out: Out) -> None:
        """Fill `out[part][j]` with record `rows[j]`, in as few system calls as the layout allows.

        out: writable C-contiguous arrays of the stored size, or their memory. Raises EOFError
        with the offset when the file ends early.
        """
        for call in self.calls(rows, out):
            perform(*call)

    def calls(self, rows: Sequence[int], out: Out) -> list[Call]:
        """What `read` will ask of the system, for `perform`; nothing is read yet."""
        wanted: list[tuple[int, memoryview]] = []
        for name, arrays in out.items():
            starts = _starts(self._parts[name]["offsets"], rows)
            wanted += zip(starts, map(bytes_of, arrays), strict=True)
        wanted.sort(key=_START)
        return _runs(self._file, wanted)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _starts(offsets: dict[str, int] | list[int], rows: Sequence[int]) -> list[int]:
    if isinstance(offsets, list):
        return [offsets[row] for row in rows]
    first, stride = offsets["first"], offsets["stride"]
    return [first + row * stride for row in rows]


def bytes_of(array: np.ndarray | memoryview) -> memoryview:
    """The memory of a writable C-contiguous array, as bytes; a view of bytes is itself."""
    if isinstance(array, memoryview):
        return array
    # a view without entries cannot be cast
    return array.data.cast("B") if array.size else _scratch[:0]


def _runs(file: int, wanted: list[tuple[int, memoryview]]) -> list[Call]:
    """Payloads in order of their offsets, those that are close together in one call."""
    runs: list[Call] = []
    views: list[memoryview] = []
    start = end = 0
    for offset, view in wanted:
        gap = offset - end
        if views and (gap < 0 or gap > _GAP or len(views) > _IOV_MAX - 2):
            runs.append((file, views, start, end - start))
            views = []
        if not views:
            start = offset
        elif gap:
            views.append(_scratch[:gap])
        views.append(view)
        end = offset + len(view)
    if views:
        runs.append((file, views, start, end - start))
    return runs


def perform(file: int, views: list[memoryview], offset: int, want: int) -> None:
    """Read `want` bytes at `offset` into some buffers; EOFError when the file ends early."""
    got = os.preadv(file, views, offset)
    if got != want:
        _fill(file, views, offset, want, got)


def _fill(file: int, buffers: list[memoryview], offset: int, want: int, got: int) -> None:
    """The rest of a read that came short, which is legal; only nothing at all is the end."""
    while got < want:
        left, skip = [], got
        for buffer in buffers:
            if skip < len(buffer):
                left.append(buffer[skip:])
            skip = max(0, skip - len(buffer))
        more = os.preadv(file, left, offset + got)
        if more == 0:
            size = os.fstat(file).st_size
            raise EOFError(f"the file ends at byte {size}, this record at byte {offset + want}")
        got += more


def entry(part: Part, places: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The index of one part from the offset and the length (rows, or bytes of text) of each record.

    Offsets become {"first", "stride"} where that says it; only ragged parts keep lengths.
    """
    offsets = [offset for offset, _ in places]
    strides = set(np.diff(offsets).tolist())
    found: dict[str, Any] = {"offsets": offsets}
    if offsets and len(strides) <= 1:
        found["offsets"] = {"first": offsets[0], "stride": strides.pop() if strides else 0}
    if part.is_ragged:
        found["lengths"] = [length for _, length in places]
    return found


def row_bytes(part: Part) -> int:
    """The bytes of one record of a part, or of one row where the rows vary."""
    if part.dtype == "utf8":
        return 1
    return np.dtype(part.dtype).itemsize * math.prod(n for n in part.shape if n is not None)


def check(index: Mapping[str, Any], parts: Sequence[Part], count: int, size: int) -> None:
    """ReedError unless every payload of `count` records lies inside a file of `size` bytes.

    Whatever the index holds: it is what allocations and reads rely on.
    """
    if not 0 <= size < _MOST:
        raise ReedError(f"a shard of {size} bytes cannot be")
    if set(index) != {part.name for part in parts}:
        raise ReedError(f"the index has the parts {sorted(index)}")
    for part in parts:
        problem = _misfit(part, index[part.name], count, size)
        if problem:
            raise ReedError(f"the index of part {part.name!r} {problem}")


def _misfit(part: Part, found: Any, count: int, size: int) -> str:
    names = {"offsets", "lengths"} if part.is_ragged else {"offsets"}
    if not isinstance(found, dict) or set(found) != names:
        return f"is not a table of {sorted(names)}"
    offsets, each = found["offsets"], min(row_bytes(part), _MOST)
    if isinstance(offsets, dict):
        if set(offsets) != {"first", "stride"} or not count:
            return f"has the offsets {sorted(offsets)} for {count} records"
        if not _integers(list(offsets.values()), size):
            return f"has offsets that are no integers from 0 to {size}"
        starts = offsets["first"] + offsets["stride"] * np.arange(count, dtype=np.float64)
    else:
        if not isinstance(offsets, list) or len(offsets) != count:
            return f"does not have one offset for each of {count} records"
        if not _integers(offsets, size):
            return f"has offsets that are no integers from 0 to {size}"
        starts = np.array(offsets, dtype=np.float64)
    lengths = found.get("lengths", [1] * count)
    if not isinstance(lengths, list) or len(lengths) != count or not _integers(lengths, size):
        return f"does not have one length from 0 to {size} for each of {count} records"
    if count and (ends := starts + np.array(lengths, dtype=np.float64) * each).max() > size:
        return f"ends at byte {ends.max():.0f}, the file at {size}"
    return ""


def _integers(values: list[Any], most: int) -> bool:
    """Whether all are integers from 0 to `most`; true and 1.0 are none."""
    if not set(map(type, values)) <= {int}:
        return False
    return not values or (min(values) >= 0 and max(values) <= most)
