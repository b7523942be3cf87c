"""Records of one column by shard and place, whatever the container."""

from __future__ import annotations

import contextlib
import math
import threading
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reed.bytes import file_sha256
from reed.cache import schema
from reed.cache.codecs import codecs
from reed.cache.codecs.codecs import Part, State
from reed.cache.containers import h5, offsets, zarr
from reed.cache.containers import tar as shards
from reed.cache.schema import Column, Field, Marker
from reed.errors import ReedError

CONTAINERS = {"tar": shards, "h5": h5, "zarr": zarr}  # the suffix of the files -> the module


Group = tuple[Sequence[int], offsets.Out]
Read = Callable[[Sequence[int], dict[str, Sequence[np.ndarray]]], None]


class OpenShards:
    """Some open shards of one column, for any number of threads; the least recently used go first.

    views: records per sample; limit: how many stay open while nobody reads them.
    """

    def __init__(
        self,
        cache: Path,
        column: Column,
        markers: Mapping[int, Marker],
        *,
        views: int = 1,
        limit: int = 64,
    ) -> None:
        self._cache, self._column, self._markers = cache, column, markers
        self._views, self._limit = views, limit
        self._lock = threading.Lock()
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._users: Counter[int] = Counter()

    def read(self, shard: int, rows: Sequence[int], out: offsets.Out) -> None:
        """Fill `out[part][j]` with record `rows[j]` of a shard; ReedError names what broke."""
        try:
            with self._borrowed([shard]) as opened:
                opened[shard].read(rows, out)
        except (EOFError, OSError) as error:
            path = schema.shard_path(self._cache, self._column, shard)
            key = self._markers[shard].keys[rows[0] // self._views]
            where = f"{path}, key {key!r}"
            raise ReedError(f"{where}: {error}; run reed-cache verify {self._cache}") from error

    def read_many(self, groups: Mapping[int, Group]) -> list[int]:
        """Fill what `groups` says of each shard; returns the shards that `read` would refuse.

        All of the Python work comes first, then the system calls back to back, so that threads
        seldom wait for one another.
        """
        failed = []
        with self._borrowed(groups, missing=failed) as opened:
            calls = [
                (shard, call)
                for shard, each in opened.items()
                for call in each.calls(*groups[shard])
            ]
            for shard, call in calls:
                try:
                    offsets.perform(*call)
                except (EOFError, OSError):
                    failed.append(shard)
        return failed

    @contextlib.contextmanager
    def _borrowed(
        self, shards: Iterable[int], missing: list[int] | None = None
    ) -> Generator[dict[int, Any]]:
        """Open shards that stay open inside the `with`; those that cannot be go to `missing`."""
        opened: dict[int, Any] = {}
        with self._lock:
            for shard in shards:
                try:
                    opened[shard] = self._get(shard)
                except ReedError:
                    if missing is None:
                        raise
                    missing.append(shard)
            self._users.update(opened.keys())
        try:
            yield opened
        finally:
            with self._lock:
                self._users.subtract(opened.keys())
                if len(self._open) > self._limit:
                    idle = [shard for shard in self._open if not self._users[shard]]
                    for shard in idle[: len(self._open) - self._limit]:
                        self._open.pop(shard).close()

    def _get(self, shard: int) -> Any:
        if shard not in self._open:
            path = schema.shard_path(self._cache, self._column, shard)
            container = CONTAINERS[self._column.container]
            self._open[shard] = container.Shard(path, self._markers[shard].parts)
        self._open.move_to_end(shard)
        return self._open[shard]

    def close(self) -> None:
        """Close every open shard; nobody may be reading."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()


def parts_of(fields: Iterable[Field]) -> list[Part]:
    """Every part of some fields of a column, in the order in which a record stores them."""
    return [part for field in fields for part in codecs.codec_of(field).parts(field)]


def sound_marker(cache: Path, column: Column, shard: int, views: int) -> Marker:
    """The marker of a shard, without statistics; ReedError where its file cannot be as it says."""
    marker = schema.load_marker(cache, column, shard, stats=False)
    path = schema.shard_path(cache, column, shard)
    size = path.stat().st_size if path.is_file() else None
    if size != marker.bytes:
        have = "is missing" if size is None else f"has {size} bytes"
        raise ReedError(f"{path} {have}, its marker says {marker.bytes}; run reed-cache verify")
    check_index(marker, parts_of(column.fields), views)
    return marker


def check_index(marker: Marker, parts: Sequence[Part], views: int = 1) -> None:
    """ReedError unless all that a marker's index points to lies inside its file of `bytes`.

    parts: all of the column. Whatever the marker holds, reads and allocations that follow are
    then no larger than the file; that this has that size is the caller's to check.
    """
    try:
        offsets.check(marker.parts, parts, len(marker.keys) * views, marker.bytes)
    except ReedError as error:
        where = f"the marker of column {marker.column!r} shard {marker.shard}"
        raise ReedError(f"{where}: {error}; run reed-cache verify") from error


def empty(part: Part, marker: Marker, row: int) -> np.ndarray:
    """An array of the stored size of one part of record `row`."""
    if not part.is_ragged:
        return np.empty(part.shape_at(0) or (1,), part.dtype)
    length = marker.parts[part.name]["lengths"][row]
    if part.dtype == "utf8":
        return np.empty((length,), np.uint8)
    return np.empty(part.shape_at(length), part.dtype)


def records(
    cache: Path,
    column: Column,
    shard: int,
    fields: Sequence[Field],
    state: dict[str, State],
    *,
    view: int = 0,
    keys: Collection[str] | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """One view of the samples of a shard, decoded: key and {field: array or string}, in order.

    keys: only these of them; those that the shard lacks are skipped.
    """
    marker = schema.load_marker(cache, column, shard, stats=False)
    views = schema.load_manifest(cache).views
    check_index(marker, parts_of(column.fields), views)
    wanted = set(marker.keys if keys is None else keys)
    parts = parts_of(fields)
    opened = OpenShards(cache, column, {shard: marker}, views=views)
    with contextlib.closing(opened):
        for place, key in enumerate(marker.keys):
            if key in wanted:
                row = place * views + view
                arrays = stored(partial(opened.read, shard), marker, parts, row)
                yield key, decode(fields, arrays, state)


def stored(read: Read, marker: Marker, parts: Sequence[Part], row: int) -> dict[str, np.ndarray]:
    """Some parts of one record as they are stored, text as its bytes; read: of an open shard."""
    arrays = {part.name: empty(part, marker, row) for part in parts}
    read([row], {name: [array] for name, array in arrays.items()})
    return {
        p.name: arrays[p.name] if p.shape or p.is_ragged else arrays[p.name].reshape(())
        for p in parts
    }


def decode(
    fields: Sequence[Field], arrays: Mapping[str, np.ndarray], state: Mapping[str, State]
) -> dict[str, Any]:
    """One record from its stored parts: {field: array or string}."""
    values: dict[str, Any] = {}
    for field in fields:
        codec = codecs.codec_of(field)
        parts = [arrays[part.name] for part in codec.parts(field)]
        try:
            if field.kind == "text":
                values[field.name] = parts[0].tobytes().decode()
            else:
                values[field.name] = codecs.decode_one(codec, parts, state[field.name])
        except (LookupError, RuntimeError, TypeError, ValueError) as error:  # it is damaged
            raise ReedError(f"field {field.name!r} cannot be decoded: {error}") from error
    return values


def load_state(cache: Path, column: Column) -> dict[str, State]:
    """The calibration of every field, from calibration.npz; ReedError when its hash differs."""
    state: dict[str, State] = {field.name: {} for field in column.fields}
    needed = any(codecs.codec_of(field).needs_calibration for field in column.fields)
    if needed != bool(column.calibration):
        what = f"has the calibration {column.calibration[:12]!r}, its codecs "
        what += "need one" if needed else "need none"
        raise ReedError(f"{cache / column.name / 'column.json'} {what}")
    if not needed:
        return state
    path = cache / column.name / "calibration.npz"
    digest = file_sha256(path)
    if digest != column.calibration:
        raise ReedError(f"{path} has sha256 {digest[:12]}, column.json {column.calibration[:12]}")
    try:
        with zipfile.ZipFile(path) as arrays:
            for info in arrays.infolist():
                field, slash, key = info.filename.removesuffix(".npy").partition("/")
                if slash:  # else it says which column it was made for
                    state[field][key] = _load_array(arrays, info)
    except Exception as error:  # zipfile and numpy raise a dozen kinds for what is no .npz
        raise ReedError(f"cannot read {path}: {error}") from error
    return state


def _load_array(arrays: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One stored .npy; its size is checked before memory is taken."""
    with arrays.open(info) as file:
        if info.compress_type != zipfile.ZIP_STORED or np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{info.filename} is not stored as numpy.savez does")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        if math.prod(shape) * dtype.itemsize != info.file_size - file.tell():
            raise ValueError(f"{info.filename} is not {dtype} {shape} in {info.file_size} bytes")
        if by_column or dtype.hasobject:
            raise ValueError(f"{info.filename} is not plain numbers, row by row")
        return np.frombuffer(bytearray(file.read()), dtype).reshape(shape)
