"""A cache in lines of text: what it holds, how it is stored, what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reed.bytes import human
from reed.cache import account, plan, reader, schema
from reed.cache.codecs import codecs
from reed.cache.plan import Plan
from reed.cache.schema import Column, Field, Marker
from reed.errors import ReedError

FAILURES, CLASSES = 5, 12  # that are shown


@dataclass(frozen=True)
class Summary:
    """What there is of one column. shards: that it will have; markers: of those that are there."""

    column: Column
    shards: int
    markers: tuple[Marker, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every shard is there."""
        return len(self.markers) == self.shards

    @property
    def samples(self) -> int:
        """The samples that are there."""
        return sum(len(marker.keys) for marker in self.markers)

    @property
    def bytes(self) -> int:
        """What the files of the shards hold."""
        return sum(marker.bytes for marker in self.markers)

    @property
    def failed(self) -> dict[str, str]:
        """Key -> reason of the samples that were left out."""
        return {key: reason for each in self.markers for key, reason in each.failed.items()}


def summary(cache: Path, frozen: Plan, name: str) -> Summary:
    """What there is of the column called `name`; ReedError where its description is damaged."""
    column = schema.load_column(cache, name)
    shards = range(frozen.shards)
    there = [i for i in shards if schema.marker_path(cache, column, i).is_file()]
    markers = tuple(schema.load_marker(cache, column, shard) for shard in there)
    return Summary(column, frozen.shards, markers)


def lines(cache: Path) -> Iterator[str]:
    """The cache, then every column with its fields; ReedError where there is no cache."""
    frozen = plan.load(cache)
    manifest = frozen.manifest
    yield (
        f"{cache}: pipeline {manifest.pipeline}, domain {manifest.domain}, "
        f"{manifest.samples} samples in {frozen.shards} shards"
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
    noted = account.load(cache)
    if noted.line:
        yield f"  {noted.line}"
    if noted.counted:
        yield "  " + ", ".join(f"{what} {count}" for what, count in noted.counted.items())
    for name in schema.columns(cache):
        yield ""
        yield from _column(cache, summary(cache, frozen, name))


def classes_of(names: Sequence[str]) -> str | None:
    """The names of classes in short: "3: cat, dog, zebra"; None where there are none."""
    if not names:
        return None
    more = f", … {names[-1]}" if len(names) > CLASSES else ""
    return f"{len(names)}: {', '.join(names[:CLASSES])}{more}"


def _column(cache: Path, found: Summary) -> Iterator[str]:
    column, markers, failed = found.column, found.markers, found.failed
    state = "complete" if found.is_complete else "INCOMPLETE"
    yield (
        f"{column.name}: {state}, {len(markers)}/{found.shards} shards, "
        f"{found.samples} samples, {human(found.bytes)}, {len(failed)} failed"
    )
    licence = f", licence {column.licence}" if column.licence else ""
    yield f"  encoder {column.encoder}, reads {', '.join(column.reads)}{licence}"
    yield f"  revision {column.revision}"
    yield f"  container {column.container}, identity {column.identity()}"
    try:
        kept = reader.load_state(cache, column)
    except ReedError as error:
        kept = {}
        yield f"  CALIBRATION BROKEN: {error}"
    if column.calibration:
        yield f"  calibration {column.calibration[:16]}"
    for field in column.fields:
        yield from _field(column, field, kept.get(field.name, {}).get("cosine"), markers)
    for key, reason in list(failed.items())[:FAILURES]:
        yield f"  left out {key!r}: {reason}"
    if len(failed) > FAILURES:
        yield f"  … and {len(failed) - FAILURES} more were left out"


def _field(
    column: Column, field: Field, cosine: np.ndarray | None, markers: tuple[Marker, ...]
) -> Iterator[str]:
    yield f"  {column.name}/{field.name}: {field.kind}, {shape(field.shape)}, {field.codec}"
    if (decoded := codecs.codec_of(field).decoded_shape(field)) != field.shape:
        yield f"    decodes to {shape(decoded)}"
    if cosine is not None:
        yield (
            f"    cosine to the original, on the calibration records: "
            f"mean {cosine[0]:.6f}, worst {cosine[1]:.6f}"
        )
    found = [m.stats[field.name] for m in markers if m.stats.get(field.name, {}).get("count")]
    if found:
        count = sum(each["count"] for each in found)
        mean = np.sum([each["sum"] for each in found], axis=0) / count
        square = np.sum([each["sumsq"] for each in found], axis=0) / count
        std = np.sqrt(np.maximum(square - mean**2, 0))
        yield f"    mean {_over(mean)}, std {_over(std)}"


def _over(channels: np.ndarray) -> str:
    """One number, or the mean and the span over the channels."""
    if len(channels) == 1:
        return f"{channels[0]:.4g}"
    return f"{channels.mean():.4g} (channels {channels.min():.4g} to {channels.max():.4g})"


def shape(lengths: tuple[int | None, ...]) -> str:
    """The shape of one sample in short: 3x32x32, ?x64 where a length varies, one."""
    return "x".join("?" if n is None else str(n) for n in lengths) or "one"
