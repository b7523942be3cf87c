"""One shard of a transcoded column: read as it is stored, decoded, encoded, written, marked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.tally import share_of
from reed.cache import files, mend, place, reader, schema, verify
from reed.cache.codecs import codecs
from reed.cache.codecs.codecs import State
from reed.cache.containers import tar
from reed.cache.plan import Plan
from reed.cache.schema import Column, Marker
from reed.cache.stats import Stats
from reed.errors import ReedError
from reed.wording import counted

Views = list[dict[str, np.ndarray]]  # the stored parts of every view of a sample


@dataclass(frozen=True)
class Work:
    """A column that is transcoded from another one, with the calibration of both by field."""

    cache: Path
    plan: Plan
    source: Column
    source_state: dict[str, State]
    column: Column
    state: dict[str, State]

    @property
    def changed(self) -> list[str]:
        """Return the fields with another codec."""
        return [address.partition("/")[2] for address in self.column.made_from]


def records(work: Work, marker: Marker) -> Iterator[tuple[str, Views]]:
    """Yield the samples of a shard of the source column as they are stored."""
    views, parts = work.plan.manifest.views, reader.parts_of(work.source.fields)
    path = place.whole(schema.shard_path(work.cache, work.source, marker.shard), marker.sha256)
    opened = reader.CONTAINERS[work.source.container].Shard(path, marker.parts)
    with contextlib.closing(opened):
        for row, key in enumerate(marker.keys):
            places = range(row * views, (row + 1) * views)
            yield key, [reader.stored(opened.read, marker, parts, place) for place in places]


def value_of(work: Work, name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the value of a field of the source column, in the channels of its encoder."""
    field, state = work.source.field(name), work.source_state
    value = reader.decode([field], arrays, state)[name]
    return codecs.codec_of(field).restore(value, state[name])


def write(work: Work, shard: int, lost: int) -> int:
    """Put one shard of the new column in place, then its marker.

    Args:
        work: The column.
        shard: Number of the shard.
        lost: Samples of other shards whose values the new codecs cannot store.

    Returns:
        The number of such samples in this shard.
    """
    marker = _sound_marker(work, shard)
    failed: dict[str, str] = {}
    stats = {
        field.name: Stats(field)
        for field in work.column.fields
        if field.name in work.changed and field.kind not in ("text", "label")
    }

    def members() -> Iterator[tuple[str, list[Any]]]:
        for key, views in records(work, marker):
            try:
                recoded = [_recoded(work, arrays) for arrays in views]
            except ReedError as error:
                failed[key] = str(error)
                continue
            for view, (parts, values) in enumerate(recoded):
                for name, running in stats.items():
                    running.add(values[name])
                yield tar.member_key(key, view), parts

    path = schema.shard_path(work.cache, work.column, shard)
    with files.new_file(path) as temp:
        container = reader.CONTAINERS[work.column.container]
        index = container.write(temp, reader.parts_of(work.column.fields), members())
        _check_lost(work, failed, lost)
    keys = tuple(key for key in marker.keys if key not in failed)
    new = Marker(work.column.name, shard, keys, marker.failed | failed, stats=marker.stats, **index)

    # The sums of the source no longer hold for a field that is copied, if a sample is left out.
    if failed:
        count = len(keys) * work.plan.manifest.views
        file = place.whole(path, new.sha256)
        new = replace(new, stats=mend.stats_of(file, work.column, new, work.state, count))
    sums = new.stats | {name: running.summary() for name, running in stats.items()}
    new = replace(new, stats=sums)
    files.write_atomic(schema.marker_path(work.cache, work.column, shard), schema.dump(new))
    return len(failed)


def _sound_marker(work: Work, shard: int) -> Marker:
    """Return the marker of a shard of the source column, after checking every byte of the shard."""
    cache, source = work.cache, work.source
    try:
        marker = verify.check_marker(cache, work.plan, source, shard)
        verify.check_file(cache, work.plan, source, marker)
    except ReedError as error:
        path = schema.shard_path(cache, source, shard)
        raise ReedError(f"{path}: {error}; run reed-cache repair {cache}") from error
    return marker


def _recoded(work: Work, arrays: Mapping[str, np.ndarray]) -> tuple[list[Any], dict[str, Any]]:
    """Return the parts of one record of the new column, and the values of its changed fields."""
    parts: list[Any] = []
    values: dict[str, Any] = {}
    for field in work.column.fields:
        codec = codecs.codec_of(field)
        if field.name not in work.changed:
            kept = [arrays[part.name] for part in codec.parts(field)]
            parts += [a.tobytes() for a in kept] if field.kind == "text" else kept
            continue

        # What a codec cannot store leaves the sample out, as in a build.
        values[field.name] = value_of(work, field.name, arrays)
        try:
            parts += codec.encode(values[field.name], work.state[field.name])
        except ReedError as error:
            raise ReedError(f"field {field.name!r} {error}") from error
    return parts, values


def _check_lost(work: Work, failed: Mapping[str, str], lost: int) -> None:
    """Raise ReedError if more samples cannot be stored than may fail in a column."""
    allowed, planned = work.plan.manifest.max_failed, len(work.plan.keys)
    count = lost + len(failed)
    if failed and (count > max(1, share_of(planned, allowed)) or count == planned):
        key, reason = next(iter(failed.items()))
        raise ReedError(
            f"column {work.column.name!r}: {counted(count, 'sample')} of {work.source.name!r} "
            f"cannot be stored, more than {100 * allowed:g} % of the {planned:,} planned ({key!r}: "
            f"{reason}); choose another --codec, and remove {work.cache / work.column.name}"
        )
