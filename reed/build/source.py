"""What encoders read: samples of a source, and records of other columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from reed.cache import key_lists
from reed.cache.account import Account
from reed.cache.opened import open_cache
from reed.errors import placed

Sample = dict[str, Any]
KEY = "key"  # in Encoder.reads: the sample's key, which is no entry of the source


class BadSample(Exception):
    """Raised for a sample that cannot be read or encoded; the message is the reason."""


class NoSample(BadSample):
    """Raised for a file that holds no sample at all, such as a structure of ions.

    A listing passes such files over. It does not list them to fail.
    """


class Listing(dict[str, str]):
    """Every key of a source with its stamp, and what the source found besides its samples.

    Attributes:
        passed: Names of files and members that are not samples, by reason ("ending .heic", "no
            ending").
        classes: Class names by number; empty where the data names none.
        counts: Counts of the source, by what was counted ("letters: stated by the file").
        examples: The first keys of what was counted, where these are named.
    """

    def __init__(
        self,
        stamps: Mapping[str, str],
        passed: Mapping[str, Sequence[str]] | None = None,
        classes: Sequence[str] = (),
        counts: Mapping[str, int] | None = None,
        examples: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(stamps)
        self.passed = {reason: tuple(names) for reason, names in (passed or {}).items() if names}
        self.classes = tuple(classes)
        self.counts = dict(counts or {})
        self.examples = {what: tuple(keys) for what, keys in (examples or {}).items() if keys}

    @property
    def line(self) -> str:
        """Return a line on what was passed over; empty if nothing was."""
        return Account.of(self.passed).line


class Source(Protocol):
    """A raw data set: stable keys, and the named entries of each sample.

    Instances are pickled into the reading processes, so they keep no open files and are cheap to
    send. A source whose listing names classes has a setting ``classes``: the names that a cache
    has frozen, by number, with which those of the listing begin. A source may have
    ``for_new_plans``: settings that a new plan records unless others are given, where the defaults
    have to stay those of plans of earlier versions.

    Attributes:
        entries: Names of the entries of a sample.
        views: Number of views of a sample; 2 if the source can mirror it.
    """

    entries: tuple[str, ...]
    views: int

    def listing(self) -> Mapping[str, str]:
        """Return every key with a cheap stamp of its content (such as the file's size).

        The result is a plain dict, or a Listing if files were passed over or classes have names.
        """
        ...

    def read(self, key: str, view: int = 0) -> Mapping[str, Any]:
        """Return the entries of one view of a sample.

        Only the entries that a column reads are accessed, so the mapping may compute them on
        access. If it has an attribute ``notes``, a list of texts such as "alpha dropped", a build
        says of how many samples it noted which.

        Raises:
            BadSample: The sample cannot be read; the message is the reason.
        """
        ...


UNFIT = "name is no text"  # the reason for a file whose name a list of keys cannot hold


def listed(source: Source) -> Listing:
    """Return the listing of a source; keys that a list of keys cannot hold are passed over."""
    stamps = source.listing()
    listing = stamps if isinstance(stamps, Listing) else Listing(stamps)
    unfit = key_lists.unfit(listing)
    if not unfit:
        return listing
    kept = {key: stamp for key, stamp in listing.items() if key not in unfit}
    passed = listing.passed | {UNFIT: tuple(unfit)}
    return Listing(kept, passed, listing.classes, listing.counts, listing.examples)


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


@dataclass(frozen=True)
class Reading:
    """All that reading the samples of a column needs; can be sent to another process.

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
    def is_raw(self) -> bool:
        """Whether the source is read at all."""
        return any("/" not in address and address != KEY for address in self.reads)

    def chunk(self, shard: int, keys: Sequence[str]) -> Chunk:
        """Read some samples of one shard; a sample that fails in any view is left out."""
        stored = [self._stored(shard, keys, view) for view in range(self.views)]
        samples: dict[str, list[Sample]] = {}
        failed: dict[str, str] = {}
        noted: Counter[str] = Counter()
        for key in keys:
            notes: set[str] = set()
            try:
                views = range(self.views)
                samples[key] = [self._sample(key, view, stored[view], notes) for view in views]
            except BadSample as error:
                failed[key] = str(error)
            noted.update(notes)
        return Chunk(samples, failed, noted)

    def _sample(self, key: str, view: int, stored: dict[str, Sample], notes: set[str]) -> Sample:
        """Return one view of a sample, and add the notes of the source to ``notes``.

        Raises:
            BadSample: The sample cannot be read, or is missing in a column that is read.
        """
        raw = [address for address in self.reads if "/" not in address]
        with placed(f"column {self.column!r}, key {key!r}", BadSample):
            entries = self.source.read(key, view) if self.is_raw else {}
            sample = {address: key if address == KEY else entries[address] for address in raw}
        notes.update(getattr(entries, "notes", ()))
        for address, values in stored.items():
            if key not in values:
                raise BadSample(f"not in column {address.split('/')[0]!r}")
            sample[address] = values[key]
        return sample

    def _stored(self, shard: int, keys: Sequence[str], view: int) -> dict[str, Sample]:
        """Return one view of the fields of other columns: address -> key -> value."""
        with open_cache(self.cache) as cache:
            return {
                address: dict(cache.records(address, view=view, shards=[shard], keys=keys))
                for address in self.reads
                if "/" in address
            }
