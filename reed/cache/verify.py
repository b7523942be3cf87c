"""Checking a cache against its manifest; whatever a file holds, a finding is reported."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from reed.bytes import file_sha256
from reed.cache import account, origin, place, reader, schema
from reed.cache.codecs import codecs
from reed.cache.codecs.codecs import State
from reed.cache.codecs.finite import is_sound
from reed.cache.containers import tar
from reed.cache.plan import Plan
from reed.cache.schema import Column, Marker
from reed.errors import NoPermission, ReedError
from reed.store import mirror


@dataclass(frozen=True)
class Problem:
    """A finding; a missing shard is one, too.

    Attributes:
        where: The file or the column.
        what: What is wrong.
        column: Column to repair.
        shard: Shard to build again; None where the problem concerns the whole column.
        denied: Whether a file may not be read, so that nothing is known of its content.
    """

    where: str
    what: str
    column: str
    shard: int | None = None
    denied: bool = False


def names(cache: Path) -> list[str]:
    """Return the columns of a cache, and the folders that hold markers but no column.json."""
    orphans = {path.parent.name for path in cache.glob("*/[0-9]*.json")}
    return sorted(orphans | set(schema.columns(cache)))


def verify(
    cache: Path, plan: Plan, name: str, *, deep: bool = False, jobs: int = 1
) -> Iterator[Problem | None]:
    """Check one column, shard by shard.

    A shallow check covers presence, sizes, keys and the soundness of the markers.

    Args:
        cache: Folder of the cache.
        plan: Plan of the cache.
        name: Name of the column.
        deep: Also check the sha256 of every shard, that the headers agree with the marker, and that
            every value is finite.
        jobs: Number of threads.

    Yields:
        A problem, or None for a sound shard.
    """
    try:
        column = schema.load_column(cache, name)
    except ReedError as error:
        yield Problem(name, str(error), name, denied=isinstance(error, NoPermission))
        return

    if problem := _of_other_inputs(cache, column):
        yield Problem(name, problem, name)

    # Without its calibration a column cannot be decoded, but its shards can still be checked.
    state = None
    try:
        state = reader.load_state(cache, column)
    except ReedError as error:
        yield Problem(name, str(error), name, denied=isinstance(error, NoPermission))

    check = partial(_check, cache, plan, column, state, deep=deep)
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="reed-verify")
    try:
        yield from pool.map(check, range(plan.shards))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _of_other_inputs(cache: Path, column: Column) -> str:
    """Return which column this one was made from is not there any more; empty if all are.

    What a transcoded column was made from only says whether it can be made again, see
    `lost_origins`.
    """
    for name, identity in () if column.made_from else column.inputs.items():
        if name not in schema.columns(cache):  # removed, perhaps to save space
            continue
        try:
            now = schema.load_column(cache, name).identity()
        except ReedError:  # reported with that column
            continue
        if now != identity:
            return (
                f"it was made from another {name!r}: its identity was {identity}, now it is {now}"
            )
    return ""


def note(cache: Path, plan: Plan) -> str:
    """Return a line on what a cache planned by an older version may contain; empty for others."""
    if account.load(cache).reading >= account.READING:
        return ""
    risks = ["files that its source passed over in silence", "values that are read differently now"]
    if not plan.manifest.classes:
        grown = " (it was extended)" if len(plan.manifest.segments) > 1 else ""
        risks.insert(0, f"a list of classes that is not frozen, so an extension renumbers{grown}")
    return f"planned before sources kept an account: it may have {', '.join(risks)}"


def lost_origins(cache: Path) -> Iterator[str]:
    """Yield a line per transcoded column that could not be made again; it may itself be whole."""
    for name in schema.columns(cache):
        with contextlib.suppress(ReedError):  # a damaged description is a problem of its own
            if reason := origin.why_lost(cache, schema.load_column(cache, name)):
                yield f"column {name!r} cannot be repaired: {reason}"


def _check(
    cache: Path,
    plan: Plan,
    column: Column,
    state: dict[str, State] | None,
    shard: int,
    *,
    deep: bool,
) -> Problem | None:
    """Return the problem of one shard; None if it is sound."""
    denied = False
    try:
        marker = check_marker(cache, plan, column, shard)
        if deep:
            check_file(cache, plan, column, marker)
            if state is not None:
                _check_values(cache, column, marker, state, plan.manifest.views)
        return None
    except ReedError as error:
        message, denied = str(error), isinstance(error, NoPermission)
    except PermissionError as error:
        message, denied = f"no permission to enter the folder of {error.filename}", True
    except Exception as error:  # libraries raise any type for damaged files
        message = f"{type(error).__name__}: {error}".partition("\n")[0]

    # What may not be read may be sound, so it is told apart from what is damaged.
    path = schema.shard_path(cache, column, shard)
    return Problem(mirror.shown(path), message, column.name, shard, denied)


def check_marker(cache: Path, plan: Plan, column: Column, shard: int) -> Marker:
    """Return the marker of a shard that is in place, without reading the shard.

    Raises:
        ReedError: The marker or the shard is missing, or they do not fit the plan or each other.
    """
    path = schema.shard_path(cache, column, shard)
    marker = schema.load_marker(cache, column, shard)
    planned = plan.keys_of(shard)
    kept = tuple(key for key in planned if key not in marker.failed)
    if marker.keys != kept or not set(marker.failed) <= set(planned):
        raise ReedError(f"its {len(marker.keys)} keys are not the {len(kept)} planned")

    if (size := place.size_of(path, marker.bytes)) is None:
        raise ReedError("it is missing, but has a marker")
    if size != marker.bytes:
        raise ReedError(f"it has {size} bytes, its marker says {marker.bytes}")

    # Statistics and offsets are trusted later, so both are checked here.
    reader.check_index(marker, reader.parts_of(column.fields), plan.manifest.views)
    _check_stats(column, marker)
    return marker


def marker_in_place(cache: Path, plan: Plan, column: Column, shard: int) -> Marker | None:
    """Return the marker of a shard, or None where `check_marker` would raise an error.

    Raises:
        NoPermission: The marker may not be read; a build must not replace the shard for that.
    """
    try:
        return check_marker(cache, plan, column, shard)
    except NoPermission:
        raise
    except ReedError:
        return None


def check_file(cache: Path, plan: Plan, column: Column, marker: Marker) -> None:
    """Raise ReedError unless a shard has the sha256 and the headers that its marker states."""
    path = place.whole(schema.shard_path(cache, column, marker.shard), marker.sha256)
    if (digest := file_sha256(path)) != marker.sha256:
        raise ReedError(f"sha256 {digest[:12]}, its marker says {marker.sha256[:12]}")
    members, index = reader.CONTAINERS[column.container].scan(path, reader.parts_of(column.fields))
    views = range(plan.manifest.views)
    if members != [tar.member_key(key, view) for key in marker.keys for view in views]:
        raise ReedError("the names of its members are not those of the keys in its marker")
    differing = [name for name, entry in index.items() if entry != marker.parts[name]]
    if differing:
        raise ReedError(f"its marker has other offsets or lengths for {', '.join(differing)}")


def _check_stats(column: Column, marker: Marker) -> None:
    """Raise ReedError unless the marker has statistics of every numeric field."""
    wanted = {field.name: field for field in column.fields if field.kind not in ("text", "label")}
    if set(marker.stats) != set(wanted):
        raise ReedError(f"its marker has statistics of {sorted(marker.stats)}")
    for name, summary in marker.stats.items():
        if not isinstance(summary, dict) or not _is_summary(summary):
            raise ReedError(f"its marker has unsound statistics of field {name!r}")


def _is_summary(summary: dict[str, Any]) -> bool:
    """Whether a table has the form of `Stats.summary`."""
    count, first, second = (summary.get(name) for name in ("count", "sum", "sumsq"))
    if len(summary) != 3 or type(count) is not int or count < 0:
        return False
    if not isinstance(first, list) or not isinstance(second, list) or len(first) != len(second):
        return False
    return all(type(value) is float and math.isfinite(value) for value in (*first, *second))


def _check_values(
    cache: Path, column: Column, marker: Marker, state: dict[str, State], views: int
) -> None:
    """Decode every record: texts must be UTF-8, and numbers finite."""
    path = place.whole(schema.shard_path(cache, column, marker.shard), marker.sha256)
    parts = reader.parts_of(column.fields)
    opened = reader.CONTAINERS[column.container].Shard(path, marker.parts)
    with contextlib.closing(opened):
        for row in range(len(marker.keys) * views):
            arrays = reader.stored(opened.read, marker, parts, row)
            for name, value in reader.decode(column.fields, arrays, state).items():
                may_be_nan = column.field(name).codec == codecs.NAN
                if not isinstance(value, str) and not is_sound(value, may_be_nan):
                    key = marker.keys[row // views]
                    raise ReedError(f"field {name!r} of key {key!r} has values that are not finite")
