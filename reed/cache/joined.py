"""Some fields of a cache, joined by key: the samples that all have, and their records."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from reed.cache import reader, schema
from reed.cache.codecs import codecs
from reed.cache.containers.offsets import Out
from reed.cache.plan import Plan
from reed.cache.plan import load as load_plan
from reed.cache.schema import Column, Field, Marker
from reed.errors import ReedError

_OPEN, _BLOCK = 16, 8192  # shards that stay open, and records per call, where all are read


class Joined:
    """The columns behind some names, and the rows of the plan that every one of them has.

    places: name -> "column/field"; lacking: column -> rows of the plan that it left out; skip: how
    many records may be left out because their shard is absent or of the wrong size (0: none, any
    such shard is an error). Raises ReedError if a column is absent or incomplete, or if no sample
    is in all of them.
    """

    def __init__(self, cache: Path, planned: Plan, places: Mapping[str, str], skip: int = 0):
        fields = _by_column(cache, places)
        self.columns = [
            JoinedColumn(cache, planned, schema.load_column(cache, name), each, skip)
            for name, each in fields.items()
        ]
        kept = np.ones(len(planned.keys), dtype=bool)
        for column in self.columns:
            kept &= column.place >= 0
        self.rows = np.flatnonzero(kept)
        if not len(self.rows):
            raise ReedError("no sample is in all of the columns that training needs")
        self.left_out = len(planned.keys) - len(self.rows)
        self.lacking = {c.name: np.flatnonzero(c.place < 0) for c in self.columns}
        self.lengths = self._common_lengths(planned)

    def numbers(self, name: str) -> np.ndarray:
        """A field of one number per sample, of every row in `rows`."""
        column = next(each for each in self.columns if name in each.fields)
        return column.numbers(name, self.rows)

    def labels(self, cache: Path, planned: Plan, place: str) -> np.ndarray:
        """The label "column/field" of every row in `rows`; ReedError where one has none."""
        column, field = schema.column_and_field(cache, place)
        if field.kind != "label":
            raise ReedError(f"{place} is of kind {field.kind!r}, one_per takes a label")
        state = reader.load_state(cache, column)
        found: dict[str, int] = {}
        for shard in sorted({planned.locate(int(row))[0] for row in self.rows}):
            records = reader.records(cache, column, shard, [field], state)
            found |= {key: int(values[field.name]) for key, values in records}
        keys = [planned.keys[row] for row in self.rows]
        if missing := next((key for key in keys if key not in found), None):
            raise ReedError(f"sample {missing!r} has no {place}, which one_per needs")
        return np.array([found[key] for key in keys])

    def _common_lengths(self, planned: Plan) -> np.ndarray | None:
        """The length of every row in `rows`, None where no field varies in length."""
        found: np.ndarray | None = None
        for column in self.columns:
            for part in column.ragged:
                lengths = column.lengths(part)[self.rows]
                if found is None:
                    found = lengths
                if (differ := np.flatnonzero(lengths != found)).size:
                    key = planned.keys[self.rows[differ[0]]]
                    raise ReedError(
                        f"sample {key!r} has {found[differ[0]]} tokens in one column and "
                        f"{lengths[differ[0]]} in {column.name}/{part}; they cannot be paired"
                    )
        return found


def lengths_of(cache: Path, places: Mapping[str, str]) -> list[int]:
    """How many tokens each sample has that is in every column; ReedError where all have as many."""
    lengths = Joined(cache, load_plan(cache), places).lengths
    if lengths is None:
        raise ReedError(f"the samples of {cache} are all of one length: {', '.join(places)}")
    return lengths.tolist()


class JoinedColumn:
    """One column: where the records of each row are, and how its fields decode."""

    def __init__(
        self, cache: Path, planned: Plan, column: Column, fields: dict[str, Field], skip: int
    ) -> None:
        self.name, self.fields = column.name, fields
        self.parts = {name: codecs.codec_of(field).parts(field) for name, field in fields.items()}
        self.ragged = {p.name for parts in self.parts.values() for p in parts if p.is_ragged}
        self._cache, self._column, self._plan = cache, column, planned
        self._views = planned.manifest.views
        self._markers = _markers(cache, planned, column, skip)
        self._state = reader.load_state(cache, column)
        self._on: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
        sizes = [len(planned.rows(i)) for i in range(planned.shards)]
        # shard and place of every row of the plan; place -1 where the sample was left out
        self.shard = np.repeat(np.arange(planned.shards), sizes)
        self.place = np.concatenate(
            [_places(planned, self._markers.get(i), i) for i in range(planned.shards)]
        )

    def open(self, limit: int) -> reader.OpenShards:
        """Readers of the column's shards, of which `limit` stay open."""
        markers = self._markers
        return reader.OpenShards(self._cache, self._column, markers, views=self._views, limit=limit)

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


def _group(members: Sequence[int], records: np.ndarray, out: Out) -> tuple[list[int], Out]:
    """The records of some places of a batch, and where they go."""
    wanted = {name: [arrays[j] for j in members] for name, arrays in out.items()}
    return [int(records[j]) for j in members], wanted


def _by_column(cache: Path, places: Mapping[str, str]) -> dict[str, dict[str, Field]]:
    """The requested fields by column, so that a record is read once."""
    fields: dict[str, dict[str, Field]] = {}
    for name, place in places.items():
        column, field = schema.column_and_field(cache, place)
        if field.kind == "text":
            raise ReedError(
                f"{place} is text, which no net can read; name a column that encodes it"
            )
        fields.setdefault(column.name, {})[name] = field
    return fields


def _markers(cache: Path, planned: Plan, column: Column, skip: int) -> dict[int, Marker]:
    """Shard -> marker, its file checked for its size; ReedError where one is missing or wrong."""
    found: dict[int, Marker] = {}
    problems: dict[int, str] = {}
    for shard in range(planned.shards):
        try:
            found[shard] = _sound_marker(cache, column, shard, planned.manifest.views)
        except ReedError as error:
            problems[shard] = str(error)
    lost = sum(len(planned.rows(shard)) for shard in problems)
    if lost <= skip:
        return found
    absent = [s for s in problems if not schema.marker_path(cache, column, s).is_file()]
    if absent:
        raise ReedError(
            f"column {column.name!r} of {cache} is incomplete: {len(absent)} of {planned.shards} "
            f"shards are missing (first: {absent[0]}); finish it with: "
            f"reed-cache build {planned.manifest.pipeline} --encoder {column.name} --cache {cache}"
        )
    raise ReedError(next(iter(problems.values())))


def _sound_marker(cache: Path, column: Column, shard: int, views: int) -> Marker:
    marker = schema.load_marker(cache, column, shard)
    path = schema.shard_path(cache, column, shard)
    size = path.stat().st_size if path.is_file() else None
    if size != marker.bytes:
        have = "is missing" if size is None else f"has {size} bytes"
        raise ReedError(f"{path} {have}, its marker says {marker.bytes}; run reed-cache verify")
    reader.check_index(marker, reader.parts_of(column), views)
    return marker


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
