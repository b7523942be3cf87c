"""Mending a cache: removing damaged shards, so that they are built again, and restoring markers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from reed.bytes import file_sha256
from reed.cache import files, place, reader, schema
from reed.cache.codecs import codecs
from reed.cache.codecs.codecs import State
from reed.cache.containers import tar
from reed.cache.plan import Plan
from reed.cache.schema import Column, Marker
from reed.cache.stats import Stats
from reed.cache.verify import Problem
from reed.errors import ReedError
from reed.wording import counted

ABSENT = "not in the shard (reindexed)"


def repair(cache: Path, problems: Iterable[Problem]) -> dict[str, list[int]]:
    """Remove the shards that have a problem, markers first, so that a build makes only these.

    Problems of a whole column are left to the caller: its description and its calibration determine
    every shard.

    Args:
        cache: Folder of the cache.
        problems: The problems that `reed.cache.verify.verify` found.

    Returns:
        The removed shards by column.
    """
    dropped: dict[str, list[int]] = {}
    for problem in problems:
        if problem.shard is not None:
            column = schema.load_column(cache, problem.column)
            for path_of in (schema.marker_path, schema.shard_path):
                files.delete(path_of(cache, column, problem.shard))
            dropped.setdefault(problem.column, []).append(problem.shard)
    return dropped


def refuse_denied(cache: Path, problems: Iterable[Problem]) -> None:
    """Raise ReedError if a file may not be read, because it is then not known to be bad."""
    denied = [problem for problem in problems if problem.denied]
    if denied:
        raise ReedError(
            f"{counted(len(denied), 'file')} of {cache} may not be read, so nothing was removed: "
            f"{denied[0].what}"
        )


def readers_of(cache: Path, names: Iterable[str]) -> list[str]:
    """Return the columns that were made from some columns, or from one that was made from them."""
    known = [schema.load_column(cache, name) for name in schema.columns(cache)]
    found = set(names)
    while more := {c.name for c in known if found & set(c.inputs)} - found:
        found |= more
    return sorted(found - set(names))


def markers(cache: Path, problems: Iterable[Problem]) -> dict[tuple[str, int], Marker | None]:
    """Return the marker of every shard that has a problem; None if it cannot be read."""
    found: dict[tuple[str, int], Marker | None] = {}
    for problem in problems:
        if problem.shard is not None:
            column = schema.load_column(cache, problem.column)
            try:
                found[column.name, problem.shard] = schema.load_marker(cache, column, problem.shard)
            except ReedError:
                found[column.name, problem.shard] = None
    return found


def has_changed(before: Marker | None, after: Marker, *, unknown: bool) -> bool:
    """Whether a shard that was built again has other values than the one that it replaces.

    Args:
        before: The marker of the shard that was replaced; None if it could not be read.
        after: The marker of the new shard.
        unknown: The answer if there is no marker to compare with.
    """
    if before is None:
        return unknown
    # A container may write equal values in another way, but the statistics are then the same.
    same = before.stats and (before.stats, before.keys) == (after.stats, after.keys)
    return before.sha256 != after.sha256 and not same


def reindex(cache: Path, plan: Plan, name: str) -> Iterator[Marker]:
    """Write the markers that a column lacks, from the headers of its shards.

    Samples of the plan that are not in a shard count as failed; statistics are those of the decoded
    values.

    Yields:
        Each marker that was written.

    Raises:
        ReedError: A shard does not belong to this column and plan.
    """
    column = schema.load_column(cache, name)
    state = reader.load_state(cache, column)
    for shard in range(plan.shards):
        path = schema.marker_path(cache, column, shard)
        if not path.exists() and _has(cache, column, shard):
            marker = _remake(cache, plan, column, state, shard)
            files.write_atomic(path, schema.dump(marker))
            yield marker


def _has(cache: Path, column: Column, shard: int) -> bool:
    """Whether the file of a shard is there."""
    return place.size_of(schema.shard_path(cache, column, shard)) is not None


def _remake(cache: Path, plan: Plan, column: Column, state: dict[str, State], shard: int) -> Marker:
    """Return the marker of a shard, made from its headers and its decoded values."""
    path = place.whole(schema.shard_path(cache, column, shard))
    parts, views = reader.parts_of(column.fields), range(plan.manifest.views)
    members, index = reader.CONTAINERS[column.container].scan(path, parts)

    # Member names are shortened keys, so they are compared with the names of the planned keys.
    planned, present = plan.keys_of(shard), set(members)
    keys = tuple(key for key in planned if tar.member_key(key) in present)
    expected = [tar.member_key(key, view) for key in keys for view in views]
    if members != expected:
        odd = next((m for m in members if m not in expected), "another order or number")
        raise ReedError(f"{path} holds {odd!r}, which the plan does not have in shard {shard}")

    marker = Marker(
        column=column.name,
        shard=shard,
        keys=keys,
        failed={key: ABSENT for key in planned if key not in set(keys)},
        bytes=path.stat().st_size,
        sha256=file_sha256(path),
        parts=index,
        stats={},
    )
    return schema.replace(marker, stats=stats_of(path, column, marker, state, len(members)))


def stats_of(
    path: Path, column: Column, marker: Marker, state: dict[str, State], records: int
) -> dict:
    """Return the statistics of the stored values; they are exact where the codec is lossless."""
    fields = [field for field in column.fields if field.kind not in ("text", "label")]
    parts = [part for field in fields for part in codecs.codec_of(field).parts(field)]
    running = {field.name: Stats(field) for field in fields}
    opened = reader.CONTAINERS[column.container].Shard(path, marker.parts)
    with contextlib.closing(opened):
        for row in range(records):
            arrays = reader.stored(opened.read, marker, parts, row)
            values = reader.decode(fields, arrays, state)
            for field in fields:
                codec = codecs.codec_of(field)
                running[field.name].add(codec.restore(values[field.name], state[field.name]))
    return {name: stats.summary() for name, stats in running.items()}
