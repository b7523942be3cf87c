"""A cache that is open for reading; each of its files is parsed only once."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reed.cache import plan, reader, schema
from reed.cache.codecs.codecs import State
from reed.cache.plan import Plan
from reed.cache.reader import OpenShards
from reed.cache.schema import Column, Field, Marker
from reed.cache.values import Values
from reed.errors import ReedError
from reed.store import mirror

if TYPE_CHECKING:
    from reed.cache.dataset import CacheDataset
    from reed.cache.joined import Index, Joined
    from reed.cache.stream import ShardStream

Places = Mapping[str, str] | Iterable[str]


def open_cache(folder: Path | str) -> Cache:
    """Open a cache for reading.

    Args:
        folder: Folder of the cache, such as "cache/imagenet", or its URL, such as
            "s3://bucket/imagenet".

    Returns:
        The open cache, which is also a context manager.

    Raises:
        ReedError: There is no cache in the folder, or it has another format.
    """
    return Cache(mirror.local(folder))


class Cache:
    """An open cache: its manifest, plan and columns, and the values of its samples.

    A place is the address of a field, "column/field"; "column" alone stands for all fields of the
    column. What was parsed is kept until the cache is closed. An open cache can be sent to another
    process and can be used after a fork.

    Attributes:
        folder: Folder of the cache.
        manifest: The content of manifest.json.
    """

    def __init__(self, folder: Path) -> None:
        self._opened: dict[str, OpenShards] = {}
        self._process, self._is_closed = os.getpid(), False
        self.folder = folder
        self.manifest = schema.load_manifest(folder)
        self._plan: Plan | None = None
        self._columns: dict[str, Column] = {}
        self._states: dict[str, dict[str, State]] = {}
        self._markers: dict[str, dict[int, Marker]] = {}
        self._indices: dict[str, Index] = {}

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{'closed ' if self._is_closed else ''}cache {self.folder}>"

    def __getstate__(self) -> dict[str, Any]:
        self._check_open()
        return self.__dict__ | {"_opened": {}}

    def close(self) -> None:
        """Close the open shards; the cache cannot be read afterwards."""
        self._is_closed = True
        while self._opened:
            _, opened = self._opened.popitem()
            if self._process == os.getpid():
                opened.close()

    @property
    def plan(self) -> Plan:
        """Return the plan: every key, in cache order, and the shard of each row."""
        self._check_open()
        if self._plan is None:
            self._plan = plan.load(self.folder)
        return self._plan

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names by number; empty where the manifest has none."""
        return self.manifest.classes

    @property
    def columns(self) -> dict[str, Column]:
        """Return the columns by name, complete or not."""
        return {name: self.column(name) for name in schema.columns(self.folder)}

    def column(self, name: str) -> Column:
        """Return the description of one column; ReedError if there is none."""
        self._check_open()
        if name not in self._columns:
            self._columns[name] = schema.load_column(self.folder, name)
        return self._columns[name]

    def column_and_field(self, place: str) -> tuple[Column, Field]:
        """Return the column and the field of the address "column/field"."""
        column, field = self._split(place)
        if field is None:
            names = ", ".join(f"{column.name}/{f.name}" for f in column.fields)
            raise ReedError(f"{place!r} names a column; name one of its fields: {names}")
        return column, field

    def state(self, name: str) -> dict[str, State]:
        """Return the calibration of every field of a column, see `reader.load_state`."""
        if name not in self._states:
            self._states[name] = reader.load_state(self.folder, self.column(name))
        return self._states[name]

    def marker(self, name: str, shard: int) -> Marker:
        """Return the marker of one shard; its index points only into the shard file."""
        markers = self._markers.setdefault(name, {})
        if shard not in markers:
            column, views = self.column(name), self.manifest.views
            markers[shard] = reader.sound_marker(self.folder, column, shard, views)
        return markers[shard]

    def records(
        self,
        place: str,
        *,
        view: int = 0,
        shards: Iterable[int] | None = None,
        keys: Collection[str] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Read the records of a column in cache order; samples that it left out are skipped.

        Args:
            place: "column/field", or "column" for all of its fields.
            view: The view to read; 1 is the mirrored one.
            shards: The shards to read; all of them by default.
            keys: The samples to read; all of them by default.

        Returns:
            Pairs of a key and the decoded value: an array, a string, or {field: value} of a column.

        Raises:
            ReedError: The cache lacks the place or the view, or a shard is not built yet.
        """
        column, field = self._split(place)
        self._check_view(view)
        fields = column.fields if field is None else [field]
        state = self.state(column.name)
        shards = range(self.plan.shards) if shards is None else shards
        return (
            (key, values if field is None else values[field.name])
            for shard in shards
            for key, values in reader.records(
                self.folder, column, shard, fields, state, view=view, keys=keys
            )
        )

    def values(self, place: str, view: int = 0) -> Values:
        """Return the values of a place by key; for the arguments see `records`."""
        column, field = self._split(place)
        self._check_view(view)
        return Values(self, column, field, view)

    def __getitem__(self, place: str) -> Values:
        return self.values(place)

    def read(
        self, name: str, fields: Iterable[Field], shard: int, position: int, view: int
    ) -> dict[str, Any]:
        """Read and decode fields of one sample.

        Args:
            name: Name of the column.
            fields: The fields to read.
            shard: Number of the shard.
            position: Position of the sample among the samples of the shard.
            view: The view to read.

        Returns:
            The decoded values: {field: array or string}.
        """
        marker, fields = self.marker(name, shard), list(fields)
        read = partial(self._shards_of(name).read, shard)
        record = position * self.manifest.views + view
        arrays = reader.stored(read, marker, reader.parts_of(fields), record)
        return reader.decode(fields, arrays, self.state(name))

    def index(self, name: str) -> Index:
        """Return where the records of a column are, for every row of the plan."""
        from reed.cache.joined import Index

        if (cached := self._indices.get(name)) is not None:
            return cached
        index = Index(self, name)
        if not index.problems:  # missing shards may be built while the cache is open
            self._indices[name] = index
        return index

    def join(self, places: Places, skip: int = 0) -> Joined:
        """Return the samples that all of some places have; see `reed.cache.joined.Joined`."""
        from reed.cache.joined import Joined

        return Joined(self, named(places), skip)

    def stream(self, places: Places, batch: int = 0, **settings: Any) -> ShardStream:
        """Return batches for training, in an order that follows from the seed.

        Args:
            places: Name -> "column/field"; or only the places, which then are also their names.
            batch: Samples of a batch. Where samples differ in length, give ``tokens`` instead: the
                largest number of padded tokens of a batch.
            **settings: See `reed.cache.stream.ShardStream`.
        """
        from reed.cache.stream import ShardStream

        return ShardStream(self, named(places), batch, **settings)

    def dataset(self, places: Places, view: int = 0) -> CacheDataset:
        """Return a map-style torch Dataset of the samples that all of the places have.

        Args:
            places: Name -> "column/field"; or only the places, which then are also their names.
            view: The view to read; 1 is the mirrored one.
        """
        from reed.cache.dataset import CacheDataset

        self._check_view(view)
        return CacheDataset(self, named(places), view)

    def _split(self, place: str) -> tuple[Column, Field | None]:
        """Return the column of a place, and the field if the place names one."""
        name, _, field = place.partition("/")
        column = self.column(name)
        return column, column.field(field) if field else None

    def _shards_of(self, name: str) -> OpenShards:
        """Return the reader of a column's shards in this process."""
        self._check_open()
        if self._process != os.getpid():  # after a fork, a lock may be held by a missing thread
            self._opened, self._process = {}, os.getpid()
        if name not in self._opened:
            markers, views = self._markers.setdefault(name, {}), self.manifest.views
            column = self.column(name)
            self._opened[name] = OpenShards(self.folder, column, markers, views=views)
        return self._opened[name]

    def _check_view(self, view: int) -> None:
        if view not in range(self.manifest.views):
            have = f"{self.manifest.views} view{'s' * (self.manifest.views > 1)}"
            raise ReedError(f"view {view} of {self.folder}: it has {have} of each sample, from 0")

    def _check_open(self) -> None:
        if self._is_closed:
            raise ReedError(f"the cache {self.folder} is closed; open it again: reed.open_cache")


def named(places: Places) -> dict[str, str]:
    """Return places by name; places without names are their own names."""
    if isinstance(places, str):
        raise ReedError(f"the places are {places!r}; give a list, or a table of name -> place")
    return dict(places) if isinstance(places, Mapping) else {place: place for place in places}
