"""The tar container: a plain WebDataset tar that can also be read by offset.

ustar, byte-reproducible; the members of a sample are adjacent and in the same order in every
sample; .npy headers are padded so that payloads start on 512-byte boundaries. With one size per
part the stride is then constant, and a reader needs no header of any record.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from reed.cache.codecs import Part
from reed.errors import ReedError

SUFFIX = ".tar"
_BLOCK = 512
_NPY_HEADER = 512
_GAP = 64 * 1024  # reading over a smaller gap is cheaper than a second system call
_IOV_MAX = 1024
_scratch = memoryview(bytearray(_GAP))

Record = tuple[str, Sequence[Any]]


def write(path: Path, parts: Sequence[Part], records: Iterable[Record]) -> dict[str, Any]:
    """Write records (key, one array or bytes per part) to `path`; returns the index of the shard.

    The index has "bytes", "sha256" and, per part, "offsets" of the payloads: a list, or
    {"first", "stride"} where it is constant; ragged parts also list their "lengths" (rows, or
    bytes of text). The file is synced, but not renamed: that is the caller's.
    """
    digest, position = hashlib.sha256(), 0
    places: dict[str, list[tuple[int, int]]] = {part.name: [] for part in parts}
    with open(path, "wb") as file:
        for key, values in records:
            member = member_key(key)
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
    index = {part.name: _compact(part, places[part.name]) for part in parts}
    return {"bytes": position + len(end), "sha256": digest.hexdigest(), "parts": index}


class Shard:
    """An open shard: `read` fills arrays with the payloads of chosen records."""

    def __init__(self, path: Path, index: dict[str, Any]) -> None:
        self._parts = index
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ReedError(f"cannot open shard {path}: {error.strerror}") from error

    def read(self, rows: Sequence[int], out: dict[str, Sequence[np.ndarray]]) -> None:
        """Fill `out[part][j]` with record `rows[j]`, in as few system calls as the layout allows.

        out: writable C-contiguous arrays of the stored size. Raises EOFError with the offset
        when the file ends early.
        """
        wanted = []
        for name, arrays in out.items():
            offsets = self._parts[name]["offsets"]
            for row, array in zip(rows, arrays, strict=True):
                wanted.append((_offset(offsets, row), memoryview(array.reshape(-1).view(np.uint8))))
        wanted.sort(key=lambda item: item[0])
        run: list[memoryview] = []
        start = end = 0
        for offset, view in wanted:
            gap = offset - end
            if run and (gap < 0 or gap > _GAP or len(run) > _IOV_MAX - 2):
                _fill(self._file, run, start)
                run = []
            if not run:
                start, gap = offset, 0
            if gap:
                run.append(_scratch[:gap])
            run.append(view)
            end = offset + len(view)
        if run:
            _fill(self._file, run, start)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _offset(offsets: dict[str, int] | list[int], row: int) -> int:
    if isinstance(offsets, list):
        return offsets[row]
    return offsets["first"] + row * offsets["stride"]


def member_key(key: str) -> str:
    """The name of a sample inside a shard: percent-encoded, without dots, at most 64 bytes.

    A longer key keeps its beginning and ends in a hash; the marker has the true key. With the
    field's name (24), "-scale" and ".npy" that fits into the 100 bytes of a ustar header.
    """
    name = quote(key, safe="").replace(".", "%2E").replace("~", "%7E")
    if len(name) > 64:
        name = f"{name[:47]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return name


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """A version 1.0 .npy header of exactly 512 bytes (numpy.lib.format)."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {tuple(shape)!r}, }}"
    body = text.encode().ljust(_NPY_HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def _member(member: str, part: Part, value: Any) -> tuple[bytes, bytes | memoryview, int]:
    if part.dtype == "utf8":
        return _tar_header(f"{member}.{part.name}.txt", len(value)), value, len(value)
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    assert array.dtype.str == part.dtype, f"{part.name}: {array.dtype.str} is not {part.dtype}"
    header = npy_header(part.dtype, array.shape)
    name = f"{member}.{part.name}.npy"
    head = _tar_header(name, len(header) + array.nbytes) + header
    return head, array.tobytes(), array.shape[0] if array.ndim else 1


def _tar_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(format=tarfile.USTAR_FORMAT, encoding="ascii", errors="strict")


def _compact(part: Part, places: list[tuple[int, int]]) -> dict[str, Any]:
    offsets = [offset for offset, _ in places]
    strides = set(np.diff(offsets).tolist())
    entry: dict[str, Any] = {"offsets": offsets}
    if offsets and len(strides) <= 1:
        entry["offsets"] = {"first": offsets[0], "stride": strides.pop() if strides else 0}
    if part.is_ragged:
        entry["lengths"] = [length for _, length in places]
    return entry


def _fill(file: int, buffers: list[memoryview], offset: int) -> None:
    want = sum(len(buffer) for buffer in buffers)
    got = os.preadv(file, buffers, offset)
    while got < want:  # a short read is legal; only nothing at all is the end
        left, skip = [], got
        for buffer in buffers:
            if skip < len(buffer):
                left.append(buffer[skip:])
            skip = max(0, skip - len(buffer))
        more = os.preadv(file, left, offset + got)
        if more == 0:
            raise EOFError(f"the file ends at byte {offset + got}, {want - got} bytes too early")
        got += more
