"""Opening a column for writing: described and calibrated by the first build, then compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from reed.build import calibrate, computed, fitting
from reed.build.shard import Encoder, Job, Source
from reed.build.shared import SharedReader
from reed.build.source import KEY
from reed.cache import files, schema
from reed.cache.calibration import load_state
from reed.cache.codecs import components
from reed.cache.opened import open_cache
from reed.cache.plan import Plan
from reed.cache.plan import load as load_plan
from reed.cache.reader import CONTAINERS, parts_of
from reed.cache.schema import Column
from reed.errors import ReedError, suggest


class Reads(Protocol):
    """What makes a column out of other columns: an encoder, or a transcoding."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Source entries ("pixels"), fields of other columns ("describe/caption"), and "key"."""
        ...


Maker = TypeVar("Maker", bound=Reads)


def with_inputs(
    cache: Path, names: Sequence[str], make: Callable[[str], Maker]
) -> dict[str, Maker]:
    """Return the encoders of some columns and of the columns that they read, inputs first.

    Args:
        cache: Folder of the cache; columns that are complete there are not added.
        names: Names of the columns.
        make: Function that makes the encoder of a column, or another maker of it.

    Raises:
        ReedError: Encoders read one another in a circle.
    """
    ordered: dict[str, Maker] = {}

    def add(name: str, readers: tuple[str, ...]) -> None:
        if name in readers:
            circle = " -> ".join([*readers, name])
            raise ReedError(f"these encoders read one another in a circle: {circle}")
        if name in ordered:
            return

        # A column is added after its inputs, so that a build in this order finds them complete.
        encoder = make(name)
        for address in encoder.reads:
            column = address.split("/")[0]
            if "/" in address and (column in names or not _is_complete(cache, column)):
                add(column, (*readers, name))
        ordered[name] = encoder

    for name in names:
        add(name, ())
    return ordered


def _is_complete(cache: Path, name: str) -> bool:
    """Whether every shard of a column has its marker."""
    if name not in schema.columns(cache) or not (cache / "manifest.json").is_file():
        return False
    column = schema.load_column(cache, name)
    shards = range(load_plan(cache).shards)
    return all(schema.marker_path(cache, column, shard).is_file() for shard in shards)


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
    reader: SharedReader | None = None,
    progress: bool = False,
) -> Job:
    """Return the job that builds a column with a loaded encoder.

    Args:
        cache: Folder of the cache.
        plan: Plan of the cache.
        name: Name of the column.
        encoder: The loaded encoder.
        source: Source of the raw data.
        codec_names: Field -> codec, where it is not the encoder's own choice.
        encoder_name: Registry name of the encoder; by default the name of the column.
        container: Container of a new column; by default "tar".
        options: Settings of the encoder, to be recorded.
        reader: The reader that several columns share; by default the source is read here.
        progress: Whether calibration shows a bar.

    Raises:
        ReedError: The column was built in another way before, or something that it reads is
            missing.
    """
    if not schema.is_column_name(name):
        raise ReedError(f"column name {name!r}: use letters, digits, '.', '_' and '-' only")
    _check_reads(cache, encoder, source, name)
    wanted = Column(
        name=name,
        encoder=encoder_name or name,
        revision=computed.revision(encoder, source),
        reads=encoder.reads,
        fields=encoder.fields,
        licence=encoder.licence,
        container=container or "tar",
        options=dict(options or {}),
        inputs=_inputs(cache, encoder),
    )
    wanted = schema.with_codec(wanted, dict(codec_names or {}))
    new = replace(wanted, fields=tuple(map(components.lowered, wanted.fields)))
    _check_stored(new)

    # The file is read back, because another process may have written it first.
    job = Job(cache, plan, new, source, encoder, {f.name: {} for f in new.fields})
    _forget(cache, _as_recorded(cache, wanted))
    if not (cache / name / "column.json").is_file():
        _create(job, wanted, reader, progress)
    column, wanted = schema.load_column(cache, name), _as_recorded(cache, wanted)
    files.sweep(cache / name, {"column.json", "calibration.npz"})
    _compare(cache, column, wanted if container else replace(wanted, container=column.container))
    return replace(job, column=column, state=load_state(cache, column))


def _inputs(cache: Path, encoder: Encoder) -> dict[str, str]:
    """Return the identities of the columns that an encoder reads."""
    names = [address.split("/")[0] for address in encoder.reads if "/" in address]
    return {name: schema.load_column(cache, name).identity() for name in names}


def _as_recorded(cache: Path, wanted: Column) -> Column:
    """Return the wanted column with the K that an existing one could keep of the same ``pca:K``.

    The samples of an extension could allow more components than were fitted.
    """
    if not (cache / wanted.name / "column.json").is_file():
        return wanted
    recorded = schema.load_column(cache, wanted.name)
    names = [field.name for field in wanted.fields]
    try:
        state = load_state(cache, recorded)
    except ReedError:  # it is told when the column is opened
        return wanted
    fields = [field for field in recorded.fields if field.name in names]
    same = [f for f in fields if components.asked(f, state[f.name]) == wanted.field(f.name).codec]
    return schema.with_codec(wanted, {field.name: field.codec for field in same})


def _forget(cache: Path, wanted: Column) -> None:
    """Remove another description of a column that has no shard: a failed build binds nothing."""
    path = cache / wanted.name / "column.json"
    if path.is_file() and not schema.has_shards(cache, wanted.name):
        described = schema.load_column(cache, wanted.name)
        if replace(described, calibration="") != wanted:
            files.delete(path)


def _check_reads(cache: Path, encoder: Encoder, source: Source, name: str) -> None:
    """Raise ReedError unless the cache and the source have what an encoder reads."""
    for address in encoder.reads:
        if "/" in address:
            with open_cache(cache) as opened:
                opened.column_and_field(address)
        else:
            check_entry(address, source, name)


def check_entry(entry: str, source: Source, name: str) -> None:
    """Raise ReedError if the source lacks an entry that column ``name`` reads."""
    if entry != KEY and entry not in source.entries:
        hint = suggest(entry, source.entries)
        why = getattr(source, "why_lacking", lambda _: "")(entry)
        because = f", because {why}" if why else ""
        raise ReedError(f"encoder {name!r} reads {entry!r}, which the source lacks{because}.{hint}")


def _check_stored(column: Column) -> None:
    """Raise ReedError for an unknown container, or two parts with the same name.

    Names are compared in lower case, as webdataset reads them.
    """
    if column.container not in CONTAINERS:
        hint = suggest(column.container, CONTAINERS)
        raise ReedError(f"unknown container {column.container!r}.{hint}")
    seen: set[str] = set()
    for part in parts_of(column.fields):
        if part.name.lower() in seen:
            raise ReedError(f"column {column.name!r} stores two {part.name!r}; rename a field")
        seen.add(part.name.lower())


def _create(job: Job, asked: Column, reader: SharedReader | None, progress: bool) -> None:
    """Write the calibration, where a codec needs one, and the description of a new column.

    Args:
        job: The column.
        asked: The column as it was asked for; its codecs may keep more components than there are
            channels.
        reader: The reader that several columns share.
        progress: Whether to show a bar.
    """
    values = calibrate.first_values(job, reader, progress)
    column, state = fitting.fit(job.column, values, asked)
    fitting.describe(job.cache, column, state)


def _compare(cache: Path, column: Column, wanted: Column) -> None:
    """Raise ReedError if a column was built in another way than is wanted now."""
    # By what the values of the source were computed is checked when a shard is to be built.
    wanted = replace(wanted, revision=computed.as_recorded(column, wanted.revision))
    for entry in ("encoder", "revision", "reads", "fields", "inputs", "container"):
        built, now = getattr(column, entry), getattr(wanted, entry)
        if built != now:
            raise ReedError(
                f"{cache / column.name} was built with {entry} {built!r}, now it is {now!r}; "
                "remove that folder to build it again, or keep both: --encoder OTHER-NAME=ENCODER"
            )
