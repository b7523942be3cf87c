"""The zarr container: a zarr v3 group in one zip file, see `reed.cache.containers.columnar`.

One shard is one file and so is written at once; zarr.storage.ZipStore opens it. A part of one
shape is one zarr shard whose inner chunks are the records. Nothing is compressed, so the marker's
offsets are those of the payloads, and neither reading nor writing needs the library zarr, its
event loop or a lock.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reed.cache.codecs.codecs import Part
from reed.cache.containers import columnar
from reed.cache.containers.block import Block, Record
from reed.cache.containers.offsets import Shard as Shard
from reed.errors import ReedError

_GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}


def write(path: Path, parts: Sequence[Part], records: Iterable[Record | Block]) -> dict[str, Any]:
    """Write the records of a shard; return its index, as `reed.cache.containers.tar.write` does.

    Args:
        path: The shard file.
        parts: The parts of the column.
        records: Blocks of records, or single ones, as tar takes them.
    """
    starts: dict[str, list[int]] = {}
    rows: dict[str, int] = {}
    with columnar.spooled(path, parts, records) as arrays, open(path, "wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(_info("zarr.json"), _json(_GROUP))
            for array in arrays:
                described = _describe(array.dtype, array.shape, array.by_record)
                archive.writestr(_info(f"{array.name}/zarr.json"), described)
                starts[array.name], rows[array.name] = [0], array.shape[0]
                if size := _size(array.dtype, array.shape, array.by_record):
                    info = _info(_chunk_name(array.name, array.shape), size)
                    with archive.open(info, "w") as member:
                        starts[array.name] = [file.tell()]
                        for piece in array.pieces():
                            member.write(piece)
                        member.write(_inner_index(array.dtype, array.shape, array.by_record))
        # The zip directory is written when the archive closes, so only now is the file complete.
        file.flush()
        os.fsync(file.fileno())

    _, index = columnar.scan(path, parts, starts, rows)
    return columnar.finished(path, index)


def scan(path: Path, parts: Sequence[Part]) -> tuple[list[str], dict[str, Any]]:
    """Return the member names and the index of a shard, from its directory and its zarr.json files.

    Raises:
        ReedError: The file is not, member by member, as `write` makes it.
    """
    starts: dict[str, list[int]] = {}
    rows: dict[str, int] = {}

    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            members = _Members(path, file, archive)
            members.equal("zarr.json", _json(_GROUP))
            for part in (columnar.MEMBERS, *parts):
                for name, dtype, shape, by_record in _arrays(members, part):
                    members.equal(f"{name}/zarr.json", _describe(dtype, shape, by_record))
                    rows[name], starts[name] = shape[0], [0]
                    if size := _size(dtype, shape, by_record):
                        chunk = _chunk_name(name, shape)
                        starts[name] = [members.sized(chunk, size)]
                        members.ends(chunk, _inner_index(dtype, shape, by_record))
            members.finish()
        return columnar.scan(path, parts, starts, rows)
    except ReedError:
        raise
    except Exception as error:  # zipfile and json raise a dozen types for damaged files
        raise ReedError(f"{path} cannot be read as zarr in a zip: {error}") from error


class _Members:
    """The members of the zip in order; each must be the expected next one."""

    def __init__(self, path: Path, file: Any, archive: zipfile.ZipFile) -> None:
        self._path, self._file, self._archive = path, file, archive
        self._left, self._position = archive.infolist()[::-1], 0

    def peek(self, name: str) -> bytes:
        """Return the content of the next member, which must be small."""
        start, size = self._next(name)
        if size > 4096:
            raise self._refuse(name, f"has {size} bytes")
        return os.pread(self._file.fileno(), size, start)

    def equal(self, name: str, content: bytes) -> None:
        """Step over the next member, which must have this content."""
        if self.peek(name) != content:
            raise self._refuse(name, "is not what reed writes for this column")
        self._step(name)

    def sized(self, name: str, size: int) -> int:
        """Step over the next member, which must have this size; return its content's offset."""
        start, actual = self._next(name)
        if actual != size:
            raise self._refuse(name, f"has {actual} bytes, not {size}")
        self._step(name)
        return start

    def ends(self, name: str, content: bytes) -> None:
        """Check that the last member that was stepped over ends with this content."""
        offset = self._position - len(content)
        if os.pread(self._file.fileno(), len(content), offset) != content:
            raise self._refuse(name, "has another index of inner chunks")

    def finish(self) -> None:
        """Raise ReedError if anything but the directory follows the last member."""
        if self._left or self._archive.start_dir != self._position or self._archive.comment:
            raise self._refuse("the directory", f"does not follow at byte {self._position}")

    def _next(self, name: str) -> tuple[int, int]:
        """Return offset and size of the content of the next member; both are inside the file."""
        if not self._left or self._left[-1].orig_filename != name:
            actual = self._left[-1].orig_filename if self._left else "the end"
            raise self._refuse(name, f"is missing; there is {actual!r}")

        # The header is compared as a whole, so nothing in it needs to be trusted.
        info, size = self._left[-1], self._left[-1].file_size
        wanted = _info(name, size)
        wanted.CRC, wanted.compress_size = info.CRC, size
        header = wanted.FileHeader(_is_long(size))
        stored = os.pread(self._file.fileno(), len(header), self._position)
        is_plain = info.compress_type == zipfile.ZIP_STORED and info.compress_size == size
        if stored != header or not is_plain or info.header_offset != self._position:
            raise self._refuse(name, "is not stored as reed does")
        start = self._position + len(header)
        if start + size > self._archive.start_dir:
            raise self._refuse(name, f"has {size} bytes, more than the file")
        return start, size

    def _step(self, name: str) -> None:
        """Step over the next member."""
        start, size = self._next(name)
        self._left.pop()
        self._position = start + size

    def _refuse(self, name: str, problem: str) -> ReedError:
        return ReedError(f"{self._path}, member {name!r} at byte {self._position} {problem}")


def _arrays(members: _Members, part: Part):
    """Yield name, dtype and shape of a part's arrays, and whether entry i is record i."""
    names = [part.name, f"{part.name}~offsets"] if part.is_ragged else [part.name]
    for name in names:
        shape = json.loads(members.peek(f"{name}/zarr.json"))["shape"]
        rows = shape[0]
        if type(rows) is not int or rows < 0:
            raise ValueError(f"{name} has the shape {shape}")
        if name != part.name:
            yield name, "<i8", (rows,), False
        else:
            dtype = "|u1" if part.dtype == "utf8" else part.dtype
            yield name, dtype, columnar.shapes_of(part, rows, rows)[0], not part.is_ragged


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _info(name: str, size: int = 0) -> zipfile.ZipInfo:
    """Return a zip member with constant date and mode."""
    info = zipfile.ZipInfo(name)
    info.file_size, info.external_attr, info.create_system = size, 0o644 << 16, 3
    return info


def _is_long(size: int) -> bool:
    """Whether zipfile writes a header with 64-bit sizes."""
    return size * 1.05 > zipfile.ZIP64_LIMIT  # the rule of zipfile itself


def _is_sharded(shape: Sequence[int], by_record: bool) -> bool:
    """Whether an array is a zarr shard with one record per inner chunk."""
    return by_record and len(shape) > 1 and math.prod(shape) > 0


def _chunk_name(name: str, shape: Sequence[int]) -> str:
    """Return the member name of an array's one chunk."""
    return "/".join([name, "c", *["0"] * len(shape)])


def _bytes(dtype: str) -> dict[str, Any]:
    """Return zarr's codec of plain little-endian bytes."""
    is_byte = np.dtype(dtype).itemsize == 1
    return {"name": "bytes"} | ({} if is_byte else {"configuration": {"endian": "little"}})


def _size(dtype: str, shape: Sequence[int], by_record: bool) -> int:
    """Return the bytes of an array's one chunk; 0 if there is none."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return size + (16 * shape[0] if _is_sharded(shape, by_record) else 0)


def _inner_index(dtype: str, shape: Sequence[int], by_record: bool) -> bytes:
    """Return offset and size of every record, the end of the chunk (zarr's sharding_indexed)."""
    if not _is_sharded(shape, by_record):
        return b""
    size = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    offsets = np.arange(shape[0], dtype="<u8") * size
    return np.stack([offsets, np.full_like(offsets, size)], axis=1).tobytes()


def _describe(dtype: str, shape: Sequence[int], by_record: bool) -> bytes:
    """Return the zarr.json of an array."""
    codecs = [_bytes(dtype)]
    if _is_sharded(shape, by_record):
        inner = {
            "chunk_shape": [1, *shape[1:]],
            "codecs": codecs,
            "index_codecs": [_bytes("<u8")],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": inner}]

    # One chunk holds the whole array; zarr allows no chunk of length 0.
    chunks = [max(1, n) for n in shape]
    return _json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": np.dtype(dtype).name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": codecs,
            "attributes": {},
        }
    )
