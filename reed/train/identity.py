"""What tells the cache of a run from another one, wherever its folder is."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from reed import config
from reed.cache.opened import Cache


@dataclass(frozen=True)
class Identity:
    """What a run reads, wherever the folder of the cache is.

    Attributes:
        samples: Number of samples in the cache.
        views: Records per sample.
        classes: Names of the classes, by number.
        revisions: Revision of every column that the run reads.
        keys: The sha256 of all keys in the order of the cache; empty in runs of earlier versions.
    """

    samples: int = 0
    views: int = 1
    classes: tuple[str, ...] = ()
    revisions: dict[str, str] = dataclasses.field(default_factory=dict)
    keys: str = ""

    @classmethod
    def of(cls, cache: Cache, places: Iterable[str]) -> Identity:
        """Return the identity of a cache and of the columns of some places, "column/field"."""
        names = sorted({place.partition("/")[0] for place in places})
        return cls(
            cache.manifest.samples,
            cache.manifest.views,
            cache.classes,
            {name: cache.column(name).revision for name in names},
            hashlib.sha256("\n".join(cache.plan.keys).encode()).hexdigest(),
        )

    def differs(self, other: Identity) -> str:
        """Return the first difference to another identity, in words; empty if there is none.

        An identity of an earlier version has no keys, and nothing differs from it.
        """
        old, new = map(config.plain, (self, other))
        if not (old["keys"] and new["keys"]):
            return ""

        # Which columns are read is part of the recipe, which is compared elsewhere.
        shared = old["revisions"].keys() & new["revisions"].keys()
        for table in (old, new):
            table["revisions"] = {name: table["revisions"][name] for name in sorted(shared)}
        for name, was, now in config.differences(old, new, ""):
            return f"{name[1:]} = {was!r:.80}, now {now!r:.80}"
        return ""
