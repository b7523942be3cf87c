"""Opening a column for writing: described and calibrated once, compared with ever after."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from reed.build import shard as build
from reed.build.shard import Encoder, Job, Source
from reed.build.source import KEY
from reed.bytes import file_sha256
from reed.cache import files, reader, schema
from reed.cache.codecs import codecs
from reed.cache.codecs.codecs import State
from reed.cache.opened import open_cache
from reed.cache.plan import Plan
from reed.cache.plan import load as load_plan
from reed.cache.schema import Column
from reed.errors import ReedError, suggest

CALIBRATION = 256  # records: the first of the cache order, which is a random one
PAIR_STEP = 16  # of a pair field one token in so many: all of its neighbours are enough to keep


def with_inputs(
    cache: Path, names: Sequence[str], make: Callable[[str], Encoder]
) -> dict[str, Encoder]:
    """The encoders of some columns, and of what they read and the cache lacks; inputs first."""
    ordered: dict[str, Encoder] = {}

    def add(name: str, readers: tuple[str, ...]) -> None:
        if name in readers:
            circle = " -> ".join([*readers, name])
            raise ReedError(f"these encoders read one another in a circle: {circle}")
        if name in ordered:
            return
        encoder = make(name)
        for place in encoder.reads:
            column = place.split("/")[0]
            if "/" in place and (column in names or not _is_complete(cache, column)):
                add(column, (*readers, name))
        ordered[name] = encoder

    for name in names:
        add(name, ())
    return ordered


def _is_complete(cache: Path, name: str) -> bool:
    if name not in schema.columns(cache) or not (cache / "manifest.json").is_file():
        return False
    column = schema.load_column(cache, name)
    shards = range(load_plan(cache).shards)
    return all(schema.marker_path(cache, column, shard).is_file() for shard in shards)


def calibration_shards(planned: Plan) -> range:
    """The shards that hold the records on which columns are calibrated."""
    last = min(CALIBRATION, len(planned.keys)) - 1
    return range(planned.locate(last)[0] + 1)


def open_job(
    cache: Path,
    plan: Plan,
    name: str,
    encoder: Encoder,
    source: Source,
    codec_names: Mapping[str, str] | None = None,
    *,
    encoder_name: str = "",
    container: str = "",
    options: Mapping[str, Any] | None = None,
) -> Job:
    """The job that builds column `name` with a loaded encoder.

    codec_names: field -> codec, where it is not to be the encoder's own choice; encoder_name:
    what to find it by, where that is not the column's name; container: that of a new column
    ("tar" unless given); options: what the encoder was made with, to keep. Raises ReedError when
    the column is there already and was made in another way.
    """
    if not schema.is_column_name(name):
        raise ReedError(f"column name {name!r}: use letters, digits, '.', '_' and '-' only")
    _check_reads(cache, encoder, source, name)
    read = [place.split("/")[0] for place in encoder.reads if "/" in place]
    wanted = Column(
        name=name,
        encoder=encoder_name or name,
        revision=encoder.revision(),
        reads=encoder.reads,
        fields=encoder.fields,
        licence=encoder.licence,
        container=container or "tar",
        options=dict(options or {}),
        inputs={column: schema.load_column(cache, column).identity() for column in read},
    )
    wanted = schema.with_codec(wanted, dict(codec_names or {}))
    _check_parts(wanted)
    if wanted.container not in reader.CONTAINERS:
        hint = suggest(wanted.container, reader.CONTAINERS)
        raise ReedError(f"unknown container {wanted.container!r}.{hint}")
    if not (cache / name / "column.json").is_file():
        _create(Job(cache, plan, wanted, source, encoder, {f.name: {} for f in wanted.fields}))
    column = schema.load_column(cache, name)
    files.sweep(cache / name, {"column.json", "calibration.npz"})
    _compare(cache, column, wanted if container else replace(wanted, container=column.container))
    return Job(cache, plan, column, source, encoder, reader.load_state(cache, column))


def _check_reads(cache: Path, encoder: Encoder, source: Source, name: str) -> None:
    for place in encoder.reads:
        if "/" in place:
            with open_cache(cache) as opened:
                opened.column_and_field(place)
        else:
            check_entry(place, source, name)


def check_entry(place: str, source: Source, name: str) -> None:
    """ReedError when the source lacks an entry that column `name` reads."""
    if place != KEY and place not in source.entries:
        hint = suggest(place, source.entries)
        raise ReedError(f"encoder {name!r} reads {place!r}, which the source lacks.{hint}")


def _check_parts(column: Column) -> None:
    """Refuse two parts of one name (webdataset reads names in lower case)."""
    seen: set[str] = set()
    for part in reader.parts_of(column.fields):
        if part.name.lower() in seen:
            raise ReedError(f"column {column.name!r} stores two {part.name!r}; rename a field")
        seen.add(part.name.lower())


def _create(job: Job) -> None:
    """Write calibration.npz, where a codec needs one, then column.json; a racing writer wins.

    A build that died between the two leaves a calibration, which is good for an equal column only.
    """
    column, folder = job.column, job.cache / job.column.name
    state = _calibrate(job)
    if state:
        path, identity = folder / "calibration.npz", column.identity()
        if _made_for(path) != identity:
            file = io.BytesIO()
            arrays: dict[str, Any] = {"made_for": np.array(identity), **state}
            np.savez(file, **arrays)
            files.write_atomic(path, file.getvalue(), overwrite=path.is_file())
        column = schema.replace(column, calibration=file_sha256(path))
    files.write_atomic(folder / "column.json", schema.dump(column), overwrite=False)


def _made_for(path: Path) -> str:
    """The identity of the column that a calibration was made for; empty without a sound one."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return str(arrays["made_for"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return ""


def _calibrate(job: Job) -> State:
    """ "field/key" -> array of every codec that keeps something, from the first records."""
    needs = [f for f in job.column.fields if codecs.codec_of(f).needs_calibration]
    values: dict[str, list] = {field.name: [] for field in needs}
    if not needs:
        return {}
    chunks = (
        job.reading.chunk(shard, keys)
        for shard in calibration_shards(job.plan)
        for keys in job.cuts(shard)
    )
    found = build.encode_shard(job, chunks, {}, build.Timing(), build.new_tally(job))
    samples = (sample for records in found for _, views in records for sample in views)
    samples = (each for each in samples if _is_finite(each, values))
    steps = {field.name: PAIR_STEP if field.kind == "pair" else 1 for field in needs}
    for sample in islice(samples, CALIBRATION):
        for name, seen in values.items():
            seen.append(sample[name][:: steps[name]] if steps[name] > 1 else sample[name])
    if not values[needs[0].name]:
        raise ReedError(
            f"column {job.column.name!r}: no sample could be read to calibrate it, or none "
            "is finite"
        )
    state: State = {}
    for field in needs:
        try:
            kept = codecs.codec_of(field).calibrate(values[field.name])
        except ReedError as error:
            raise ReedError(f"column {job.column.name!r}, field {field.name!r}: {error}") from error
        state |= {f"{field.name}/{name}": array for name, array in kept.items()}
    return state


def _is_finite(sample: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether a sample can calibrate; one that cannot is left out when its shard is written."""
    with np.errstate(over="ignore"):
        return all(np.isfinite(np.asarray(sample[name], np.float32)).all() for name in names)


def _compare(cache: Path, column: Column, wanted: Column) -> None:
    for what in ("encoder", "revision", "reads", "fields", "inputs", "container"):
        have, want = getattr(column, what), getattr(wanted, what)
        if have != want:
            raise ReedError(
                f"{cache / column.name} was built with {what} {have!r}, now it is {want!r}; "
                "remove that folder to build it again, or keep both: --encoder OTHER-NAME=ENCODER"
            )
