"""What a build consists of: names looked up, jobs opened, columns in order.

Everything here is made of names and paths, so it can be sent to another process and opened there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from reed import config, pipelines
from reed.build import column as columns
from reed.build import early, size
from reed.build.choices import Request, parse_codecs, parse_encoder, parse_options
from reed.build.shard import Downloads, Encoder, Job
from reed.build.size import Size
from reed.build.source import Listing, Source, listed
from reed.cache import plan, schema
from reed.cache.plan import Plan
from reed.cache.schema import Column
from reed.encoders import ENCODERS
from reed.errors import ReedError, suggest
from reed.registry import find_in
from reed.sources import SOURCES
from reed.weights import Found


@dataclass(frozen=True)
class JobSpec:
    """One column to build, by names and paths: hashable and picklable.

    encoder: a name, or "package.module:attribute" where `folder` may be needed to import it;
    codecs: (field, codec) pairs; container: of a new column, empty for the default; options:
    settings of the encoder, as JSON.
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
        """What rebuilds shards of a column that is there."""
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
        """The same for a process that runs in another folder."""
        data = self.data and self.data.absolute()
        return replace(self, cache=self.cache.absolute(), data=data, folder=self.folder.absolute())

    def make_encoder(self) -> Encoder:
        """The encoder, not loaded."""
        return make_encoder(self.encoder, self.folder, json.loads(self.options))

    def open(self) -> Job:
        """The job: encoder loaded, column described. The plan must be frozen already."""
        find_in(self.folder)  # in another process the source may be named by a module there, too
        encoder, frozen = self.make_encoder(), plan.load(self.cache)
        encoder.load(self.device)
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
        """Those that were asked for, then those that the column has; the others are defaults."""
        if self.column not in schema.columns(self.cache):
            return dict(self.codecs)
        names = [field.name for field in encoder.fields]
        have = schema.load_column(self.cache, self.column).fields
        return {f.name: f.codec for f in have if f.name in names} | dict(self.codecs)

    def describe(self) -> Column:
        """The column as it is, or as it would be, as far as that decides its size."""
        if self.column in schema.columns(self.cache):
            return schema.load_column(self.cache, self.column)
        encoder = self.make_encoder()
        fields = tuple(encoder.fields)
        column = Column(
            self.column, self.encoder, "", encoder.reads, fields, container=self.container or "tar"
        )
        return schema.with_codec(column, dict(self.codecs))


@dataclass(frozen=True)
class Build:
    """A request with everything looked up; nothing is written yet.

    settings: of the plan; plan: as it would be frozen; jobs: the columns to build, inputs first;
    sizes: what each of these has still to write.
    """

    request: Request
    listing: Listing
    settings: Mapping[str, Any]
    plan: Plan
    jobs: tuple[JobSpec, ...]
    sizes: tuple[Size, ...]

    def check_space(self) -> None:
        """ReedError when what is missing does not fit on the file system of the cache."""
        cache = self.request.cache
        size.check(cache, self.sizes, size.stored(cache) if self.request.rebuild else 0)

    def open_files(self, *, fetch: bool) -> Iterator[str]:
        """Open what every encoder reads from disk, its weights above all; see reed.build.early."""
        for job in self.jobs:
            yield from early.open_files(job.column, job.make_encoder(), fetch)

    def freeze(self) -> Plan:
        """Freeze the plan, after throwing the old one away where that was asked for."""
        cache = self.request.cache
        if self.request.rebuild:
            plan.discard(cache)
        found = self.listing
        return plan.freeze(cache, found, found.passed, found.counts, **self.settings)


@dataclass(frozen=True)
class Weights:
    """Weights of a column's encoder: where they come from, in words; found: None if it has none."""

    column: str
    origin: str = ""
    found: Found | None = None


def prepare(request: Request) -> Build:
    """Look everything up and plan it; raises every ReedError that can be had before encoding."""
    cache = _planned(request)
    settings = _settings(request, cache)
    source = make_source(settings["source"], request.data, settings["options"])
    if request.flip and source.views < 2:
        name = settings["source"]
        raise ReedError(f"source {name!r} cannot mirror its samples; leave out --flip")
    jobs = chosen(request)
    listing = listed(source)
    if listing.classes:
        settings["options"] = settings["options"] | {"classes": list(listing.classes)}
    frozen = plan.propose(cache, listing, **settings)
    described = {job.column: job.describe() for job in jobs}
    early.check_reads(cache, source, described)
    sizes = tuple(size.size_of(cache, frozen, column) for column in described.values())
    jobs = tuple(replace(job, cache=request.cache) for job in jobs)
    return Build(request, listing, settings, frozen, jobs, sizes)


def chosen(request: Request) -> tuple[JobSpec, ...]:
    """The columns of a request, inputs first, each with its settings; reads no raw data."""
    pipeline, cache, folder = pipelines.load(request.pipeline), _planned(request), Path.cwd()
    named = (*pipeline.base, *(request.encoders or pipeline.encoders))
    asked = dict(map(parse_encoder, named))
    codecs, options = parse_codecs(request.codecs), parse_options(request.options)
    source = _settings(request, cache)["source"]

    def encoder_of(name: str) -> str:
        there = name not in asked and name in schema.columns(cache)
        return schema.load_column(cache, name).encoder if there else asked.get(name, name)

    def options_of(name: str) -> dict[str, Any]:
        there = name in schema.columns(cache)
        kept = schema.load_column(cache, name).options if there else {}
        return config.merge(kept, options.get(name, {}))

    wanted = columns.with_inputs(
        cache, list(asked), lambda name: make_encoder(encoder_of(name), folder, options_of(name))
    )
    for flag, names, more in (("--codec", codecs, ()), ("--set", options, ("source",))):
        for name in names:
            if name not in (*wanted, *more):
                hint = suggest(name, [*wanted, *more])
                raise ReedError(f"{flag} names {name!r}, which is not built here.{hint}")
    return tuple(
        JobSpec(
            cache,
            name,
            encoder_of(name),
            source,
            request.data,
            codecs.get(name, ()),
            request.container,
            request.device,
            folder,
            json.dumps(options_of(name)),
        )
        for name in wanted
    )


def prefetch(request: Request) -> Iterator[Weights]:
    """Download the weights of every column of a request; ReedError: which file to put where."""
    for job in chosen(request):
        encoder = job.make_encoder()
        if not isinstance(encoder, Downloads):
            yield Weights(job.column)
            continue
        origin = f"{encoder.origin.repo} at {encoder.origin.revision}"
        given = f"given by {job.column}.weights"
        yield Weights(job.column, given if encoder.weights else origin, encoder.prefetch())


def make_source(name: str, data: Path | None, options: Mapping[str, Any]) -> Source:
    """The source called `name`, of the raw data at `data`, with some of its settings."""
    given = {} if data is None else {"data": data}
    return _made(SOURCES.get(name), given, options, "source")


def make_encoder(name: str, folder: Path, options: Mapping[str, Any]) -> Encoder:
    """The encoder called `name`, not loaded; modules in `folder` can be named, too."""
    if ":" in name:
        find_in(folder)
    return _made(ENCODERS.get(name), {}, options, name)


def _made(item: Any, given: Mapping[str, Any], options: Mapping[str, Any], where: str) -> Any:
    """An instance of a registered class, or of a partial of one; its fields are its settings."""
    made, known = (item.func, item.keywords) if isinstance(item, partial) else (item, {})
    if dataclasses.is_dataclass(made):
        return config.build(made, {**known, **given, **options}, where)
    if options:
        raise ReedError(f"{where} has no settings, so none called {next(iter(options))!r}")
    return made(**known, **given)


def _planned(request: Request) -> Path:
    """The cache; a rebuild starts from nothing, so it is planned in a folder that is not there."""
    return request.cache / ".rebuilt" if request.rebuild else request.cache


def _settings(request: Request, cache: Path) -> dict[str, Any]:
    """What the plan is frozen with; what is not asked for stays as it is in the cache."""
    pipeline, source, options = pipelines.load(request.pipeline), request.source, {}
    if (cache / "manifest.json").is_file():
        kept = schema.load_manifest(cache)
        source = source or kept.source
        options = kept.options if source == kept.source else {}
    named = {"classes": options["classes"]} if "classes" in options else {}
    return {
        "pipeline": request.pipeline,
        "domain": pipeline.domain,
        "source": source or pipeline.source,
        "shard_size": pipeline.shard_size,
        "flip": request.flip,
        "extend": request.extend,
        "options": named | parse_options(request.options).get("source", options),
    }
