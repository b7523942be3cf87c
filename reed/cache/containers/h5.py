"""The HDF5 container: one dataset per part, see reed.cache.containers.columnar.

A dataset of a part of one shape has one record per chunk; others are contiguous. Nothing is
compressed, so the marker's offsets are those of the payloads, and reading needs no HDF5: it
does not matter who has forked, and nothing locks. h5py is needed to write and to scan.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reed.cache.codecs.codecs import Part
from reed.cache.containers import columnar
from reed.cache.containers.columnar import Array
from reed.cache.containers.offsets import Shard as Shard
from reed.errors import ReedError

_VERSION = ("v110", "v110")  # fixed, so that equal content is equal bytes


def write(
    path: Path, parts: Sequence[Part], records: Iterable[tuple[str, Sequence[Any]]]
) -> dict[str, Any]:
    """Write records (member name, one array or bytes per part); returns the index of the shard.

    As reed.cache.containers.tar.write.
    """
    import h5py

    with columnar.spooled(path, parts, records) as arrays:
        with h5py.File(path, "w", libver=_VERSION, locking=False) as file:
            for array in arrays:
                _create(file, array)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    _, index = scan(path, parts)
    return columnar.finished(path, index)


def scan(path: Path, parts: Sequence[Part]) -> tuple[list[str], dict[str, Any]]:
    """The member names and the index of a shard, from its datasets.

    Accepts what `write` writes: datasets of the stated dtypes and shapes, stored plainly inside
    the file. ReedError for anything else, such as links out of it, filters or objects.
    """
    import h5py

    try:
        size = path.stat().st_size
        with h5py.File(path, "r", locking=False) as file:
            places = {name: _place(file, name, size) for name in _expected(file, parts)}
            _compare(file, parts)
        starts = {name: each for name, (each, _) in places.items()}
        return columnar.scan(path, parts, starts, {name: n for name, (_, n) in places.items()})
    except ReedError as error:
        raise error if str(path) in str(error) else ReedError(f"{path}: {error}") from error
    except Exception as error:  # h5py raises a dozen kinds for a file that is damaged
        reason = str(error).partition("\n")[0]
        raise ReedError(f"{path} cannot be read as HDF5: {reason}") from error


def _create(file: Any, array: Array) -> None:
    chunks = (1, *array.shape[1:]) if _is_chunked(array.shape, array.by_record) else None
    made = file.create_dataset(
        array.name, array.shape, array.dtype, chunks=chunks, track_times=False, fill_time="never"
    )
    each = np.dtype(array.dtype).itemsize * math.prod(array.shape[1:])
    if chunks:
        array.file.seek(0)
        for row in range(array.shape[0]):
            made.id.write_direct_chunk((row, *[0] * len(array.shape[1:])), array.file.read(each))
    elif array.shape[0] and each:
        row, left = 0, b""
        for piece in array.pieces():
            left += piece
            whole = len(left) // each
            values = np.frombuffer(left[: whole * each], array.dtype)
            made[row : row + whole] = values.reshape(whole, *array.shape[1:])
            row, left = row + whole, left[whole * each :]


def _is_chunked(shape: Sequence[int], by_record: bool) -> bool:
    return by_record and len(shape) > 1 and math.prod(shape) > 0


def _expected(file: Any, parts: Sequence[Part]) -> list[str]:
    """The names of the datasets, which are all that the file may hold."""
    names = []
    for part in (columnar.MEMBERS, *parts):
        names += [part.name, f"{part.name}~offsets"] if part.is_ragged else [part.name]
    if sorted(file) != sorted(names) or len(file.attrs):
        raise ReedError(f"it holds {sorted(file)[:9]}, not the datasets {sorted(names)}")
    return names


def _place(file: Any, name: str, size: int) -> tuple[list[int], int]:
    """Where a dataset lies, all of it or by chunk, and its length; refused unless plain."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ReedError(f"{name} is a link, not a dataset")
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "iuf" or not found.ndim:
        raise ReedError(f"{name} is no dataset of numbers")
    made = found.id.get_create_plist()
    if made.get_nfilters() or found.is_virtual or made.get_external_count() or len(found.attrs):
        raise ReedError(f"{name} is compressed, or stored in another file")
    each = found.dtype.itemsize * math.prod(found.shape[1:])
    if found.shape[0] * each > size:
        raise ReedError(f"{name} is larger than the {size} bytes of the file")
    starts, stored = (_whole if found.chunks is None else _chunks)(found, name, each)
    if any(start + stored > size for start in starts):
        raise ReedError(f"{name} does not lie inside the {size} bytes of the file")
    return starts, found.shape[0]


def _whole(found: Any, name: str, each: int) -> tuple[list[int], int]:
    """The offset of a contiguous dataset, and its bytes."""
    offset, stored = found.id.get_offset(), found.shape[0] * each
    if found.id.get_storage_size() != stored or (stored and offset is None):
        raise ReedError(f"{name} is not stored in full")
    return [offset or 0], stored


def _chunks(found: Any, name: str, each: int) -> tuple[list[int], int]:
    """The offset of every record of a chunked dataset, and the bytes of one."""
    chunks: list[Any] = []
    found.id.chunk_iter(chunks.append)
    chunks.sort(key=lambda chunk: chunk.chunk_offset)
    plain = all(chunk.size == each and not chunk.filter_mask for chunk in chunks)
    rows = [chunk.chunk_offset[0] for chunk in chunks]
    if found.chunks != (1, *found.shape[1:]) or not plain or rows != list(range(found.shape[0])):
        raise ReedError(f"{name} is not in chunks of one record each")
    return [chunk.byte_offset for chunk in chunks], each


def _compare(file: Any, parts: Sequence[Part]) -> None:
    """Refuse datasets of another dtype or shape than the parts."""
    for part in (columnar.MEMBERS, *parts):
        dtype = "|u1" if part.dtype == "utf8" else part.dtype
        rows = file[part.name].shape[0]
        wanted = columnar.shapes_of(part, rows, rows)
        found = file[part.name]
        if found.dtype.str != dtype or found.shape != wanted[0]:
            have = f"{found.dtype.str} {found.shape}"
            raise ReedError(f"{part.name} is {have}, not {dtype} {part.shape}")
        if (found.chunks is not None) != _is_chunked(found.shape, not part.is_ragged):
            raise ReedError(f"{part.name} has chunks of {found.chunks}")
        if part.is_ragged:
            bounds = file[f"{part.name}~offsets"]
            if bounds.dtype.str != "<i8" or bounds.ndim != 1 or bounds.chunks is not None:
                raise ReedError(f"{part.name}~offsets is no list of int64")
