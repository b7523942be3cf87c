"""The files that a source passed over, and what it counted: the content of listing.json.

A cache without that file was planned before files that are passed over were counted.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reed import config
from reed.cache import files, schema, sealed
from reed.wording import counted, named

NAME = "listing.json"
READING = 2  # how sources read files; 1: some passed files over silently, by their ending
KEPT = 100  # names per reason


@dataclass(frozen=True)
class Passed:
    """Files that were passed over for one reason.

    Attributes:
        count: Number of the files.
        names: Names of the first ones, at most ``KEPT``.
    """

    count: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Account:
    """The result of a listing besides its samples.

    Attributes:
        reading: ``READING`` of the version that planned the cache.
        passed: Files and members that are not samples, by reason.
        counted: Counts of the source, by what was counted.
        examples: The first keys of what was counted, at most ``KEPT``, where these are named.
    """

    reading: int = 1
    passed: dict[str, Passed] = dataclasses.field(default_factory=dict)
    counted: dict[str, int] = dataclasses.field(default_factory=dict)
    examples: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, passed: Mapping[str, Sequence[str]], reading: int = READING) -> Account:
        """Return the account of a listing that passed over these names, by reason."""
        return cls(
            reading,
            {
                reason: Passed(len(names), tuple(map(printable, names[:KEPT])))
                for reason, names in passed.items()
                if names
            },
        )

    @property
    def line(self) -> str:
        """Return "passed over 12 files: 9 .heic (a.heic, …), …", say; empty if there are none."""
        total = sum(passed.count for passed in self.passed.values())
        if not total:
            return ""
        ordered = sorted(self.passed.items(), key=lambda item: (-item[1].count, item[0]))
        groups = ", ".join(
            f"{p.count:,} {_short(reason)} ({named(p.names, p.count)})" for reason, p in ordered
        )
        return f"passed over {counted(total, 'file')}: {groups}"

    @property
    def counts(self) -> str:
        """Return "letters: 12 standard, 1 X; left out: 1 impossible coordinates (a.sdf/3)", say."""
        groups: dict[str, list[str]] = {}
        for what, count in self.counted.items():
            keys = self.examples.get(what, ())
            kind, _, reason = what.partition(": ")
            told = f"{count:,} {reason}".rstrip() + (f" ({named(keys, count)})" if keys else "")
            groups.setdefault(kind, []).append(told)
        return "; ".join(f"{kind}: {', '.join(told)}" for kind, told in groups.items())


def instead(listing: Any) -> str:
    """Return what a listing without samples found, as the end of a message."""
    told = Account.of(getattr(listing, "passed", {}))
    counts = dataclasses.replace(told, counted=dict(getattr(listing, "counts", {}))).counts
    found = "; ".join(filter(None, (told.line, counts)))
    return f": {found}" if found else ": nothing to build"


def printable(name: str) -> str:
    """Return a name that can be printed and stored: invalid text and control characters escaped."""
    return name if name.isprintable() else repr(name)[1:-1]


def load(cache: Path) -> Account:
    """Return the account of a cache; an empty one if it has no listing.json."""
    path = cache / NAME
    return config.build(Account, sealed.read(path), str(path)) if path.is_file() else Account()


def save(
    cache: Path,
    passed: Mapping[str, Sequence[str]],
    counts: Mapping[str, int],
    examples: Mapping[str, Sequence[str]],
    *,
    anew: bool,
) -> None:
    """Write listing.json, unless it has this content already.

    Args:
        cache: Folder of the cache.
        passed: Names of files that were passed over, by reason.
        counts: Counts of the source.
        examples: The first keys of what was counted.
        anew: Whether the cache is planned with this listing; otherwise the file keeps the reading
            with which the cache was planned.
    """
    reading = READING if anew else load(cache).reading
    kept = {what: tuple(map(printable, keys[:KEPT])) for what, keys in examples.items()}
    listing = dataclasses.replace(Account.of(passed, reading), counted=dict(counts), examples=kept)
    data, path = schema.dump(listing), cache / NAME
    if not path.is_file() or path.read_bytes() != data:
        files.write_atomic(path, data)


def by_ending(name: str) -> str:
    """Return the reason for passing over a file that its ending shows to be no sample."""
    ending = os.path.splitext(name)[1].lower()
    return f"ending {ending}" if ending else "no ending"


def _short(reason: str) -> str:
    """Return a reason as it follows a number: "ending .heic" becomes ".heic"."""
    return "without ending" if reason == "no ending" else reason.removeprefix("ending ")
