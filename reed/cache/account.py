"""What was found where the samples are and is none of them: the content of listing.json.

A cache without that file was planned before files that are passed over were counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reed import config
from reed.cache import files, schema, sealed

NAME = "listing.json"
READING = 2  # how sources read files; 1: some were passed over in silence, by their ending
KEPT, SHOWN = 100, 3  # names of one reason: in the file, in a line


@dataclass(frozen=True)
class Passed:
    """Files that were passed over for one reason: how many, and the names of the first."""

    count: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Account:
    """What a listing found. reading: READING of the package that planned the cache; passed: files
    and members that are no sample, by reason; counted: what the source counted meanwhile."""

    reading: int = 1
    passed: dict[str, Passed] = dataclasses.field(default_factory=dict)
    counted: dict[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, passed: Mapping[str, Sequence[str]], reading: int = READING) -> Account:
        """The account of what a listing passed over, reason -> names."""
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
        """All of it in one line, such as "passed over 12 files: 9 .heic (a.heic, …), …"; or ""."""
        total = sum(each.count for each in self.passed.values())
        if not total:
            return ""
        found = sorted(self.passed.items(), key=lambda item: (-item[1].count, item[0]))
        told = ", ".join(f"{each.count} {_said(reason)} ({_some(each)})" for reason, each in found)
        return f"passed over {total} {'file' if total == 1 else 'files'}: {told}"


def printable(name: str) -> str:
    """A name as it can be printed and stored: what is no text, and control signs, escaped."""
    return name if name.isprintable() else repr(name)[1:-1]


def load(cache: Path) -> Account:
    """The account of a cache; an empty one where it has none."""
    path = cache / NAME
    return config.build(Account, sealed.read(path), str(path)) if path.is_file() else Account()


def save(
    cache: Path,
    passed: Mapping[str, Sequence[str]],
    counted: Mapping[str, int],
    *,
    anew: bool,
) -> None:
    """Write what a listing passed over and counted, unless it is there.

    anew: whether the cache was planned with this listing; else it stays one of the READING by
    which it was planned.
    """
    reading = READING if anew else load(cache).reading
    found = dataclasses.replace(Account.of(passed, reading), counted=dict(counted))
    data, path = schema.dump(found), cache / NAME
    if not path.is_file() or path.read_bytes() != data:
        files.write_atomic(path, data)


def _said(reason: str) -> str:
    """A reason behind a number: "ending .heic" is ".heic"."""
    return "without ending" if reason == "no ending" else reason.removeprefix("ending ")


def _some(passed: Passed) -> str:
    more = ", …" if passed.count > SHOWN else ""
    return ", ".join(passed.names[:SHOWN]) + more
