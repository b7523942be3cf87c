"""What can be found out of a build before its first sample is encoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from reed import weights
from reed.build.column import check_entry
from reed.build.shard import Downloads, Encoder, ReadsFiles
from reed.build.source import Source
from reed.cache.opened import open_cache
from reed.cache.schema import Column
from reed.weights import Origin


def check_reads(cache: Path, source: Source, described: Mapping[str, Column]) -> None:
    """ReedError for the first entry or field that a column reads and that will not be there.

    described: the columns that will be built, by name.
    """
    for name, column in described.items():
        for place in column.reads:
            owner, _, field = place.partition("/")
            if "/" not in place:
                check_entry(place, source, name)
            elif owner in described:
                described[owner].field(field)
            else:
                with open_cache(cache) as opened:
                    opened.column_and_field(place)


def open_files(name: str, encoder: Encoder, fetch: bool) -> Iterator[str]:
    """Open what an encoder reads from disk; yields what is to be said of column `name`.

    ReedError for weights that are not found or are none, and for a file that cannot be read.
    fetch: download weights that are not on this machine, rather than say so.
    """
    if isinstance(encoder, ReadsFiles):
        encoder.check_files()
    elif not isinstance(encoder, Downloads):
        encoder.revision()
    elif not fetch and _must_be_fetched(encoder.origin, encoder.weights):
        yield f"{name}: its weights are not on this machine; a build fetches them"
    else:
        for path in encoder.prefetch().files:
            weights.check(path)


def _must_be_fetched(origin: Origin, path: str | None) -> bool:
    """Whether a hub has the weights and this machine does not."""
    return bool(origin.repo) and not weights.is_here(origin, path)
