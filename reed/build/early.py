"""Checks of a build that need no encoded sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reed import weights
from reed.build.column import check_entry
from reed.build.shard import Downloads, Encoder, NeedsLibraries, ReadsFiles
from reed.build.source import Listing, Source
from reed.cache import plan
from reed.cache.opened import open_cache
from reed.cache.schema import Column
from reed.weights import Found, Origin


@dataclass(frozen=True)
class Weights:
    """The weights of a column's encoder.

    Attributes:
        origin: Where they come from, in words.
        found: The files; None if the encoder has no weights.
    """

    column: str
    origin: str = ""
    found: Found | None = None


def fetched(column: str, encoder: Encoder) -> Weights:
    """Return the weights of an encoder, downloaded unless a path was given."""
    if not isinstance(encoder, Downloads):
        return Weights(column)
    origin = f"{encoder.origin.repo} at {encoder.origin.revision}"
    given = f"given by {column}.weights"
    return Weights(column, given if encoder.weights else origin, encoder.prefetch())


def with_planned(cache: Path, listing: Listing) -> Listing:
    """Return the listing with what an earlier version planned and this one passes over.

    Such samples stay in the plan and fail, so that a cache of that version can still be built on.
    """
    if (cache / "manifest.json").is_file() and listing.passed:
        frozen, passed = plan.load(cache), {n for names in listing.passed.values() for n in names}
        for key, stamp in zip(frozen.keys, frozen.stamps, strict=True):
            if key in passed:
                listing.setdefault(key, stamp)
    return listing


def check_reads(cache: Path, source: Source, described: Mapping[str, Column]) -> None:
    """Raise ReedError for the first entry or field that a column reads and that will be missing.

    Args:
        cache: Folder of the cache.
        source: Source of the raw data.
        described: The columns that will be built, by name.
    """
    for name, column in described.items():
        for address in column.reads:
            owner, _, field = address.partition("/")
            if "/" not in address:
                check_entry(address, source, name)
            elif owner in described:
                described[owner].field(field)
            else:
                with open_cache(cache) as opened:
                    opened.column_and_field(address)


def open_files(name: str, encoder: Encoder, fetch: bool) -> Iterator[str]:
    """Open the files that an encoder reads; yield what to tell the user.

    Args:
        name: Name of the column.
        encoder: The encoder, not loaded.
        fetch: Whether to download weights that are not on this machine; otherwise a line says so.

    Raises:
        ReedError: Weights are missing or invalid, or a file cannot be read.
    """
    # A missing library is told before the weights, which may take long to come.
    if fetch and isinstance(encoder, NeedsLibraries):
        encoder.check_libraries()
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
    """Whether the weights are on a hub and not on this machine."""
    return bool(origin.repo) and not weights.is_here(origin, path)
