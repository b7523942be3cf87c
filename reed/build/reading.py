"""Samples as the source gives them, and put together for one column with what else it reads."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.source import KEY, BadSample, Sample, Source
from reed.cache.opened import open_cache
from reed.errors import placed

WHOLE = ""  # in View.problems: the sample as a whole
_FIXED = (str, bytes, int, float, complex, bool, type(None), np.generic)  # cannot be changed


@dataclass(frozen=True)
class View:
    """Some entries of one view of a sample, for all columns that read them.

    Attributes:
        values: The entries.
        problems: Why an entry cannot be read; under ``WHOLE`` why none can.
        notes: What the source noted when an entry was accessed; under ``WHOLE`` before that.
    """

    values: Mapping[str, Any]
    problems: Mapping[str, str]
    notes: Mapping[str, Sequence[str]]

    def has(self, entries: Iterable[str]) -> bool:
        """Whether it is known what these entries are, or why they cannot be read."""
        known = self.values.keys() | self.problems.keys()
        return WHOLE in self.problems or known.issuperset(entries)

    def entries(self, names: Sequence[str], notes: set[str]) -> Sample:
        """Return some entries, to keep and to change, and add what was noted to ``notes``.

        Raises:
            BadSample: One of them cannot be read.
        """
        for name in (WHOLE, *names):
            if name in self.problems:
                raise BadSample(self.problems[name])
        for name in (WHOLE, *names):
            notes.update(self.notes.get(name, ()))
        return {name: _own(self.values[name]) for name in names}

    @property
    def bytes(self) -> int:
        """The approximate size in memory."""
        return sum(size_of(value) for value in self.values.values())


def _own(value: Any) -> Any:
    """Return a copy of what an encoder may change, so that other columns do not see it."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.copy(order="K")
    return value if isinstance(value, _FIXED) else copy.deepcopy(value)


def size_of(value: Any) -> int:
    """Return the approximate bytes of an array, a text or a number in memory."""
    size = getattr(value, "nbytes", None)
    return int(size) if size is not None else len(value) if hasattr(value, "__len__") else 8


def read_views(source: Source, key: str, views: int, readers: Mapping[str, str]) -> list[View]:
    """Return the views of a sample, up to the first that cannot be read.

    Args:
        source: The source.
        key: Key of the sample.
        views: Number of views.
        readers: The entries to read, each with the name of a column that reads it, for messages.
    """
    found: list[View] = []
    while len(found) < views and not (found and WHOLE in found[-1].problems):
        found.append(_read_view(source, key, len(found), readers))
    return found


def _read_view(source: Source, key: str, view: int, readers: Mapping[str, str]) -> View:
    """Return one view of a sample; each entry is accessed once."""
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    first = next(iter(readers.values()), "")
    try:
        with placed(f"column {first!r}, key {key!r}", BadSample):
            entries = source.read(key, view)
    except BadSample as error:
        return View({}, {WHOLE: str(error)}, {})

    # An entry may be computed on access, and what is noted then concerns it alone.
    made = getattr(entries, "notes", [])
    notes: dict[str, Sequence[str]] = {WHOLE: tuple(made)}
    for name, column in readers.items():
        before = len(made)
        try:
            with placed(f"column {column!r}, key {key!r}", BadSample):
                values[name] = entries[name]
        except BadSample as error:
            problems[name] = str(error)
        notes[name] = tuple(made[before:])
    return View(values, problems, {name: noted for name, noted in notes.items() if noted})


@dataclass(frozen=True)
class Chunk:
    """Samples that are encoded together.

    Attributes:
        samples: One sample per view, by key.
        failed: Reason by key, of the samples that could not be read.
        noted: Samples of which the source noted something, by the note.
    """

    samples: dict[str, list[Sample]]
    failed: dict[str, str]
    noted: Counter[str] = field(default_factory=Counter)


# What returns the views of a sample of a shard, see `reed.build.shared.SharedReader.views`.
Views = Callable[[int, str], Sequence[View]]


@dataclass(frozen=True)
class Reading:
    """How the samples of one column are put together.

    Attributes:
        cache: Folder of the cache.
        column: Name of the column.
        source: Source of the raw data.
        reads: Source entries and addresses of fields.
        views: Views of a sample.
    """

    cache: Path
    column: str
    source: Source
    reads: tuple[str, ...]
    views: int

    @property
    def entries(self) -> tuple[str, ...]:
        """The entries of the source that are read; none if the source is not read at all."""
        return entries_of(self.reads)

    def chunk(self, shard: int, keys: Sequence[str], views: Views | None = None) -> Chunk:
        """Return some samples of one shard; a sample that fails in any view is left out.

        Args:
            shard: Number of the shard.
            keys: Keys of the samples.
            views: Function that returns the views of a sample as several columns share them; by
                default the source is read here.
        """
        stored = [self._stored(shard, keys, view) for view in range(self.views)]
        samples: dict[str, list[Sample]] = {}
        failed: dict[str, str] = {}
        noted: Counter[str] = Counter()

        for key in keys:
            notes: set[str] = set()
            try:
                raw = self._raw(shard, key, views)
                numbers = range(self.views)
                samples[key] = [self._sample(key, raw, v, stored[v], notes) for v in numbers]
            except BadSample as error:
                failed[key] = str(error)
            noted.update(notes)
        return Chunk(samples, failed, noted)

    def _raw(self, shard: int, key: str, views: Views | None) -> Sequence[View]:
        """Return what the source gives of a sample; empty if it is not read."""
        if not self.entries:
            return ()
        found = views(shard, key) if views else ()
        if found and all(view.has(self.entries) for view in found):
            return found
        return read_views(self.source, key, self.views, dict.fromkeys(self.entries, self.column))

    def _sample(
        self,
        key: str,
        raw: Sequence[View],
        view: int,
        stored: Mapping[str, Mapping[str, Any]],
        notes: set[str],
    ) -> Sample:
        """Return one view of a sample, and add the notes of the source to ``notes``.

        Raises:
            BadSample: The sample cannot be read, or is missing in a column that is read.
        """
        entries = raw[view].entries(self.entries, notes) if raw else {}
        own = [address for address in self.reads if "/" not in address]
        sample = {address: key if address == KEY else entries[address] for address in own}
        for address, values in stored.items():
            if key not in values:
                raise BadSample(f"not in column {address.split('/')[0]!r}")
            sample[address] = values[key]
        return sample

    def _stored(self, shard: int, keys: Sequence[str], view: int) -> dict[str, dict[str, Any]]:
        """Return one view of the fields of other columns: address -> key -> value."""
        addresses = [address for address in self.reads if "/" in address]
        if not addresses:
            return {}
        with open_cache(self.cache) as cache:
            return {
                address: dict(cache.records(address, view=view, shards=[shard], keys=keys))
                for address in addresses
            }


def entries_of(reads: Iterable[str]) -> tuple[str, ...]:
    """Return those of the addresses that an encoder reads that are entries of the source."""
    return tuple(address for address in reads if "/" not in address and address != KEY)
