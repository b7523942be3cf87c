"""Reading payloads by their byte offsets: the part of reading that all containers share.

All containers store the plain bytes of the arrays, and the index in the marker states their
offsets. One reader therefore serves them all; it needs no container's library, holds no lock and
works after a fork.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from reed.bytes import check_readable
from reed.cache.codecs.codecs import Part
from reed.errors import ReedError
from reed.store.transfer import Ranges

_GAP = 64 * 1024  # reading across a smaller gap is cheaper than a second system call
_IOV_MAX = 1024
_START = operator.itemgetter(1)
_MOST = 2**53  # larger than any file, and the largest integer that float64 counts exactly
Out = Mapping[str, Sequence[np.ndarray | memoryview]]
Files = Mapping[int, int | Ranges]  # by shard, its descriptor or object in a store
Call = tuple[int, list[memoryview], int, int]  # shard, buffers, offset, bytes
_scratch = memoryview(bytearray(_GAP))


class Shard:
    """An open shard: ``read`` fills arrays with the payloads of chosen records.

    Args:
        path: The shard file, or ranges of an object in a store.
        index: The marker's ``parts``.

    Attributes:
        file: Its descriptor, or ranges of an object in a store.
    """

    def __init__(self, path: Path | Ranges, index: dict[str, Any]) -> None:
        self._parts = index
        self.file: int | Ranges
        if isinstance(path, Ranges):
            self.file = path
            return
        try:
            self.file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            check_readable(path)
            raise ReedError(f"cannot open shard {path}: {error.strerror}") from error

    def read(self, records: Sequence[int], out: Out) -> None:
        """Read records in as few system calls as the layout allows.

        Args:
            records: Positions of the records in the shard.
            out: Part -> writable C-contiguous arrays of the stored size, or their memory;
                ``out[part][j]`` is filled with record ``records[j]``.

        Raises:
            EOFError: The file ends early; the message has the offset.
        """
        wanted: list[tuple[int, int, memoryview]] = []
        for name, arrays in out.items():
            starts = starts_of(self._parts[name]["offsets"], records)
            wanted += zip(repeat(0), starts, map(bytes_of, arrays))
        wanted.sort(key=_START)
        for _, views, offset, want in runs(wanted):
            perform(self.file, views, offset, want)

    def close(self) -> None:
        """Close the file."""
        if isinstance(self.file, int):
            os.close(self.file)
        else:
            self.file.close()

    @property
    def is_gone(self) -> bool:
        """Whether the file was removed since it was opened."""
        is_file = isinstance(self.file, int)
        return os.fstat(self.file).st_nlink == 0 if is_file else self.file.is_gone

    def starts(self, records: Sequence[int]) -> tuple[int | Ranges, list[int]]:
        """Return the open file, and where the payloads of some records begin."""
        parts = self._parts.values()
        return self.file, [at for p in parts for at in starts_of(p["offsets"], records)]


def starts_of(offsets: dict[str, int] | list[int], records: Sequence[int]) -> list[int]:
    """Return the offsets of some records of a part."""
    if isinstance(offsets, list):
        return [offsets[record] for record in records]
    first, stride = offsets["first"], offsets["stride"]
    return [first + record * stride for record in records]


def bytes_of(array: np.ndarray | memoryview) -> memoryview:
    """Return the memory of a writable C-contiguous array as bytes."""
    if isinstance(array, memoryview):
        return array
    # A view without entries cannot be cast.
    return array.data.cast("B") if array.size else _scratch[:0]


def runs(wanted: Iterable[tuple[int, int, memoryview]]) -> list[Call]:
    """Return the calls that read payloads; those close to each other are one, across the gaps.

    Args:
        wanted: Shard, offset and memory of every payload, in order of shard and offset.
    """
    calls: list[Call] = []
    views: list[memoryview] = []
    shard = start = end = 0

    for number, offset, view in wanted:
        gap = offset - end
        if views and (number != shard or gap < 0 or gap > _GAP or len(views) > _IOV_MAX - 2):
            calls.append((shard, views, start, end - start))
            views = []
        if not views:
            shard, start = number, offset
        elif gap:
            views.append(_scratch[:gap])
        views.append(view)
        end = offset + len(view)

    # The last run has no successor that would close it.
    if views:
        calls.append((shard, views, start, end - start))
    return calls


def perform(file: int | Ranges, views: list[memoryview], offset: int, want: int) -> None:
    """Read ``want`` bytes at an offset into buffers; EOFError when the file ends early."""
    if not isinstance(file, int):
        file.fill(views, offset, want)
        return
    got = os.preadv(file, views, offset)
    if got != want:
        _fill(file, views, offset, want, got)


def perform_all(files: Files, calls: Sequence[Call]) -> list[int]:
    """Perform calls on the files of shards; return the shards whose file ends early.

    Those that read objects in a store wait for them at the same time.
    """

    def attempt(shard: int, *call: Any) -> int | None:
        try:
            perform(files[shard], *call)
        except (EOFError, OSError):
            return shard
        return None

    here: list[Call] = []
    waiting: list[Future[int | None]] = []
    for call in calls:
        file = files[call[0]]
        if isinstance(file, int):
            here.append(call)
        else:
            waiting.append(file.pool.submit(attempt, *call))
    ended = [attempt(*call) for call in here]
    wait(waiting)  # all of them, so that no buffer is filled after an error
    ended += [future.result() for future in waiting]
    return [shard for shard in ended if shard is not None]


def _fill(file: int, buffers: list[memoryview], offset: int, want: int, got: int) -> None:
    """Read the rest of a short read; only a read of 0 bytes is the end of the file."""
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


def entry(part: Part, payloads: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return the index of one part.

    Offsets become {"first", "stride"} where they are equally spaced; only ragged parts keep
    lengths.

    Args:
        part: The part.
        payloads: Offset and length (rows, or bytes of text) of each record.
    """
    offsets = [offset for offset, _ in payloads]
    strides = set(np.diff(offsets).tolist())
    index: dict[str, Any] = {"offsets": offsets}
    if offsets and len(strides) <= 1:
        index["offsets"] = {"first": offsets[0], "stride": strides.pop() if strides else 0}
    if part.is_ragged:
        index["lengths"] = [length for _, length in payloads]
    return index


def row_bytes(part: Part) -> int:
    """Return the bytes of one record of a part, or of one row where the length varies."""
    if part.dtype == "utf8":
        return 1
    return np.dtype(part.dtype).itemsize * math.prod(n for n in part.shape if n is not None)


def check(index: Mapping[str, Any], parts: Sequence[Part], count: int, size: int) -> None:
    """Raise ReedError unless every payload of a shard is inside its file.

    The index may hold anything; later allocations and reads rely on this check.

    Args:
        index: The marker's ``parts``.
        parts: The parts of the column.
        count: Number of records.
        size: Bytes of the shard file.
    """
    if not 0 <= size < _MOST:
        raise ReedError(f"a shard of {size} bytes cannot be")
    if set(index) != {part.name for part in parts}:
        raise ReedError(f"the index has the parts {sorted(index)}")
    for part in parts:
        problem = _misfit(part, index[part.name], count, size)
        if problem:
            raise ReedError(f"the index of part {part.name!r} {problem}")


def _misfit(part: Part, index: Any, count: int, size: int) -> str:
    """Return what is wrong with the index of one part, else an empty string."""
    names = {"offsets", "lengths"} if part.is_ragged else {"offsets"}
    if not isinstance(index, dict) or set(index) != names:
        return f"is not a table of {sorted(names)}"
    offsets, row = index["offsets"], min(row_bytes(part), _MOST)

    # Offsets are summed as float64, which cannot overflow as int64 can.
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

    lengths = index.get("lengths", [1] * count)
    if not isinstance(lengths, list) or len(lengths) != count or not _integers(lengths, size):
        return f"does not have one length from 0 to {size} for each of {count} records"
    if count and (ends := starts + np.array(lengths, dtype=np.float64) * row).max() > size:
        return f"ends at byte {ends.max():.0f}, the file at {size}"
    return ""


def _integers(values: list[Any], most: int) -> bool:
    """Whether all values are integers from 0 to ``most``; True and 1.0 are not integers."""
    if not set(map(type, values)) <= {int}:
        return False
    return not values or (min(values) >= 0 and max(values) <= most)
