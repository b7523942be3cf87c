"""Stage two: shards -> batches, read straight into a ring of preallocated (pinned) buffers."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from reed.cache import codecs, plan, reader, schema
from reed.cache.codecs import Part
from reed.cache.plan import Order
from reed.cache.schema import Column, Field, Marker
from reed.errors import ReedError


@dataclass(frozen=True)
class Stored:
    """One batch as stored: rows of this rank, in order.

    step: of the global batch; rows: positions in cache order; parts: per requested place its
    parts, each [rows, ...]. Views of a ring buffer, overwritten once the next batch is asked for.
    """

    step: int
    rows: np.ndarray
    parts: dict[str, list[torch.Tensor]]


class ShardStream:
    """Batches of some fields of a cache, in an order that is a pure function of (seed, step).

    places: name -> "column/field"; batch: samples of the global batch, of which this rank reads
    its contiguous `batch / world` rows; threads: readers beside the consumer (0 reads in place);
    ahead: batches in flight. Raises ReedError if a column is absent or incomplete, before
    anything is read. A sample that one of the columns left out is in no batch; `left_out`
    counts them.
    """

    def __init__(
        self, cache: Path, places: Mapping[str, str], batch: int, *, seed: int = 0,
        rank: int = 0, world: int = 1, threads: int = 2, ahead: int = 3, pin: bool = False,
    ) -> None:  # fmt: skip
        if batch % world:
            raise ReedError(
                f"the global batch ({batch}) is not a multiple of the {world} processes"
            )
        self._plan = plan.load(cache)
        self._columns = _group(cache, self._plan, places)
        self._threads, self._ahead = threads, max(ahead, threads + 1)
        self._rows = _common_rows(self._plan, self._columns.values())
        self.left_out = len(self._plan.keys) - len(self._rows)
        self._order = Order(len(self._rows), batch, seed)
        self._mine = slice(rank * batch // world, (rank + 1) * batch // world)
        self._size, self._pin = batch // world, pin
        self._ring: list[dict[str, dict[str, torch.Tensor]]] = []
        self._copied: dict[int, torch.cuda.Event] = {}  # place in the ring -> when it may be reused

    @property
    def samples(self) -> int:
        """Samples of one epoch."""
        return len(self._rows)

    def field(self, name: str) -> Field:
        """The field behind a requested name."""
        return next(c.fields[name] for c in self._columns.values() if name in c.fields)

    def keys_at(self, step: int) -> list[str]:
        """The sample keys of this rank's rows of a global batch."""
        return [self._plan.keys[row] for row in self._rows_at(step)]

    def batches(self, start: int = 0) -> Iterator[Stored]:
        """Endless batches from global step `start` on; one such iteration at a time."""
        if not self._ring:  # one more than are in flight: the consumer still holds one
            self._ring = [self._buffers() for _ in range(self._ahead + 1)]
        with contextlib.closing(_Readers()) as readers:
            if self._threads:
                yield from self._read_ahead(start, readers)
            for step in itertools.count(start):
                yield self._read(step, readers)

    def _read_ahead(self, start: int, readers: _Readers) -> Iterator[Stored]:
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="reed-stream")
        steps = itertools.count(start)
        pending: deque[Future[Stored]] = deque()
        try:
            while True:
                while len(pending) < self._ahead:
                    pending.append(pool.submit(self._read, next(steps), readers))
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def decode(self, stored: Stored, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
        """The batch on a device, decoded there: name -> [rows, ...], floats as float32.

        The result has memory of its own and stays valid.
        """
        values = {}
        for column in self._columns.values():
            for name, field in column.fields.items():
                parts = [p.to(device, non_blocking=True, copy=True) for p in stored.parts[name]]
                state = column.state_on(name, device)
                values[name] = codecs.codec_of(field).decode(parts, state)
        if torch.device(device).type == "cuda":  # the copies wait for the work queued before them
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            self._copied[stored.step % len(self._ring)] = event
        return values

    def _rows_at(self, step: int) -> np.ndarray:
        return self._rows[self._order.batch_at(step)[self._mine]]

    def _buffers(self) -> dict[str, dict[str, torch.Tensor]]:
        """Column -> part -> one buffer; a field that is asked for twice is read once."""

        def buffer(part: Part) -> torch.Tensor:
            array = torch.from_numpy(np.zeros((self._size, *part.shape), part.dtype))
            return array.pin_memory() if self._pin else array

        return {
            column.name: {
                part.name: buffer(part) for parts in column.parts.values() for part in parts
            }
            for column in self._columns.values()
        }

    def _read(self, step: int, readers: _Readers) -> Stored:
        rows = self._rows_at(step)
        place = step % len(self._ring)
        buffers = self._ring[place]
        if place in self._copied:
            self._copied.pop(place).synchronize()
        parts = {}
        for column in self._columns.values():
            mine = buffers[column.name]
            arrays = {name: tensor.numpy() for name, tensor in mine.items()}
            column.read(readers.of(column), rows, arrays)
            parts |= {name: [mine[p.name] for p in each] for name, each in column.parts.items()}
        return Stored(step, rows, parts)


class _Readers:
    """The open shards of one iteration, of every thread and column; closed together."""

    def __init__(self) -> None:
        self._local, self._all = threading.local(), []

    def of(self, column: _StreamColumn) -> reader.OpenShards:
        """This thread's open shards of a column."""
        mine = vars(self._local)
        if column.name not in mine:
            mine[column.name] = column.open()
            self._all.append(mine[column.name])
        return mine[column.name]

    def close(self) -> None:
        """Close what all threads have opened; none may be reading."""
        for opened in self._all:
            opened.close()


class _StreamColumn:
    """One column of a stream: where its records are, and how its fields decode."""

    def __init__(self, cache: Path, planned: plan.Plan, column: Column, fields: dict[str, Field]):
        self.name, self.fields = column.name, fields
        self.parts = {name: codecs.codec_of(field).parts(field) for name, field in fields.items()}
        self._cache, self._column = cache, column
        self._markers = _complete(cache, planned, column)
        self._state = reader.load_state(cache, column)
        self._on: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
        # shard and place of every row of the plan; place -1 where the sample was left out
        self.shard = np.repeat(
            np.arange(planned.shards), [len(planned.rows(i)) for i in range(planned.shards)]
        )
        self.place = np.concatenate([_places(planned, marker) for marker in self._markers])

    def open(self) -> reader.OpenShards:
        return reader.OpenShards(self._cache, self._column, self._markers)

    def read(self, opened: reader.OpenShards, rows: np.ndarray, arrays: dict[str, np.ndarray]):
        """Fill row j of every array with the record of rows[j]."""
        shards, places = self.shard[rows], self.place[rows]
        for shard in np.unique(shards):
            chosen = np.flatnonzero(shards == shard)
            out = {name: [array[j : j + 1] for j in chosen] for name, array in arrays.items()}
            opened.read(int(shard), places[chosen].tolist(), out)

    def state_on(self, name: str, device: torch.device | str) -> dict[str, torch.Tensor]:
        """The calibration of a field as tensors on a device, moved there once."""
        where = (name, str(device))
        if where not in self._on:
            state = self._state[self.fields[name].name]
            self._on[where] = {key: torch.from_numpy(a).to(device) for key, a in state.items()}
        return self._on[where]


def _group(cache: Path, planned: plan.Plan, places: Mapping[str, str]) -> dict[str, _StreamColumn]:
    """The requested fields by column, so that a record is read once."""
    columns: dict[str, Column] = {}
    fields: dict[str, dict[str, Field]] = {}
    for name, place in places.items():
        column, field = schema.column_and_field(cache, place)
        if field.kind == "text":
            raise ReedError(
                f"{place} is text, which no net can read; name a column that encodes it"
            )
        if any(part.is_ragged for part in codecs.codec_of(field).parts(field)):
            raise ReedError(f"{place} has samples of different lengths; a stream needs one shape")
        columns[column.name] = column
        fields.setdefault(column.name, {})[name] = field
    return {name: _StreamColumn(cache, planned, columns[name], fields[name]) for name in columns}


def _complete(cache: Path, planned: plan.Plan, column: Column) -> list[Marker]:
    """Every marker of a column, its files checked for their size; ReedError if one is missing."""
    missing = [
        shard
        for shard in range(planned.shards)
        if not schema.marker_path(cache, column, shard).is_file()
    ]
    if missing:
        raise ReedError(
            f"column {column.name!r} of {cache} is incomplete: {len(missing)} of {planned.shards} "
            f"shards are missing (first: {missing[0]}); finish it with: "
            f"reed-cache build {planned.manifest.pipeline} --encoder {column.name} --cache {cache}"
        )
    markers = [schema.load_marker(cache, column, shard) for shard in range(planned.shards)]
    for marker in markers:
        path = schema.shard_path(cache, column, marker.shard)
        size = path.stat().st_size if path.is_file() else None
        if size != marker.bytes:
            have = "is missing" if size is None else f"has {size} bytes"
            raise ReedError(f"{path} {have}, its marker says {marker.bytes}; run reed-cache verify")
    return markers


def _places(planned: plan.Plan, marker: Marker) -> np.ndarray:
    keys = planned.keys_of(marker.shard)
    kept = [key not in marker.failed for key in keys]
    if marker.keys != tuple(key for key, keep in zip(keys, kept, strict=True) if keep):
        raise ReedError(
            f"column {marker.column!r} shard {marker.shard}: its keys are not the planned ones; "
            "run reed-cache verify"
        )
    return np.where(kept, np.cumsum(kept) - 1, -1)


def _common_rows(planned: plan.Plan, columns) -> np.ndarray:
    """The rows that every column has."""
    kept = np.ones(len(planned.keys), dtype=bool)
    for column in columns:
        kept &= column.place >= 0
    if not kept.any():
        raise ReedError("no sample is in all of the columns that training needs")
    return np.flatnonzero(kept)
