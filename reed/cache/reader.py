"""Reading records of a column by shard and position, for all containers."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reed.cache import place, schema
from reed.cache.calibration import load_state as load_state
from reed.cache.codecs import codecs
from reed.cache.codecs.codecs import Part, State
from reed.cache.containers import h5, offsets, zarr
from reed.cache.containers import tar as shards
from reed.cache.payloads import Payloads
from reed.cache.schema import Column, Field, Marker
from reed.errors import ReedError
from reed.store import mirror
from reed.store.partial import Partial

CONTAINERS = {"tar": shards, "h5": h5, "zarr": zarr}  # the suffix of the files -> the module

Read = Callable[[Sequence[int], dict[str, Sequence[np.ndarray]]], None]


class OpenShards:
    """Open shards of one column, for any number of threads.

    The least recently used ones are closed first.

    Args:
        cache: Folder of the cache.
        column: The column.
        markers: Marker by shard.
        views: Records per sample.
        limit: Number of shards that stay open while no thread reads them.
        is_whole: Whether most of each shard will be read, which is then fetched from a store.
    """

    def __init__(
        self,
        cache: Path,
        column: Column,
        markers: Mapping[int, Marker],
        *,
        views: int = 1,
        limit: int = 64,
        is_whole: bool = False,
    ) -> None:
        self._cache, self._column, self._markers = cache, column, markers
        self._views, self._limit, self._is_whole = views, limit, is_whole
        self._in_store = mirror.of(cache) is not None
        self._lock = threading.Lock()
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._users: Counter[int] = Counter()
        self._payloads = Payloads(markers)

    def read(self, shard: int, records: Sequence[int], out: offsets.Out) -> None:
        """Read records of one shard.

        Args:
            shard: Number of the shard.
            records: Positions of the records in the shard.
            out: Part -> arrays; ``out[part][j]`` is filled with record ``records[j]``.

        Raises:
            ReedError: The shard cannot be read; the message names the file and the key.
        """
        try:
            with self._borrowed([shard]) as opened:
                opened[shard].read(records, out)
        except (EOFError, OSError) as error:
            path = schema.shard_path(self._cache, self._column, shard)
            key = self._markers[shard].keys[records[0] // self._views]
            where = f"{path}, key {key!r}"
            raise ReedError(f"{where}: {error}; run reed-cache verify {self._cache}") from error

    def read_many(self, shards: np.ndarray, records: np.ndarray, out: offsets.Out) -> list[int]:
        """Read records of several shards; return the shards for which `read` would raise an error.

        All Python work is done first, then the system calls follow one another, so that threads
        seldom wait for one another. It is done for all shards at once: of a large cache, a batch
        has few records of each.

        Args:
            shards: The shard of every record.
            records: Their positions in these shards.
            out: Part -> arrays; ``out[part][j]`` is filled with record ``records[j]``.
        """
        failed: list[int] = []
        with self._borrowed(np.unique(shards).tolist(), missing=failed) as opened:
            wanted = self._payloads.of(shards, records, out, failed)
            files = {number: shard.file for number, shard in opened.items()}
            failed += offsets.perform_all(files, offsets.runs(wanted))
        return failed

    def touch(self, groups: Mapping[int, Sequence[int]]) -> None:
        """Fetch what is lacking of some records, by shard, where copies are kept.

        Errors are left to those who read the records.
        """
        with contextlib.suppress(ReedError), self._borrowed(groups) as opened:
            waiting = []
            for number, shard in opened.items():
                file, starts = shard.starts(groups[number])
                if isinstance(file, Partial):
                    waiting += [file.pool.submit(file.need, page) for page in file.lacking(starts)]
            wait(waiting)  # before the shards may be closed

    @contextlib.contextmanager
    def _borrowed(
        self, shards: Iterable[int], missing: list[int] | None = None
    ) -> Generator[dict[int, Any]]:
        """Yield open shards that stay open inside the ``with`` block.

        Args:
            shards: Numbers of the shards.
            missing: List to which shards that cannot be opened are added; without it they raise
                ReedError.
        """
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

        # Other threads may push a shard out of the limit meanwhile; shards in use stay open.
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
        """Return an open shard, opening it if needed; the caller holds the lock."""
        if self._in_store and shard in self._open and not self._users[shard]:
            if self._open[shard].is_gone:  # to make room; its bytes are freed when it is closed
                self._open.pop(shard).close()
        if shard not in self._open:
            marker = self._markers[shard]
            path = schema.shard_path(self._cache, self._column, shard)
            there = place.to_read(path, marker, is_whole=self._is_whole, views=self._views)
            self._open[shard] = CONTAINERS[self._column.container].Shard(there, marker.parts)
        self._open.move_to_end(shard)
        return self._open[shard]

    def close(self) -> None:
        """Close every open shard; no thread may be reading."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()


def parts_of(fields: Iterable[Field]) -> list[Part]:
    """Return the parts of some fields, in the order in which a record stores them."""
    return [part for field in fields for part in codecs.codec_of(field).parts(field)]


def sound_marker(cache: Path, column: Column, shard: int, views: int) -> Marker:
    """Return the marker of a shard, without statistics.

    Raises:
        ReedError: The marker is damaged, or the shard file is missing or of another size.
    """
    marker = schema.load_marker(cache, column, shard, stats=False)
    path = schema.shard_path(cache, column, shard)
    size = place.size_of(path, marker.bytes)
    if size != marker.bytes:
        have = "is missing" if size is None else f"has {size} bytes"
        raise ReedError(f"{path} {have}, its marker says {marker.bytes}; run reed-cache verify")
    check_index(marker, parts_of(column.fields), views)
    return marker


def check_index(marker: Marker, parts: Sequence[Part], views: int = 1) -> None:
    """Raise ReedError unless a marker's index points to nothing outside a file of its ``bytes``.

    Whatever the marker holds, later reads and allocations are then not larger than the file. The
    caller checks that the file has this size.

    Args:
        marker: The marker.
        parts: All parts of the column.
        views: Records per sample.
    """
    try:
        offsets.check(marker.parts, parts, len(marker.keys) * views, marker.bytes)
    except ReedError as error:
        where = f"the marker of column {marker.column!r} shard {marker.shard}"
        raise ReedError(f"{where}: {error}; run reed-cache verify") from error


def empty(part: Part, marker: Marker, record: int) -> np.ndarray:
    """Return an uninitialised array of the stored size of one part of a record."""
    if not part.is_ragged:
        return np.empty(part.shape_at(0) or (1,), part.dtype)
    length = marker.parts[part.name]["lengths"][record]
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
    """Yield one view of the samples of a shard, in order.

    Args:
        cache: Folder of the cache.
        column: The column.
        shard: Number of the shard.
        fields: The fields to read.
        state: Calibration by field, see `load_state`.
        view: The view to read.
        keys: Read only these samples; keys that are not in the shard are ignored.

    Yields:
        The key of a sample, and its decoded values: {field: array or string}.
    """
    marker = schema.load_marker(cache, column, shard, stats=False)
    views = schema.load_manifest(cache).views
    check_index(marker, parts_of(column.fields), views)
    wanted = set(marker.keys if keys is None else keys)
    parts = parts_of(fields)
    opened = OpenShards(cache, column, {shard: marker}, views=views, is_whole=keys is None)
    with contextlib.closing(opened):
        for position, key in enumerate(marker.keys):
            if key in wanted:
                record = position * views + view
                arrays = stored(partial(opened.read, shard), marker, parts, record)
                yield key, decode(fields, arrays, state)


def stored(read: Read, marker: Marker, parts: Sequence[Part], record: int) -> dict[str, np.ndarray]:
    """Return parts of one record as they are stored; text as its bytes.

    Args:
        read: The read function of an open shard.
        marker: Marker of the shard.
        parts: The parts to read.
        record: Position of the record in the shard.
    """
    arrays = {part.name: empty(part, marker, record) for part in parts}
    read([record], {name: [array] for name, array in arrays.items()})
    return {
        p.name: arrays[p.name] if p.shape or p.is_ragged else arrays[p.name].reshape(())
        for p in parts
    }


def decode(
    fields: Sequence[Field], arrays: Mapping[str, np.ndarray], state: Mapping[str, State]
) -> dict[str, Any]:
    """Return the values of one record from its stored parts: {field: array or string}.

    Raises:
        ReedError: A part is damaged.
    """
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
