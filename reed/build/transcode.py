"""Transcoding: a new column with the values of another one in other codecs, without its encoder.

The values are those that the column gives, in the channels of its encoder, so what its codec lost
stays lost. Fields that keep their codec are copied as they are stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from reed.build import fitting
from reed.build.recode import Work, records, value_of, write
from reed.cache import files, origin, plan, reader, schema, verify
from reed.cache.codecs import codecs, components
from reed.cache.plan import Plan
from reed.cache.schema import Column, Marker
from reed.errors import ReedError
from reed.wording import counted

VERSION = "transcoded"  # part of the revision; change it with every change that alters the bytes


def default_name(source: str, chosen: Mapping[str, str]) -> str:
    """Return the name of the new column: "hog-pca16-int8" for pca:16+int8 of a field of "hog"."""
    words = (re.sub("[^a-z0-9]+", "-", codec.replace(":", "")) for codec in chosen.values())
    return "-".join([source, *dict.fromkeys(words)])


def transcode(
    cache: Path, source: str, chosen: Mapping[str, str], name: str = "", *, progress: bool = True
) -> Column:
    """Make a new column from another one of the same cache, or the shards that it lacks.

    Args:
        cache: Folder of the cache.
        source: Name of the existing column.
        chosen: Codec by field; the other fields keep theirs.
        name: Name of the new column; by default that of `default_name`.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        The description of the new column.

    Raises:
        ReedError: A codec does not suit its field, the source column is not complete or damaged, or
            another column has the name.
    """
    frozen, column = plan.load(cache), schema.load_column(cache, source)
    _check_choice(column, chosen)
    chosen = {f.name: chosen[f.name] for f in column.fields if f.name in chosen}
    wanted = _wanted(column, chosen, name or default_name(source, chosen))
    if not _is_there(cache, wanted):
        new, state = _calibrated(cache, frozen, column, wanted)
        fitting.describe(cache, new, state)
    return remake(cache, wanted.name, progress=progress)


def remake(cache: Path, name: str, *, progress: bool = True) -> Column:
    """Make the shards that a transcoded column lacks, from the column that it was made from.

    Raises:
        ReedError: That column is gone, is another one now, or lacks a shard that is needed.
    """
    frozen, column = plan.load(cache), schema.load_column(cache, name)
    check(cache, column)
    source = schema.load_column(cache, origin.origin_of(column))
    states = (reader.load_state(cache, each) for each in (source, column))
    work = Work(cache, frozen, source, next(states), column, next(states))

    # Only the shards that are missing need those of the other column.
    markers = [verify.marker_in_place(cache, frozen, column, i) for i in range(frozen.shards)]
    missing = [shard for shard, marker in enumerate(markers) if marker is None]
    _check_shards(cache, source, missing)
    lost = sum(_newly_failed(cache, source, marker) for marker in markers if marker)
    quiet = None if progress else True  # None: shown where there is a terminal
    for shard in tqdm(missing, column.name, unit="shard", disable=quiet):
        lost += write(work, shard, lost)
    return column


def check(cache: Path, column: Column) -> None:
    """Raise ReedError if a transcoded column cannot be made again."""
    if reason := origin.why_lost(cache, column):
        raise ReedError(
            f"column {column.name!r} of {cache} cannot be made again: {reason}; restore that "
            "column, or remove this one"
        )


def _newly_failed(cache: Path, source: Column, marker: Marker) -> int:
    """Return how many samples of a finished shard only the source column has."""
    if not marker.failed or not schema.marker_path(cache, source, marker.shard).is_file():
        return 0
    failed = schema.load_marker(cache, source, marker.shard, stats=False).failed
    return len(marker.failed.keys() - failed.keys())


def _check_choice(source: Column, chosen: Mapping[str, str]) -> None:
    """Raise ReedError for a field that the column lacks, or that has the codec already."""
    for field, codec in chosen.items():
        if source.field(field).codec == codec:
            raise ReedError(f"{source.name}/{field} is stored as {codec} already; choose another")


def _wanted(source: Column, chosen: Mapping[str, str], name: str) -> Column:
    """Return the description of the new column with the codecs that are asked for."""
    if not schema.is_column_name(name):
        raise ReedError(f"column name {name!r}: use letters, digits, '.', '_' and '-' only")

    # A decoder of latents compares the beginning of the revision, so it stays what it was.
    identity = source.identity()
    how = ", ".join(f"{field}={codec}" for field, codec in chosen.items())
    wanted = replace(
        schema.with_codec(source, dict(chosen)),
        name=name,
        revision=f"{source.revision} {VERSION} from {source.name} {identity}: {how}",
        inputs={source.name: identity},
        made_from={f"{source.name}/{field}": codec for field, codec in chosen.items()},
        calibration="",
    )
    for field in map(components.lowered, wanted.fields):
        codecs.codec_of(field)  # raises an error for a codec that does not suit the field
    return wanted


def _is_there(cache: Path, wanted: Column) -> bool:
    """Whether the column is described already; ReedError if it is another one."""
    path = cache / wanted.name / "column.json"
    if not path.is_file():
        return False
    found = schema.load_column(cache, wanted.name)
    if not found.made_from:
        raise ReedError(
            f"{cache} has a column {found.name!r} of the encoder {found.encoder!r}; call the new "
            "one by another name: --name"
        )
    if (found.revision, found.made_from) == (wanted.revision, wanted.made_from):
        return True

    # As in a build, what has no shard binds nothing.
    if schema.has_shards(cache, wanted.name):
        raise ReedError(
            f"{cache / wanted.name} was made with revision {found.revision!r}, now it is "
            f"{wanted.revision!r}; remove that folder, or keep both: --name OTHER"
        )
    files.delete(path)
    return False


def _check_shards(cache: Path, source: Column, shards: list[int]) -> None:
    """Raise ReedError unless the source column has some shards."""
    lacking = [i for i in shards if not schema.marker_path(cache, source, i).is_file()]
    if lacking:
        raise ReedError(
            f"column {source.name!r} of {cache} lacks {counted(len(lacking), 'shard')} (first: "
            f"{lacking[0]}); complete it with reed-cache build, then rerun"
        )


def _calibrated(
    cache: Path, frozen: Plan, source: Column, wanted: Column
) -> tuple[Column, dict[str, np.ndarray]]:
    """Return the description of the new column and its calibration, as in calibration.npz."""
    new = replace(wanted, fields=tuple(map(components.lowered, wanted.fields)))
    state = reader.load_state(cache, source)
    changed = {address.partition("/")[2] for address in wanted.made_from}
    kept = [field.name for field in source.fields if field.name not in changed]
    copied = {f"{name}/{entry}": a for name in kept for entry, a in state[name].items()}

    # The new codecs are calibrated on the records on which a build would calibrate them.
    needs = [field for field in fitting.needing(new) if field.name in changed]
    if needs:
        shards = list(fitting.calibration_shards(frozen))
        _check_shards(cache, source, shards)
        work = Work(cache, frozen, source, state, wanted, {})
        samples = (
            {field.name: value_of(work, field.name, arrays) for field in needs}
            for shard in shards
            for _, views in records(work, schema.load_marker(cache, source, shard))
            for arrays in views
        )
        values = fitting.first_values(needs, samples)
        if not values[needs[0].name]:
            problem = "has no sample whose values are finite, to calibrate the new codec on"
            raise ReedError(f"column {source.name!r} of {cache} {problem}")
        new, fitted = fitting.fit(new, values, wanted)
        copied |= fitted
    return new, copied
