"""Some fields of a cache, joined by key: the samples that all have, and their records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from reed.cache import reader, schema
from reed.cache.codecs import codecs
from reed.cache.containers.offsets import Out
from reed.cache.plan import Plan
from reed.cache.schema import Column, Field, Marker
from reed.errors import ReedError

if TYPE_CHECKING:
    from reed.cache.opened import Cache

_OPEN, _BLOCK = 16, 8192  # shards that stay open, and records per call, where all are read


class Joined:
    """The columns behind some names, and the rows of the plan that every one of them has.

    places: name -> "column/field"; lacking: column -> rows of the plan that it left out; skip: how
    many records may be left out because their shard is absent or of the wrong size (0: none, any
    such shard is an error). Raises ReedError if a column is absent or incomplete, or if no sample
    is in all of them.
    """

    def __init__(self, cache: Cache, places: Mapping[str, str], skip: int = 0) -> None:
        self._plan, self._skip = cache.plan, skip
        fields: dict[str, dict[str, Field]] = {}  # by column, so that a record is read once
        for name, place in places.items():
            column, field = cache.column_and_field(place)
            fields.setdefault(column.name, {})[name] = field
        self.columns = [JoinedColumn(cache, name, each, skip) for name, each in fields.items()]
        kept = np.ones(len(self._plan.keys), dtype=bool)
        for column in self.columns:
            kept &= column.place >= 0
        self.rows = np.flatnonzero(kept)
        if not len(self.rows):
            raise ReedError(f"no sample is in all of {', '.join(places.values())}")
        self.left_out = len(self._plan.keys) - len(self.rows)
        self.lacking = {c.name: np.flatnonzero(c.place < 0) for c in self.columns}

    def numbers(self, name: str) -> np.ndarray:
        """A field of one number per sample, of every row in `rows`."""
        column = next(each for each in self.columns if name in each.fields)
        return column.numbers(name, self.rows)

    def labels(self, cache: Cache, place: str) -> np.ndarray:
        """The label "column/field" of every row in `rows`; ReedError where one has none."""
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
        """The length of every row in `rows`, None where none varies; ReedError if fields differ."""
        found: np.ndarray | None = None
        for column in self.columns:
            for part in column.ragged:
                lengths = column.lengths(part)[self.rows]
                if found is None:
                    found = lengths
                if (differ := np.flatnonzero(lengths != found)).size:
                    key = self._plan.keys[self.rows[differ[0]]]
                    raise ReedError(
                        f"sample {key!r} has {found[differ[0]]} tokens in one column and "
                        f"{lengths[differ[0]]} in {column.name}/{part}; they cannot be paired"
                    )
        return found


class Index:
    """Where the samples of one column are.

    Attributes:
        markers: Those of its shards, by number; each file has been checked for its size.
        problems: What is wrong with the shards that have none, by number.
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
        """The place in its shard of every row of the plan, -1 where the sample was left out."""
        shards = range(self._plan.shards)
        return np.concatenate([_places(self._plan, self.markers.get(i), i) for i in shards])


class JoinedColumn:
    """One column: where the records of each row are, and how its fields decode."""

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
        """Readers of the column's shards, of which `limit` stay open."""
        return reader.OpenShards(
            self._folder, self._column, self._markers, views=self._views, limit=limit
        )

    def lengths(self, part: str) -> np.ndarray:
        """The length of a ragged part for every row of the plan; 0 where it was left out."""
        found = np.zeros(len(self.place), dtype=np.int64)
        for shard, marker in self._markers.items():
            rows = self._plan.rows(shard)
            each = np.asarray(marker.parts[part]["lengths"], dtype=np.int64)[:: self._views]
            found[rows.start : rows.stop][self.place[rows.start : rows.stop] >= 0] = each
        return found

    def read(
        self,
        opened: reader.OpenShards,
        rows: np.ndarray,
        views: np.ndarray,
        out: Out,
    ) -> dict[int, ReedError]:
        """Fill out[part][j] with view views[j] of rows[j]; returns what failed, by j."""
        shards, records = self.shard[rows], self.place[rows] * self._views + views
        order = np.argsort(shards, kind="stable")
        chosen = {
            int(shards[members[0]]): members
            for members in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1)
            if len(members)
        }
        groups = {shard: _group(members, records, out) for shard, members in chosen.items()}
        failed: dict[int, ReedError] = {}
        for shard in opened.read_many(groups):  # one by one, to find which
            for j in chosen[shard]:
                try:
                    opened.read(shard, *_group([j], records, out))
                except ReedError as error:
                    failed[int(j)] = error
        return failed

    def numbers(self, name: str, rows: np.ndarray) -> np.ndarray:
        """A field of one number per sample, of some rows of the plan, as stored."""
        (part,) = self.parts[name]
        found = np.empty((len(rows), 1), part.dtype)
        with contextlib.closing(self.open(_OPEN)) as opened:
            for start in range(0, len(rows), _BLOCK):
                some = rows[start : start + _BLOCK]
                out = {part.name: list(found[start : start + _BLOCK])}
                if failed := self.read(opened, some, np.zeros_like(some), out):
                    raise next(iter(failed.values()))
        return found[:, 0]

    def state_on(self, name: str, device: torch.device | str) -> dict[str, torch.Tensor]:
        """The calibration of a field as tensors on a device, moved there once."""
        where = (name, str(device))
        if where not in self._on:
            state = self._state[self.fields[name].name]
            self._on[where] = {key: torch.from_numpy(a).to(device) for key, a in state.items()}
        return self._on[where]


def _group(members: Iterable[int], records: np.ndarray, out: Out) -> tuple[list[int], Out]:
    """The records of some places of a batch, and where they go."""
    wanted = {name: [arrays[j] for j in members] for name, arrays in out.items()}
    return [int(records[j]) for j in members], wanted


def _check_complete(cache: Cache, column: Column, index: Index, skip: int) -> None:
    """ReedError where a shard is missing or wrong, unless no more than `skip` records are lost."""
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
