"""Fields of a cache joined by key: the samples that every column has, and their records."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from reed.cache import reader, schema
from reed.cache.codecs import codecs
from reed.cache.containers.offsets import Out
from reed.cache.plan import Plan
from reed.cache.schema import Column, Field, Marker
from reed.errors import ReedError, StoreError
from reed.store import mirror

if TYPE_CHECKING:
    from reed.cache.opened import Cache

_OPEN, _BLOCK = 16, 8192  # when all records are read: shards kept open, records per call


class Joined:
    """The columns of some fields, and the rows of the plan that all of them have.

    Args:
        cache: The open cache.
        places: Name -> address "column/field".
        skip: Number of records that may be left out because their shard is missing or of the wrong
            size; with 0, any such shard is an error.

    Attributes:
        columns: The columns; each is there once, with all its requested fields.
        rows: Rows of the plan that every column has.
        left_out: Number of the other rows.
        lacking: Column -> rows that it left out.

    Raises:
        ReedError: A column is missing or incomplete, or no sample is in all columns.
    """

    def __init__(self, cache: Cache, places: Mapping[str, str], skip: int = 0) -> None:
        self._plan, self._skip = cache.plan, skip
        fields: dict[str, dict[str, Field]] = {}  # by column, so that each record is read once
        for name, place in places.items():
            column, field = cache.column_and_field(place)
            fields.setdefault(column.name, {})[name] = field
        self.columns = [JoinedColumn(cache, name, group, skip) for name, group in fields.items()]

        kept = np.ones(len(self._plan.keys), dtype=bool)
        for column in self.columns:
            kept &= column.place >= 0
        self.rows = np.flatnonzero(kept)
        if not len(self.rows):
            raise ReedError(f"no sample is in all of {', '.join(places.values())}")
        self.left_out = len(self._plan.keys) - len(self.rows)
        self.lacking = {c.name: np.flatnonzero(c.place < 0) for c in self.columns}

    def numbers(self, name: str) -> np.ndarray:
        """Return a field of one number per sample for every row in ``rows``."""
        column = next(c for c in self.columns if name in c.fields)
        return column.numbers(name, self.rows)

    def labels(self, cache: Cache, place: str) -> np.ndarray:
        """Return the label of every row in ``rows``.

        Args:
            cache: The open cache.
            place: Address "column/field" of the label.

        Raises:
            ReedError: The field is not a label, or a sample has none.
        """
        column, field = cache.column_and_field(place)
        if field.kind != "label":
            raise ReedError(f"{place} is of kind {field.kind!r}, one_per takes a label")
        labels = JoinedColumn(cache, column.name, {place: field}, self._skip)
        if (missing := labels.place[self.rows] < 0).any():
            key = self._plan.keys[self.rows[missing.argmax()]]
            raise ReedError(f"sample {key!r} has no {place}, which one_per needs")
        return labels.numbers(place, self.rows)

    @cached_property
    def lengths(self) -> np.ndarray | None:
        """Return the length of every row in ``rows``; None where lengths do not vary.

        Raises:
            ReedError: Two fields of a sample differ in length.
        """
        first: np.ndarray | None = None
        for column in self.columns:
            for part in column.ragged:
                lengths = column.lengths(part)[self.rows]
                if first is None:
                    first = lengths

                # Tokens are paired by position, which needs the same length in every column.
                if (differ := np.flatnonzero(lengths != first)).size:
                    key = self._plan.keys[self.rows[differ[0]]]
                    raise ReedError(
                        f"sample {key!r} has {first[differ[0]]} tokens in one column and "
                        f"{lengths[differ[0]]} in {column.name}/{part}; they cannot be paired"
                    )
        return first


class Index:
    """Where the records of one column are.

    Attributes:
        markers: Marker by shard; the size of each shard file has been checked.
        problems: Message by shard, of the shards without a valid marker.
        shard: The shard of every row of the plan.
    """

    def __init__(self, cache: Cache, name: str) -> None:
        self._plan = cache.plan
        self.markers: dict[int, Marker] = {}
        self.problems: dict[int, str] = {}
        for shard in range(self._plan.shards):
            try:
                self.markers[shard] = cache.marker(name, shard)
            except ReedError as error:
                self.problems[shard] = str(error)
        sizes = [len(self._plan.rows(i)) for i in range(self._plan.shards)]
        self.shard = np.repeat(np.arange(self._plan.shards), sizes)

    @cached_property
    def place(self) -> np.ndarray:
        """Return the position of every row among its shard's records; -1 if it was left out."""
        shards = range(self._plan.shards)
        return np.concatenate([_places(self._plan, self.markers.get(i), i) for i in shards])


class JoinedColumn:
    """One column of a join: where the record of each row is, and how to decode its fields.

    Args:
        cache: The open cache.
        name: Name of the column.
        fields: The requested fields, by the names under which they were requested.
        skip: As in `Joined`.
    """

    def __init__(self, cache: Cache, name: str, fields: dict[str, Field], skip: int) -> None:
        self.name, self.fields = name, fields
        self.parts = {name: codecs.codec_of(field).parts(field) for name, field in fields.items()}
        self.ragged = {p.name for parts in self.parts.values() for p in parts if None in p.shape}
        self._folder, self._column, self._plan = cache.folder, cache.column(name), cache.plan
        self._views = cache.manifest.views
        index = cache.index(name)
        _check_complete(cache, self._column, index, skip)
        self._markers, self.shard, self.place = index.markers, index.shard, index.place
        self._state = cache.state(name)
        self._on: dict[tuple[str, str], dict[str, torch.Tensor]] = {}

    def open(self, limit: int) -> reader.OpenShards:
        """Return a reader of the column's shards that keeps ``limit`` files open."""
        if mirror.of(self._folder):  # a copy of a shard is two
            limit //= 2
        return reader.OpenShards(
            self._folder, self._column, self._markers, views=self._views, limit=limit
        )

    def lengths(self, part: str) -> np.ndarray:
        """Return the length of a ragged part for every row of the plan; 0 where it was left out."""
        lengths = np.zeros(len(self.place), dtype=np.int64)
        for shard, marker in self._markers.items():
            rows = self._plan.rows(shard)
            stored = np.asarray(marker.parts[part]["lengths"], dtype=np.int64)[:: self._views]
            lengths[rows.start : rows.stop][self.place[rows.start : rows.stop] >= 0] = stored
        return lengths

    def read(
        self,
        opened: reader.OpenShards,
        rows: np.ndarray,
        views: np.ndarray,
        out: Out,
    ) -> dict[int, ReedError]:
        """Read the records of some rows into arrays.

        Args:
            opened: The reader that `open` has returned.
            rows: Rows of the plan, [B].
            views: The view of each row, [B].
            out: Part -> B arrays; ``out[part][j]`` is filled with the record of ``rows[j]``.

        Returns:
            The errors of the records that could not be read, by j.
        """
        shards, records = self._places_of(rows, views)
        failed: dict[int, ReedError] = {}
        for shard in opened.read_many(shards, records, out):
            # Reading the records of a bad shard one by one finds those that cannot be read.
            for j in np.flatnonzero(shards == shard).tolist():
                one = {name: [arrays[j]] for name, arrays in out.items()}
                try:
                    opened.read(shard, [int(records[j])], one)
                except StoreError:  # the other records cannot be read now, either
                    raise
                except ReedError as error:
                    failed[j] = error
        return failed

    def touch(self, opened: reader.OpenShards, rows: np.ndarray, views: np.ndarray) -> None:
        """Fetch the records of some rows from the store, where copies are kept; see `read`."""
        shards, records = self._places_of(rows, views)
        groups = {n: records[shards == n].tolist() for n in np.unique(shards).tolist()}
        opened.touch(groups)

    def _places_of(self, rows: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the shard of some rows, and the record of each in its shard."""
        return self.shard[rows], self.place[rows] * self._views + views

    def numbers(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return a field of one number per sample for some rows of the plan, as stored."""
        (part,) = self.parts[name]
        numbers = np.empty((len(rows), 1), part.dtype)
        with contextlib.closing(self.open(_OPEN)) as opened:
            for start in range(0, len(rows), _BLOCK):
                block = rows[start : start + _BLOCK]
                out = {part.name: list(numbers[start : start + _BLOCK])}
                if failed := self.read(opened, block, np.zeros_like(block), out):
                    raise next(iter(failed.values()))
        return numbers[:, 0]

    def state_on(self, name: str, device: torch.device | str) -> dict[str, torch.Tensor]:
        """Return the calibration of a field as tensors on a device; they are copied there once."""
        cached = (name, str(device))
        if cached not in self._on:
            state = self._state[self.fields[name].name]
            self._on[cached] = {key: torch.from_numpy(a).to(device) for key, a in state.items()}
        return self._on[cached]


def _check_complete(cache: Cache, column: Column, index: Index, skip: int) -> None:
    """Raise ReedError if shards are missing or invalid and hold more than ``skip`` records."""
    planned, problems = cache.plan, index.problems
    lost = sum(len(planned.rows(shard)) for shard in problems)
    if lost <= skip:
        return
    folder = cache.folder
    absent = [s for s in problems if not schema.marker_path(folder, column, s).is_file()]
    if absent:
        raise ReedError(
            f"column {column.name!r} of {folder} is incomplete: {len(absent)} of {planned.shards} "
            f"shards are missing (first: {absent[0]}); finish it with: "
            f"reed-cache build {planned.manifest.pipeline} --encoder {column.name} --cache {folder}"
        )
    raise ReedError(next(iter(problems.values())))


def _places(planned: Plan, marker: Marker | None, shard: int) -> np.ndarray:
    """Return the position of every sample of a shard among its records; -1 if it was left out."""
    keys = planned.keys_of(shard)
    if marker is None:
        return np.full(len(keys), -1)
    kept = [key not in marker.failed for key in keys]
    if marker.keys != tuple(key for key, keep in zip(keys, kept, strict=True) if keep):
        raise ReedError(
            f"column {marker.column!r} shard {shard}: its keys are not the planned ones; "
            "run reed-cache verify"
        )
    return np.where(kept, np.cumsum(kept) - 1, -1)
