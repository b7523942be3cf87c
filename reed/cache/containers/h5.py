"""The HDF5 container: one dataset per part, see `reed.cache.containers.columnar`.

A dataset of a part of one shape has one record per chunk; other datasets are contiguous. Nothing
is compressed, so the marker's offsets are those of the payloads and reading needs no HDF5: it
works after a fork and without locks. Writing and scanning need h5py.
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
from reed.cache.containers.block import Block, Record
from reed.cache.containers.columnar import Array
from reed.cache.containers.offsets import Shard as Shard
from reed.errors import ReedError

# The format is fixed, so that equal content is equal bytes. HDF5 1.14 and 2.0 describe contiguous
# datasets alike in the format of 1.8 and not in that of 1.10, which has a compact index of chunks.
_CONTIGUOUS, _CHUNKED = ("v108", "v110"), ("v110", "v110")


def write(path: Path, parts: Sequence[Part], records: Iterable[Record | Block]) -> dict[str, Any]:
    """Write the records of a shard; return its index, as `reed.cache.containers.tar.write` does.

    Args:
        path: The shard file.
        parts: The parts of the column.
        records: Blocks of records, or single ones, as tar takes them.
    """
    import h5py

    with columnar.spooled(path, parts, records) as arrays:
        _create_file(path)
        for version in (_CONTIGUOUS, _CHUNKED):
            with h5py.File(path, "r+", libver=version, locking=False) as file:
                for array in arrays:
                    if _is_chunked(array.shape, array.by_record) == (version == _CHUNKED):
                        _create(file, array)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    _, index = scan(path, parts)
    return columnar.finished(path, index)


def scan(path: Path, parts: Sequence[Part]) -> tuple[list[str], dict[str, Any]]:
    """Return the member names and the index of a shard, from its datasets.

    Only files as `write` makes them are accepted: datasets of the expected dtypes and shapes,
    stored uncompressed inside the file.

    Raises:
        ReedError: The file is damaged, or holds anything else, such as links to other files.
    """
    import h5py

    try:
        size = path.stat().st_size
        with h5py.File(path, "r", locking=False) as file:
            extents = {name: _extent(file, name, size) for name in _expected(file, parts)}
            _compare(file, parts)
        starts = {name: offsets for name, (offsets, _) in extents.items()}
        return columnar.scan(path, parts, starts, {name: n for name, (_, n) in extents.items()})
    except ReedError as error:
        raise error if str(path) in str(error) else ReedError(f"{path}: {error}") from error
    except Exception as error:  # h5py raises a dozen types for damaged files
        reason = str(error).partition("\n")[0]
        raise ReedError(f"{path} cannot be read as HDF5: {reason}") from error


def _create_file(path: Path) -> None:
    """Create an empty file in the older format, which both formats of datasets may be added to."""
    from h5py import h5f, h5p

    # Below h5py 3.15, the group of a file that h5py.File creates has time stamps.
    creation, access = h5p.create(h5p.FILE_CREATE), h5p.create(h5p.FILE_ACCESS)
    creation.set_obj_track_times(False)
    access.set_libver_bounds(h5f.LIBVER_V18, h5f.LIBVER_V110)
    access.set_file_locking(False, True)
    h5f.create(os.fsencode(path), h5f.ACC_TRUNC, creation, access).close()


def _create(file: Any, array: Array) -> None:
    """Write one array as a dataset."""
    chunks = (1, *array.shape[1:]) if _is_chunked(array.shape, array.by_record) else None
    dataset = file.create_dataset(
        array.name, array.shape, array.dtype, chunks=chunks, track_times=False, fill_time="never"
    )
    size = np.dtype(array.dtype).itemsize * math.prod(array.shape[1:])

    # Written piece by piece, because an array may be larger than memory.
    if chunks:
        array.file.seek(0)
        for row in range(array.shape[0]):
            dataset.id.write_direct_chunk((row, *[0] * len(array.shape[1:])), array.file.read(size))
    elif array.shape[0] and size:
        row, left = 0, b""
        for piece in array.pieces():
            left += piece
            rows = len(left) // size
            values = np.frombuffer(left[: rows * size], array.dtype)
            dataset[row : row + rows] = values.reshape(rows, *array.shape[1:])
            row, left = row + rows, left[rows * size :]


def _is_chunked(shape: Sequence[int], by_record: bool) -> bool:
    """Whether an array is stored in chunks of one record."""
    return by_record and len(shape) > 1 and math.prod(shape) > 0


def _expected(file: Any, parts: Sequence[Part]) -> list[str]:
    """Return the names of the datasets; raise ReedError if the file holds anything else."""
    names = []
    for part in (columnar.MEMBERS, *parts):
        names += [part.name, f"{part.name}~offsets"] if part.is_ragged else [part.name]
    if sorted(file) != sorted(names) or len(file.attrs):
        raise ReedError(f"it holds {sorted(file)[:9]}, not the datasets {sorted(names)}")
    return names


def _extent(file: Any, name: str, size: int) -> tuple[list[int], int]:
    """Return the offsets of a dataset (one, or one per record) and its length.

    Raises:
        ReedError: It is not a plain, uncompressed dataset inside the file.
    """
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ReedError(f"{name} is a link, not a dataset")
    data = file[name]
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "iuf" or not data.ndim:
        raise ReedError(f"{name} is no dataset of numbers")
    creation = data.id.get_create_plist()
    is_foreign = data.is_virtual or creation.get_external_count()
    if creation.get_nfilters() or is_foreign or len(data.attrs):
        raise ReedError(f"{name} is compressed, or stored in another file")

    # A damaged shape must not make the reader allocate more than the file holds.
    row = data.dtype.itemsize * math.prod(data.shape[1:])
    if data.shape[0] * row > size:
        raise ReedError(f"{name} is larger than the {size} bytes of the file")
    starts, stored = (_whole if data.chunks is None else _chunks)(data, name, row)
    if any(start + stored > size for start in starts):
        raise ReedError(f"{name} does not lie inside the {size} bytes of the file")
    return starts, data.shape[0]


def _whole(data: Any, name: str, row: int) -> tuple[list[int], int]:
    """Return the offset of a contiguous dataset, and its size.

    Args:
        data: The dataset.
        name: Its name, for the message.
        row: Bytes of one row.
    """
    offset, stored = data.id.get_offset(), data.shape[0] * row
    if data.id.get_storage_size() != stored or (stored and offset is None):
        raise ReedError(f"{name} is not stored in full")
    return [offset or 0], stored


def _chunks(data: Any, name: str, row: int) -> tuple[list[int], int]:
    """Return the offset of every record of a chunked dataset, and the size of a record.

    Args:
        data: The dataset.
        name: Its name, for the message.
        row: Bytes of one record.
    """
    chunks: list[Any] = []
    data.id.chunk_iter(chunks.append)
    chunks.sort(key=lambda chunk: chunk.chunk_offset)
    is_plain = all(chunk.size == row and not chunk.filter_mask for chunk in chunks)
    rows = [chunk.chunk_offset[0] for chunk in chunks]
    if data.chunks != (1, *data.shape[1:]) or not is_plain or rows != list(range(data.shape[0])):
        raise ReedError(f"{name} is not in chunks of one record each")
    return [chunk.byte_offset for chunk in chunks], row


def _compare(file: Any, parts: Sequence[Part]) -> None:
    """Raise ReedError for datasets of another dtype or shape than the parts."""
    for part in (columnar.MEMBERS, *parts):
        dtype = "|u1" if part.dtype == "utf8" else part.dtype

        # A reader takes dtypes and shapes from the column, not from the file.
        rows = file[part.name].shape[0]
        wanted = columnar.shapes_of(part, rows, rows)
        data = file[part.name]
        if data.dtype.str != dtype or data.shape != wanted[0]:
            have = f"{data.dtype.str} {data.shape}"
            raise ReedError(f"{part.name} is {have}, not {dtype} {part.shape}")
        if (data.chunks is not None) != _is_chunked(data.shape, not part.is_ragged):
            raise ReedError(f"{part.name} has chunks of {data.chunks}")
        if part.is_ragged:
            bounds = file[f"{part.name}~offsets"]
            if bounds.dtype.str != "<i8" or bounds.ndim != 1 or bounds.chunks is not None:
                raise ReedError(f"{part.name}~offsets is no list of int64")
