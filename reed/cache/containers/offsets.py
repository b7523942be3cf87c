"""Reading payloads by their byte offsets: the part of reading that all containers share.

All containers store the plain bytes of the arrays, and the index in the marker states their
offsets. One reader therefore serves them all; it needs no container's library, holds no lock and
works after a fork.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import numpy as np

from reed.bytes import check_readable
from reed.cache.codecs.codecs import Part
from reed.errors import ReedError
from reed.store.transfer import Ranges

_GAP = 64 * 1024  # reading across a smaller gap is cheaper than a second system call
_IOV_MAX = 1024
_MOST = 2**53  # larger than any file, and the largest integer that float64 counts exactly
Out = Mapping[str, Sequence[np.ndarray | memoryview]]
# Descriptor or object in a store, buffers, offset, bytes.
Call = tuple[int | Ranges, list[memoryview], int, int]
_START = operator.itemgetter(0)
_scratch = memoryview(bytearray(_GAP))


class Shard:
    """An open shard: ``read`` fills arrays with the payloads of chosen records.

    Args:
        path: The shard file, or ranges of an object in a store.
        index: The marker's ``parts``.
    """

    def __init__(self, path: Path | Ranges, index: dict[str, Any]) -> None:
        self._parts = index
        self._file: int | Ranges
        if isinstance(path, Ranges):
            self._file = path
            return
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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
        for call in self.calls(records, out):
            perform(*call)

    def calls(self, records: Sequence[int], out: Out) -> list[Call]:
        """Return the arguments of `perform` with which `read` reads; nothing is read yet."""
        wanted: list[tuple[int, memoryview]] = []
        for name, arrays in out.items():
            starts = _starts(self._parts[name]["offsets"], records)
            wanted += zip(starts, map(bytes_of, arrays), strict=True)
        wanted.sort(key=_START)
        return _runs(self._file, wanted)

    def close(self) -> None:
        """Close the file."""
        if isinstance(self._file, int):
            os.close(self._file)
        else:
            self._file.close()

    @property
    def is_gone(self) -> bool:
        """Whether the file was removed since it was opened."""
        is_file = isinstance(self._file, int)
        return os.fstat(self._file).st_nlink == 0 if is_file else self._file.is_gone

    def starts(self, records: Sequence[int]) -> tuple[int | Ranges, list[int]]:
        """Return the open file, and where the payloads of some records begin."""
        parts = self._parts.values()
        return self._file, [at for p in parts for at in _starts(p["offsets"], records)]


def _starts(offsets: dict[str, int] | list[int], records: Sequence[int]) -> list[int]:
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


def _runs(file: int | Ranges, wanted: list[tuple[int, memoryview]]) -> list[Call]:
    """Return the calls that read payloads, given in order of their offsets.

    Payloads that are close to each other are read by one call, across the gaps.
    """
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

    # The last run has no successor that would close it.
    if views:
        runs.append((file, views, start, end - start))
    return runs


def perform(file: int | Ranges, views: list[memoryview], offset: int, want: int) -> None:
    """Read ``want`` bytes at an offset into buffers; EOFError when the file ends early."""
    if not isinstance(file, int):
        file.fill(views, offset, want)
        return
    got = os.preadv(file, views, offset)
    if got != want:
        _fill(file, views, offset, want, got)


def perform_all(calls: Sequence[tuple[int, Call]]) -> list[int]:
    """Perform calls, each with the number of its shard; return the shards whose file ends early.

    Those that read objects in a store wait for them at the same time.
    """

    def attempt(numbered: tuple[int, Call]) -> int | None:
        try:
            perform(*numbered[1])
        except (EOFError, OSError):
            return numbered[0]
        return None

    remote = [each for each in calls if not isinstance(each[1][0], int)]
    waiting: list[Future[int | None]] = []
    for each in remote:
        assert isinstance(each[1][0], Ranges)
        waiting.append(each[1][0].pool.submit(attempt, each))
    ended = [attempt(each) for each in calls if isinstance(each[1][0], int)]
    wait(waiting)  # all of them, so that no buffer is filled after an error
    ended += [future.result() for future in waiting]
    return [number for number in ended if number is not None]


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
