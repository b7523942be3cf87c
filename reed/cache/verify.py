"""Is the cache what its manifest says? And what is in it?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reed.cache import codecs, reader, schema
from reed.cache.plan import Plan
from reed.cache.schema import Column, Marker
from reed.errors import ReedError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, and what. A missing shard is wrong too."""

    where: str
    what: str


@dataclass(frozen=True)
class Summary:
    """What a column holds: shards and samples in place, bytes, and what failed."""

    column: Column
    shards: int
    samples: int
    bytes: int
    failed: dict[str, str]


def summarise(cache: Path, plan: Plan, name: str) -> Summary:
    """The state of one column, from its markers."""
    column = schema.load_column(cache, name)
    markers = list(_markers(cache, plan, column))
    return Summary(
        column,
        len(markers),
        sum(len(marker.keys) for marker in markers),
        sum(marker.bytes for marker in markers),
        {key: reason for marker in markers for key, reason in marker.failed.items()},
    )


def _markers(cache: Path, plan: Plan, column: Column) -> Iterator[Marker]:
    for shard in range(plan.shards):
        if schema.marker_path(cache, column, shard).is_file():
            yield schema.load_marker(cache, column, shard)


def verify(cache: Path, plan: Plan, name: str, *, deep: bool = False) -> Iterator[Problem | None]:
    """Check one column, shard by shard: a Problem, or None where the shard is as it should be.

    Presence, sizes and key sets; with deep=True also the sha256 of every shard.
    """
    try:
        column = schema.load_column(cache, name)
    except ReedError as error:
        yield Problem(name, str(error))
        return
    try:
        reader.load_state(cache, column)
    except ReedError as error:
        yield Problem(name, str(error))
    for shard in range(plan.shards):
        yield _check_shard(cache, plan, column, shard, deep)


def _check_shard(cache: Path, plan: Plan, column: Column, shard: int, deep: bool) -> Problem | None:
    path = schema.shard_path(cache, column, shard)
    try:
        marker = schema.load_marker(cache, column, shard)
    except ReedError as error:
        return Problem(str(path), str(error))
    planned = plan.keys_of(shard)
    kept = tuple(key for key in planned if key not in marker.failed)
    if marker.keys != kept or not set(marker.failed) <= set(planned):
        return Problem(str(path), f"its {len(marker.keys)} keys are not the {len(kept)} planned")
    parts = {part.name for f in column.fields for part in codecs.codec_of(f).parts(f)}
    if set(marker.parts) != parts:
        return Problem(str(path), f"its marker has the parts {sorted(marker.parts)}")
    if not path.is_file():
        return Problem(str(path), "it is missing, but has a marker")
    if (size := path.stat().st_size) != marker.bytes:
        return Problem(str(path), f"it has {size} bytes, its marker says {marker.bytes}")
    if deep and (digest := schema.file_sha256(path)) != marker.sha256:
        return Problem(str(path), f"sha256 {digest[:12]}, its marker says {marker.sha256[:12]}")
    return None
