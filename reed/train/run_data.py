"""What a run has to know of the cache it was trained from, in the run's own folder."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reed import config
from reed.cache.files import write_atomic
from reed.cache.opened import Cache, open_cache
from reed.cache.schema import Column, Field
from reed.errors import ReedError, suggest

if TYPE_CHECKING:
    from reed.domains.base import Domain, Sized

NAME = "data.json"
SHOWN = 3  # keys in a line


@dataclass(frozen=True)
class Lacking:
    """Samples that a column lacks: how many, and the keys of the first."""

    count: int
    keys: tuple[str, ...]

    @property
    def first(self) -> str:
        """A few of the keys, for a line."""
        return ", ".join(self.keys[:SHOWN]) + (", …" if self.count > SHOWN else "")


@dataclass(frozen=True)
class RunData:
    """The content of data.json, with which a run is sampled where its cache is not.

    Attributes:
        domain: The kind of data, a name in DOMAINS.
        pipeline: The pipeline that the cache was built by.
        samples: Samples of the cache, before columns left any out.
        fields: Role -> the cached field.
        columns: The columns of these fields, by name, which name what decodes latents.
        lengths: Tokens -> how many samples have so many, for a domain that asks for them.
        classes: Names of the classes, by number; empty where the cache names none.
        left_out: Samples of the cache that are not trained on, because a column lacks them.
        lacking: Column -> the samples that it lacks, where there are any.
    """

    domain: str
    pipeline: str
    samples: int
    fields: dict[str, Field]
    columns: dict[str, Column]
    lengths: dict[str, int] = dataclasses.field(default_factory=dict)
    classes: tuple[str, ...] = ()
    left_out: int = 0
    lacking: dict[str, Lacking] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_cache(cls, cache: Cache, data: Mapping[str, str]) -> RunData:
        """What a cache says of the places (role -> "column/field") of a recipe.

        Raises:
            ReedError: A role that is missing or unknown, a column that is absent or incomplete.
        """
        made = _domain_class(cache.manifest.domain)
        _check_roles(made, data)
        found = {role: cache.column_and_field(place) for role, place in data.items()}
        lengths = None
        if issubclass(made, _sized()):
            lengths = cache.join(data).lengths
            if lengths is None:
                places = ", ".join(data.values())
                raise ReedError(f"the samples of {cache.folder} are all of one length: {places}")
        return cls(
            cache.manifest.domain,
            cache.manifest.pipeline,
            cache.manifest.samples,
            {role: field for role, (_, field) in found.items()},
            {column.name: column for column, _ in found.values()},
            {} if lengths is None else _counted(lengths.tolist()),
            cache.classes,
        )

    @classmethod
    def read(cls, run: Path) -> RunData | None:
        """The data.json of a run; None of a run that was made before there was one."""
        path = run / NAME
        return config.build(cls, config.read(path), str(path)) if path.is_file() else None

    @classmethod
    def of_run(cls, run: Path, shards: Path, data: Mapping[str, str]) -> RunData:
        """What a run's folder says, or its cache where the folder has no data.json."""
        if kept := cls.read(run):
            return kept
        with open_cache(shards) as cache:
            return cls.of_cache(cache, data)

    @property
    def said(self) -> str | None:
        """The samples that are not trained on, and why, in one line; None where there are none."""
        if not self.lacking:
            return None
        lacks = "; ".join(
            f"{name} lacks {each.count:,} ({each.first})" for name, each in self.lacking.items()
        )
        used = self.samples - self.left_out
        return f"trains on {used:,} of the cache's {self.samples:,} samples: {lacks}"

    def write(self, run: Path) -> None:
        """Write data.json, once: when it is there, what the net sees must still be the same.

        Raises:
            ReedError: A field has changed since the run began; it names the first difference.
        """
        theirs = RunData.read(run)
        if theirs is None:
            write_atomic(run / NAME, (json.dumps(config.plain(self), indent=1) + "\n").encode())
            return
        for place, old, new in config.differences(_seen(theirs), _seen(self), "fields"):
            raise ReedError(
                f"{run} was trained on {place} = {old!r}, the cache now has {new!r}; give --shards "
                "the cache that it was trained from, or choose another --run"
            )
        if theirs.lacking != self.lacking:  # failed samples may have been tried again
            now = dataclasses.replace(theirs, left_out=self.left_out, lacking=self.lacking)
            write_atomic(run / NAME, (json.dumps(config.plain(now), indent=1) + "\n").encode())

    def make_domain(self, settings: Mapping[str, Any]) -> Domain:
        """The domain with a recipe's settings; one that has `sized` is told the lengths."""
        domain = config.build(_domain_class(self.domain), settings, "domain")
        if not isinstance(domain, _sized()):
            return domain
        counts = sorted((int(length), count) for length, count in self.lengths.items())
        return domain.sized([length for length, count in counts for _ in range(count)])


def _sized() -> type[Sized]:
    from reed.domains.base import Sized  # here, as in _domain_class

    return Sized


def _domain_class(name: str) -> Any:
    from reed.domains.base import DOMAINS  # here, because it imports torch, and a page needs none

    made = DOMAINS.get(name)
    if not dataclasses.is_dataclass(made):
        raise ReedError(
            f"domain {name!r} is {made!r}, not a dataclass; write "
            "@dataclass(frozen=True) before it, its fields are its settings"
        )
    return made


def _check_roles(domain: Domain, data: Mapping[str, str]) -> None:
    for role in domain.roles:
        if role not in data:
            raise ReedError(f"data.{role} is missing: name the column/field that holds it")
    for role in data:
        if role not in domain.roles:
            raise ReedError(f"data.{role} is unknown.{suggest(role, domain.roles)}")


def _counted(lengths: list[int]) -> dict[str, int]:
    return {str(length): count for length, count in sorted(Counter(lengths).items())}


def _seen(data: RunData) -> dict[str, dict[str, Any]]:
    """What the net sees of every field: how it is stored makes no difference."""
    names = ("kind", "shape", "scale", "shift")
    fields = config.plain(data.fields)
    return {role: {name: field[name] for name in names} for role, field in fields.items()}
