"""Sources, which read raw data sets, and what they list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from reed.build.seen import Seen
from reed.cache import key_lists
from reed.cache.account import Account
from reed.errors import ReedError, placed

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

    A source that computes entries, with a library whose results change from version to version,
    says so in a method ``computed_by``, see `reed.build.computed`.

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

        Each entry that a column reads is accessed once, others never, so the mapping may compute
        them on access. If it has an attribute ``notes``, a list of texts such as "alpha
        dropped", a build says of how many samples it noted which.

        Raises:
            BadSample: The sample cannot be read; the message is the reason.
        """
        ...


@runtime_checkable
class Remembers(Protocol):
    """The additional method of a source whose listing parses files."""

    def list_with(self, seen: Seen) -> Listing:
        """Return the listing; files that are remembered are not parsed."""
        ...


UNFIT = "name is no text"  # the reason for a file whose name a list of keys cannot hold


def listed(source: Source, seen: Seen | None = None) -> Listing:
    """Return the listing of a source; keys that a list of keys cannot hold are passed over.

    Args:
        source: The source.
        seen: What was found in its files before, for a source that remembers it.
    """
    remembers = seen is not None and isinstance(source, Remembers)
    with placed("the listing of the source"):
        stamps = source.list_with(seen) if remembers else source.listing()
    if not isinstance(stamps, Mapping):
        kind = type(stamps).__name__
        raise ReedError(f"the source lists a value of type {kind}; return {{key: stamp}}")
    listing = stamps if isinstance(stamps, Listing) else Listing(stamps)
    unfit = key_lists.unfit(listing)
    if not unfit:
        return listing
    kept = {key: stamp for key, stamp in listing.items() if key not in unfit}
    passed = listing.passed | {UNFIT: tuple(unfit)}
    return Listing(kept, passed, listing.classes, listing.counts, listing.examples)
