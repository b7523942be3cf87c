"""One column to build, by names and paths; and what the names stand for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from reed import config
from reed.build import column as columns
from reed.build.shard import Encoder, Job
from reed.build.shared import SharedReader
from reed.build.source import Source
from reed.build.together import Member
from reed.cache import plan, schema
from reed.cache.plan import Plan
from reed.cache.schema import Column
from reed.encoders import ENCODERS
from reed.errors import ReedError, placed
from reed.registry import find_in
from reed.sources import SOURCES
from reed.store import mirror


@dataclass(frozen=True)
class JobSpec:
    """One column to build, by names and paths; hashable and picklable.

    Attributes:
        encoder: A registered name, or "package.module:attribute".
        codecs: (field, codec) pairs.
        container: Container of a new column; empty for the default.
        folder: Folder from which modules can be imported.
        options: Settings of the encoder, as JSON.
    """

    cache: Path
    column: str
    encoder: str
    source: str
    data: Path | None = None
    codecs: tuple[tuple[str, str], ...] = ()
    container: str = ""
    device: str = "cpu"
    folder: Path = Path()
    options: str = "{}"

    @classmethod
    def of_column(cls, cache: Path, name: str, data: Path | None, device: str) -> JobSpec:
        """Return the job that builds shards of an existing column again."""
        column, manifest = schema.load_column(cache, name), schema.load_manifest(cache)
        return cls(
            cache,
            name,
            column.encoder,
            manifest.source,
            data,
            tuple((field.name, field.codec) for field in column.fields),
            column.container,
            device,
            Path.cwd(),
            json.dumps(column.options),
        )

    def absolute(self) -> JobSpec:
        """Return the same job for a process that runs in another folder, or on another machine.

        That has another mirror of a cache in an object store, so it is sent the URL.
        """
        store, data = mirror.of(self.cache), self.data and self.data.absolute()
        cache = Path(store.url) if store else self.cache.absolute()
        return replace(self, cache=cache, data=data, folder=self.folder.absolute())

    def make_encoder(self) -> Encoder:
        """Return the encoder, not loaded."""
        return make_encoder(self.encoder, self.folder, json.loads(self.options))

    def member(self, progress: bool = True) -> Member:
        """Return the column as a member of a pass, to be opened with the reader of the pass."""
        opened = partial(self.open, progress=progress)
        return Member(self.column, self.make_encoder().reads, opened)

    def open(self, reader: SharedReader | None = None, progress: bool = False) -> Job:
        """Return the job: encoder loaded, column described. The plan must be frozen already.

        Args:
            reader: The reader that several columns share.
            progress: Whether calibration shows a bar.
        """
        # In another process the source may be named by a module in that folder, too.
        find_in(self.folder)
        if (cache := mirror.local(self.cache)) != self.cache:
            return replace(self, cache=cache).open(reader, progress)

        frozen = plan.load(self.cache)
        with placed(f"column {self.column!r}"):
            encoder = self.make_encoder()
            encoder.load(self.device)
            return self._opened(encoder, frozen, reader=reader, progress=progress)

    def _opened(self, encoder: Encoder, frozen: Plan, **how: Any) -> Job:
        """Return the job with a loaded encoder; for other arguments see `columns.open_job`."""
        return columns.open_job(
            self.cache,
            frozen,
            self.column,
            encoder,
            make_source(self.source, self.data, frozen.manifest.options),
            self._codecs(encoder),
            encoder_name=self.encoder,
            container=self.container,
            options=json.loads(self.options),
            **how,
        )

    def _codecs(self, encoder: Encoder) -> dict[str, str]:
        """Return the codecs that were requested, then those of the existing column, by field."""
        if not schema.has_shards(self.cache, self.column):
            return dict(self.codecs)
        names = [field.name for field in encoder.fields]
        fields = schema.load_column(self.cache, self.column).fields
        return {f.name: f.codec for f in fields if f.name in names} | dict(self.codecs)

    def describe(self) -> Column:
        """Return the existing column, or the new one as far as its size depends on it."""
        if schema.has_shards(self.cache, self.column):
            return schema.load_column(self.cache, self.column)
        encoder = self.make_encoder()
        fields = tuple(encoder.fields)
        column = Column(
            self.column, self.encoder, "", encoder.reads, fields, container=self.container or "tar"
        )
        return schema.with_codec(column, dict(self.codecs))


def make_source(name: str, data: Path | None, options: Mapping[str, Any]) -> Source:
    """Return the source called ``name`` for the raw data at ``data``, with some of its settings."""
    given = {} if data is None else {"data": data}
    with placed(f"source {name!r}"):
        source = _made(SOURCES.get(name), given, options, "source")
    _check_parts(f"source {name!r}", source, ("entries", "views", "listing", "read"))
    return source


def fresh(name: str) -> Mapping[str, Any]:
    """Return the settings that new plans of a source record, see `reed.build.source.Source`."""
    return getattr(SOURCES.get(name), "for_new_plans", {})


def make_encoder(name: str, folder: Path, options: Mapping[str, Any]) -> Encoder:
    """Return the encoder called ``name``, not loaded; ``folder`` is searched for modules, too."""
    if ":" in name:
        find_in(folder)
    with placed(f"encoder {name!r}"):
        encoder = _made(ENCODERS.get(name), {}, options, name)
    parts = ("reads", "fields", "licence", "batch_size", "revision", "load", "encode")
    _check_parts(f"encoder {name!r}", encoder, parts)
    return encoder


def _check_parts(where: str, item: Any, parts: Iterable[str]) -> None:
    """Raise ReedError if a user's own class lacks something that every one of its kind has."""
    # Properties are not asked: what a source has may take a scan of its files.
    has = {*dir(type(item)), *getattr(item, "__dict__", {})}
    lacks = [name for name in parts if name not in has]
    if lacks and "__getattr__" not in has:
        raise ReedError(f"{where} lacks {', '.join(lacks)}; add what is missing to the class")


def _made(item: Any, given: Mapping[str, Any], options: Mapping[str, Any], where: str) -> Any:
    """Return an instance of a registered class or partial of one; fields are settings."""
    kind, preset = (item.func, item.keywords) if isinstance(item, partial) else (item, {})
    if dataclasses.is_dataclass(kind):
        return config.build(kind, {**preset, **given, **options}, where)
    if options:
        raise ReedError(f"{where} has no settings, so none called {next(iter(options))!r}")
    try:
        return kind(**preset, **given)
    except TypeError as error:
        # What the call itself refuses has no frame of the user's that could be named.
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise
        raise ReedError(
            f"{where} cannot be made: {error}; settings are the fields of a dataclass"
        ) from error
