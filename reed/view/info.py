"""reed-cache info: what a cache holds, how it is stored, what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reed.bytes import human
from reed.cache import account, plan, reader, schema, stats
from reed.cache.codecs import codecs
from reed.cache.origin import origin_of
from reed.cache.plan import Plan
from reed.cache.schema import Column, Field, Marker
from reed.errors import ReedError
from reed.store import mirror
from reed.view import shares
from reed.wording import classes_of, counted

FAILURES = 5  # how many are shown
INDICES = ("int32", "int64")  # codecs of data whose mean says nothing, such as neighbours


@dataclass(frozen=True)
class Summary:
    """The state of one column.

    Attributes:
        column: Its description.
        shards: Number of shards of the complete column.
        markers: Markers of the shards that are built.
    """

    column: Column
    shards: int
    markers: tuple[Marker, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every shard is built."""
        return len(self.markers) == self.shards

    @property
    def samples(self) -> int:
        """Number of samples in the built shards."""
        return sum(len(marker.keys) for marker in self.markers)

    @property
    def bytes(self) -> int:
        """Size of the built shards in bytes."""
        return sum(marker.bytes for marker in self.markers)

    @property
    def failed(self) -> dict[str, str]:
        """Reasons of the samples that were left out, by key."""
        return {key: why for marker in self.markers for key, why in marker.failed.items()}


def summary(cache: Path, frozen: Plan, name: str) -> Summary:
    """Return the state of a column; ReedError if its description is damaged."""
    column = schema.load_column(cache, name)
    shards = range(frozen.shards)
    built = [i for i in shards if schema.marker_path(cache, column, i).is_file()]
    markers = tuple(schema.load_marker(cache, column, shard) for shard in built)
    return Summary(column, frozen.shards, markers)


def lines(cache: Path) -> Iterator[str]:
    """Yield lines on the cache, then on every column and its fields; ReedError without a cache."""
    frozen = plan.load(cache)
    manifest = frozen.manifest
    yield (
        f"{mirror.shown(cache)}: pipeline {manifest.pipeline}, domain {manifest.domain}, "
        f"{counted(manifest.samples, 'sample')} in {counted(frozen.shards, 'shard')}"
    )

    first, *extensions = manifest.segments
    grown = "".join(f" + {count}" for count in extensions)
    extended = f" (extended {len(extensions)} x)" if extensions else ""
    yield (
        f"  source {manifest.source}, shards of {manifest.shard_size}, order seed "
        f"{manifest.order_seed}, views {manifest.views}, segments {first}{grown}{extended}"
    )
    if named := classes_of(manifest.classes):
        yield f"  classes {named}"
    # Older caches have no account; it is then empty.
    listed = account.load(cache)
    if listed.line:
        yield f"  {listed.line}"
    if listed.counted:
        yield f"  {listed.counts}"

    for name in schema.columns(cache):
        yield ""
        yield from _column(cache, summary(cache, frozen, name), manifest.classes)


def _column(cache: Path, summary: Summary, classes: Sequence[str]) -> Iterator[str]:
    column, markers, failed = summary.column, summary.markers, summary.failed
    state = "complete" if summary.is_complete else "INCOMPLETE"
    yield (
        f"{column.name}: {state}, {len(markers):,}/{counted(summary.shards, 'shard')}, "
        f"{counted(summary.samples, 'sample')}, {human(summary.bytes)}, {len(failed):,} failed"
    )
    licence = f", licence {column.licence}" if column.licence else ""
    yield f"  encoder {column.encoder}, reads {', '.join(column.reads)}{licence}"
    if column.made_from:
        pairs = (f"{place.partition('/')[2]}={codec}" for place, codec in column.made_from.items())
        yield f"  made from {origin_of(column)}: {', '.join(pairs)}"
    yield f"  revision {column.revision}"
    yield f"  container {column.container}, identity {column.identity()}"

    # A broken calibration must not hide the rest: this is where a user looks for the cause.
    try:
        kept = reader.load_state(cache, column)
    except ReedError as error:
        kept = {}
        yield f"  CALIBRATION BROKEN: {error}"
    if column.calibration:
        yield f"  calibration {column.calibration[:16]}"

    for field in column.fields:
        yield from _field(column, field, kept.get(field.name, {}).get("cosine"))
        symbols = shares.symbols_of(column, field, classes)
        if symbols is None:
            yield from _moments(field, markers)
        elif markers:
            built = [marker.shard for marker in markers]
            yield f"    {shares.line(cache, column, field, symbols, built)}"
    for key, reason in list(failed.items())[:FAILURES]:
        yield f"  left out {key!r}: {reason}"
    if len(failed) > FAILURES:
        more = len(failed) - FAILURES
        yield f"  … and {more:,} more {'was' if more == 1 else 'were'} left out"


def _field(column: Column, field: Field, cosine: np.ndarray | None) -> Iterator[str]:
    yield f"  {column.name}/{field.name}: {field.kind}, {shape(field.shape)}, {field.codec}"
    if (decoded := codecs.codec_of(field).decoded_shape(field)) != field.shape:
        yield f"    decodes to {shape(decoded)}"
    if cosine is not None:
        # A field that was copied keeps the cosine to what the encoder gave.
        is_recoded = any(place.partition("/")[2] == field.name for place in column.made_from)
        what = f"column {origin_of(column)}" if is_recoded else "the original"
        yield (
            f"    cosine to {what}, on the calibration records: "
            f"mean {cosine[0]:.6f}, worst {cosine[1]:.6f}"
        )


def _moments(field: Field, markers: tuple[Marker, ...]) -> Iterator[str]:
    """Yield mean and standard deviation of the values, unless they are indices."""
    if field.kind == "data" and field.codec in INDICES:
        return
    if found := stats.moments(m.stats[field.name] for m in markers if field.name in m.stats):
        mean, std = found
        yield f"    mean {_over(mean)}, std {_over(std)}"


def _over(channels: np.ndarray) -> str:
    """Return one number as text, or the mean and the range over the channels."""
    if len(channels) == 1:
        return f"{channels[0]:.4g}"
    return f"{channels.mean():.4g} (channels {channels.min():.4g} to {channels.max():.4g})"


def shape(lengths: tuple[int | None, ...]) -> str:
    """Return the shape of a sample as text: "3x32x32", "?x64" if a length varies, "one"."""
    return "x".join("?" if n is None else str(n) for n in lengths) or "one"
