"""Stage one as commands use it: names are looked up, columns ordered, jobs opened.

Everything here consists of names and paths, so it can be sent to another process and opened there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from reed import config, pipelines
from reed.build import column as columns
from reed.build import defaults, early, size
from reed.build.choices import Request, parse_codecs, parse_options
from reed.build.shard import Encoder, Job
from reed.build.size import Size
from reed.build.source import Listing, Source, listed
from reed.cache import files, origin, plan, schema
from reed.cache.plan import Plan
from reed.cache.schema import Column
from reed.encoders import ENCODERS
from reed.errors import ReedError, placed, suggest
from reed.registry import find_in
from reed.sources import SOURCES


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
        """Return the same job for a process that runs in another folder."""
        data = self.data and self.data.absolute()
        return replace(self, cache=self.cache.absolute(), data=data, folder=self.folder.absolute())

    def make_encoder(self) -> Encoder:
        """Return the encoder, not loaded."""
        return make_encoder(self.encoder, self.folder, json.loads(self.options))

    def open(self) -> Job:
        """Return the job: encoder loaded, column described. The plan must be frozen already."""
        # In another process the source may be named by a module in that folder, too.
        find_in(self.folder)

        frozen = plan.load(self.cache)
        with placed(f"column {self.column!r}"):
            encoder = self.make_encoder()
            encoder.load(self.device)
            return self._opened(encoder, frozen)

    def _opened(self, encoder: Encoder, frozen: Plan) -> Job:
        """Return the job with a loaded encoder."""
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


@dataclass(frozen=True)
class Build:
    """A request with all names looked up; nothing is written yet.

    Attributes:
        settings: Settings of the plan.
        plan: The plan as it would be frozen.
        jobs: The columns to build, inputs first.
        sizes: What each column has still to write.
        notes: Lines on what will be stored in another way than was asked for.
    """

    request: Request
    listing: Listing
    settings: Mapping[str, Any]
    plan: Plan
    jobs: tuple[JobSpec, ...]
    sizes: tuple[Size, ...]
    notes: tuple[str, ...] = ()

    def check_space(self) -> None:
        """Raise ReedError if the missing shards do not fit on the file system of the cache."""
        cache = self.request.cache
        size.check(cache, self.sizes, size.stored(cache) if self.request.rebuild else 0)

    def open_files(self, *, fetch: bool) -> Iterator[str]:
        """Open the weights and other files of every encoder, see `reed.build.early`."""
        for job in self.jobs:
            yield from early.open_files(job.column, job.make_encoder(), fetch)

    def freeze(self) -> Plan:
        """Freeze the plan, after removing the old cache for a rebuild, or a plan without shards."""
        cache, found = self.request.cache, self.listing
        # Of several ranks, one removes what a failed build left; the others find the new plan.
        with files.only_writer(cache, wait=True):
            if self.request.rebuild or (plan.is_unused(cache) and not self._is_planned()):
                plan.discard(cache)
            parts = (found.passed, found.counts, found.examples)
            return plan.freeze(cache, found, *parts, **self.settings)

    def _is_planned(self) -> bool:
        """Whether the plan that is there is the one that would be frozen."""
        try:
            return plan.load(self.request.cache) == self.plan
        except ReedError:
            return False


def prepare(request: Request) -> Build:
    """Look up and plan everything; raise every ReedError that is possible before encoding."""
    cache = _planned(request)
    settings = defaults.plan_settings(request, cache, _fresh)
    source = make_source(settings["source"], request.data, settings["options"])
    if request.flip and source.views < 2:
        raise ReedError(f"source {settings['source']!r} cannot mirror its samples; no --flip")

    # Settings are checked before the source is listed, which may take minutes.
    jobs = chosen(request, source.entries if pipelines.load(request.pipeline).optional else ())
    made = {job.column: job.make_encoder() for job in jobs}
    early.check_settings(cache, settings["source"], made, source)
    listing = early.with_planned(cache, listed(source))
    if listing.classes:
        settings["options"] = settings["options"] | {"classes": list(listing.classes)}
    frozen = plan.propose(cache, listing, **settings)

    described = {job.column: job.describe() for job in jobs}
    early.check_reads(cache, source, described)
    described, notes = early.lowered(cache, frozen, described)
    sizes = tuple(size.size_of(cache, frozen, column) for column in described.values())
    placed = tuple(replace(job, cache=request.cache) for job in jobs)
    return Build(request, listing, settings, frozen, placed, sizes, tuple(notes))


def chosen(request: Request, entries: Collection[str] = ()) -> tuple[JobSpec, ...]:
    """Return the columns of a request, inputs first, each with its settings; reads no raw data.

    Args:
        request: The request.
        entries: Entries of the source, for the columns that need one of them.

    Raises:
        ReedError: An option names a column that is not built, or encoders cannot be ordered.
    """
    pipeline, cache, folder = pipelines.load(request.pipeline), _planned(request), Path.cwd()
    asked, options = defaults.asked(request, pipeline, entries), parse_options(request.options)
    plan_settings = defaults.plan_settings(request, cache, _fresh)

    # The cache records encoders and settings, so a rerun need not repeat them. Those of a failed
    # build, which has no shard, are not kept.
    def encoder_of(name: str) -> str:
        if not schema.has_shards(cache, name):
            return asked.get(name, name)
        column = schema.load_column(cache, name)
        if column.made_from:
            again = origin.command(request.cache, column)
            raise ReedError(f"no encoder makes column {name!r}, it was transcoded: {again}")
        return asked.get(name, column.encoder)

    def options_of(name: str) -> dict[str, Any]:
        exists = schema.has_shards(cache, name)
        if exists:
            return config.merge(schema.load_column(cache, name).options, options.get(name, {}))
        own = config.merge(pipeline.settings.get(name, {}), options.get(name, {}))
        encoder = make_encoder(encoder_of(name), folder, own)
        return defaults.followed(encoder, plan_settings["options"]) | own

    wanted = columns.with_inputs(
        cache, list(asked), lambda name: make_encoder(encoder_of(name), folder, options_of(name))
    )
    # The pipeline's own codecs are for new columns of its own encoders.
    new = [n for n in wanted if encoder_of(n) == n and not schema.has_shards(cache, n)]
    codecs = parse_codecs(defaults.codecs(request, pipeline, new))
    for flag, names, others in (("--codec", codecs, ()), ("--set", options, ("source",))):
        for name in names:
            if name not in (*wanted, *others):
                hint = suggest(name, [*wanted, *others])
                raise ReedError(f"{flag} names {name!r}, which is not built here.{hint}")

    return tuple(
        JobSpec(
            cache,
            name,
            encoder_of(name),
            plan_settings["source"],
            request.data,
            codecs.get(name, ()),
            request.container,
            request.device,
            folder,
            json.dumps(options_of(name)),
        )
        for name in wanted
    )


def prefetch(request: Request) -> Iterator[early.Weights]:
    """Download the weights of every column; ReedError says which missing file to put where."""
    for job in chosen(request):
        yield early.fetched(job.column, job.make_encoder())


def make_source(name: str, data: Path | None, options: Mapping[str, Any]) -> Source:
    """Return the source called ``name`` for the raw data at ``data``, with some of its settings."""
    given = {} if data is None else {"data": data}
    return _made(SOURCES.get(name), given, options, "source")


def _fresh(name: str) -> Mapping[str, Any]:
    """Return the settings that new plans of a source record, see `reed.build.source.Source`."""
    return getattr(SOURCES.get(name), "for_new_plans", {})


def make_encoder(name: str, folder: Path, options: Mapping[str, Any]) -> Encoder:
    """Return the encoder called ``name``, not loaded; ``folder`` is searched for modules, too."""
    if ":" in name:
        find_in(folder)
    return _made(ENCODERS.get(name), {}, options, name)


def _made(item: Any, given: Mapping[str, Any], options: Mapping[str, Any], where: str) -> Any:
    """Return an instance of a registered class or partial of one; fields are settings."""
    kind, preset = (item.func, item.keywords) if isinstance(item, partial) else (item, {})
    if dataclasses.is_dataclass(kind):
        return config.build(kind, {**preset, **given, **options}, where)
    if options:
        raise ReedError(f"{where} has no settings, so none called {next(iter(options))!r}")
    return kind(**preset, **given)


def _planned(request: Request) -> Path:
    """Return the folder to plan in: one that does not exist for a rebuild or an unused plan."""
    is_new = request.rebuild or plan.is_unused(request.cache)
    return request.cache / ".rebuilt" if is_new else request.cache
