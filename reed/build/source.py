"""What an encoder is given: samples of a source, and records of the columns that it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from reed.cache import key_lists
from reed.cache.account import Account
from reed.cache.opened import open_cache

Sample = dict[str, Any]
KEY = "key"  # what an encoder reads that needs to know which sample it is; no source entry


class BadSample(Exception):
    """A sample that a source cannot read or an encoder cannot take; the message is the reason."""


class Listing(dict[str, str]):
    """Every key of a source with its stamp, and what else was found where the samples are.

    Attributes:
        passed: Files and members that are no sample, by reason ("ending .heic", "no ending"), each
            reason with their names.
        classes: Names of the classes, by number; empty where the data names none.
        counts: What a source counted meanwhile, in words ("letters: stated by the file").
    """

    def __init__(
        self,
        stamps: Mapping[str, str],
        passed: Mapping[str, Sequence[str]] | None = None,
        classes: Sequence[str] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(stamps)
        self.passed = {reason: tuple(names) for reason, names in (passed or {}).items() if names}
        self.classes = tuple(classes)
        self.counts = dict(counts or {})

    @property
    def line(self) -> str:
        """What was passed over, in one line; empty where nothing was."""
        return Account.of(self.passed).line


class Source(Protocol):
    """A raw data set: stable keys, and the named entries of each sample.

    views: how many views of a sample it can give, 2 if also the mirrored one. Instances are
    pickled into the reading processes, so they keep no open files and are cheap to send. One whose
    listing names classes has a setting `classes`: the names that a cache has frozen, by number,
    with which those of the listing begin.
    """

    entries: tuple[str, ...]
    views: int

    def listing(self) -> Mapping[str, str]:
        """Every key with a cheap stamp of its content (such as the file's size).

        A plain dict, or a Listing where files were passed over or classes have names.
        """
        ...

    def read(self, key: str, view: int = 0) -> Mapping[str, Any]:
        """The entries of one view of a sample; raises BadSample with the reason.

        Only the entries that a column reads are looked up, so the mapping may make them then.
        """
        ...


UNFIT = "name is no text"  # why a file is passed over whose name the list of keys cannot hold


def listed(source: Source) -> Listing:
    """The listing of a source, without the keys that a cache cannot hold: these are passed over."""
    found = source.listing()
    listing = found if isinstance(found, Listing) else Listing(found)
    unfit = key_lists.unfit(listing)
    if not unfit:
        return listing
    kept = {key: stamp for key, stamp in listing.items() if key not in unfit}
    return Listing(kept, listing.passed | {UNFIT: tuple(unfit)}, listing.classes, listing.counts)


@dataclass(frozen=True)
class Chunk:
    """Samples that are encoded together: key -> one sample per view, and key -> what was wrong."""

    samples: dict[str, list[Sample]]
    failed: dict[str, str]


@dataclass(frozen=True)
class Reading:
    """All that reading the samples of a column needs; can be sent to another process."""

    cache: Path
    column: str
    source: Source
    reads: tuple[str, ...]
    views: int

    @property
    def is_raw(self) -> bool:
        """Whether it reads the source at all."""
        return any("/" not in place and place != KEY for place in self.reads)

    def chunk(self, shard: int, keys: Sequence[str]) -> Chunk:
        """Some samples of one shard; one that fails in any view is left out."""
        stored = [self._stored(shard, keys, view) for view in range(self.views)]
        samples: dict[str, list[Sample]] = {}
        failed: dict[str, str] = {}
        for key in keys:
            try:
                samples[key] = [self._sample(key, view, stored[view]) for view in range(self.views)]
            except BadSample as error:
                failed[key] = str(error)
        return Chunk(samples, failed)

    def _sample(self, key: str, view: int, stored: dict[str, Sample]) -> Sample:
        entries = self.source.read(key, view) if self.is_raw else {}
        raw = [place for place in self.reads if "/" not in place]
        sample = {place: key if place == KEY else entries[place] for place in raw}
        for place, values in stored.items():
            if key not in values:
                raise BadSample(f"not in column {place.split('/')[0]!r}")
            sample[place] = values[key]
        return sample

    def _stored(self, shard: int, keys: Sequence[str], view: int) -> dict[str, Sample]:
        """Place in another column -> key -> value, of one view."""
        with open_cache(self.cache) as cache:
            return {
                place: dict(cache.records(place, view=view, shards=[shard], keys=keys))
                for place in self.reads
                if "/" in place
            }
