"""Checks of a build that need no encoded sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from reed import weights
from reed.build.column import check_entry
from reed.build.fitting import CALIBRATION, lowered_line
from reed.build.shard import Downloads, Encoder, NeedsLibraries, ReadsFiles
from reed.build.source import Listing, Source
from reed.cache import plan, schema
from reed.cache.codecs import codecs, components
from reed.cache.opened import open_cache
from reed.cache.plan import Plan
from reed.cache.schema import Column
from reed.errors import ReedError
from reed.weights import Found, Origin
from reed.wording import counted


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


@runtime_checkable
class NeedsSettings(Protocol):
    """The additional attribute of an encoder that takes samples of one form only."""

    @property
    def source_settings(self) -> Mapping[str, Any]:
        """Settings of the source that make samples of this form; settings of this encoder, too."""
        ...


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


def check_settings(
    cache: Path, name_of_source: str, encoders: Mapping[str, Encoder], source: Source
) -> None:
    """Raise ReedError if a setting of the source makes samples that an encoder does not take.

    Args:
        cache: Folder of the cache. If it has another source, planning refuses it for that reason.
        name_of_source: Registry name of the source.
        encoders: The encoders by column, not loaded.
        source: Source of the raw data.
    """
    is_planned = (cache / "manifest.json").is_file()
    if is_planned and schema.load_manifest(cache).source != name_of_source:
        return

    for name, encoder in encoders.items():
        wanted = encoder.source_settings if isinstance(encoder, NeedsSettings) else {}
        for setting, value in wanted.items():
            made = getattr(source, setting, value)
            if made != value:
                raise ReedError(
                    f"column {name!r} takes samples of {setting} {value}, source.{setting} is "
                    f"{made}: give both one, --set {name}.{setting}={made} or "
                    f"--set source.{setting}={value}"
                )


def lowered(
    cache: Path, planned: Plan, described: Mapping[str, Column]
) -> tuple[dict[str, Column], list[str]]:
    """Return the columns as they can be calibrated, and a line per codec that keeps less.

    Fields whose number of vectors per sample is not known yet are looked at when they are encoded.

    Args:
        cache: Folder of the cache.
        planned: The plan, which need not be frozen.
        described: The columns that will be built, by name.

    Raises:
        ReedError: A codec is fitted to more samples than there are.
    """
    records = min(CALIBRATION, len(planned.keys) * planned.manifest.views)
    columns, lines = dict(described), []

    # An existing column is calibrated already.
    for name, column in described.items():
        for field in () if name in schema.columns(cache) else column.fields:
            lengths = [n for n in field.shape[:-1] if n is not None]
            is_known = len(lengths) == len(field.shape[:-1]) and field.kind != "pair"
            vectors = records * prod(lengths) if is_known else None
            fitted = components.lowered(field, vectors)
            if vectors is not None and codecs.codec_of(fitted).fewest > vectors:
                have = f"from {counted(len(planned.keys), 'sample')} come {vectors:,}"
                raise ReedError(
                    f"column {name!r}, field {field.name!r}: the codec {field.codec} is fitted to "
                    f"at least 2 vectors, {have}; add samples, or choose --codec "
                    f"{name}/{field.name}=float16"
                )
            if fitted != field and vectors is not None:
                lines.append(lowered_line(name, fitted, field.codec, vectors))
            columns[name] = schema.with_codec(columns[name], {field.name: fitted.codec})
    return columns, lines


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
