"""The values of one field or column of an open cache, by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from reed.cache import schema
from reed.cache.schema import Column, Field
from reed.errors import ReedError

if TYPE_CHECKING:
    from reed.cache.opened import Cache


class NoSample(ReedError, KeyError):
    """Raised when a column has no value for a key; the message says why."""

    __str__ = Exception.__str__  # KeyError would print the quoted message


class Values(Mapping[str, Any]):
    """The values of one field or column by key; each is read and decoded on access."""

    def __init__(self, cache: Cache, column: Column, field: Field | None, view: int) -> None:
        self._cache, self._column, self._field, self._view = cache, column, field, view

    def __getitem__(self, key: str) -> Any:
        shard, position = self._locate(key)
        fields = self._column.fields if self._field is None else (self._field,)
        values = self._cache.read(self._column.name, fields, shard, position, self._view)
        return values if self._field is None else values[self._field.name]

    def __contains__(self, key: object) -> bool:
        try:
            self._locate(key)
        except NoSample:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        for shard in range(self._cache.plan.shards):
            yield from self._cache.marker(self._column.name, shard).keys

    def __len__(self) -> int:
        shards = range(self._cache.plan.shards)
        return sum(len(self._cache.marker(self._column.name, shard).keys) for shard in shards)

    def _locate(self, key: Any) -> tuple[int, int]:
        """Return the shard of a sample and its position among the shard's samples.

        Raises:
            NoSample: The column does not have the sample.
        """
        cache, name = self._cache, self._column.name
        row = cache.plan.row_of(key)
        if row is None:
            near = ", ".join(map(repr, cache.plan.near(str(key))))
            raise NoSample(f"{cache.folder} has no sample {key!r}. Near it: {near}")

        shard, _ = cache.plan.locate(row)
        if not schema.marker_path(cache.folder, self._column, shard).is_file():
            problem = f"shard {shard} of {cache.plan.shards} is not built yet; rerun the build"
            raise NoSample(f"column {name!r} of {cache.folder} lacks sample {key!r}: {problem}")
        marker = cache.marker(name, shard)

        # The key is planned for this shard: it is either in the marker's keys or failed.
        if key in marker.failed:
            problem = f"it was left out: {marker.failed[key]}"
            raise NoSample(f"column {name!r} of {cache.folder} lacks sample {key!r}: {problem}")
        if key not in marker.keys:
            raise ReedError(
                f"column {name!r} shard {shard}: its keys are not the planned ones; "
                "run reed-cache verify"
            )
        return shard, marker.keys.index(key)
