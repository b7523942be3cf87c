"""Stage one as commands use it: names are looked up, columns ordered, jobs opened.

Everything here consists of names and paths, so it can be sent to another process and opened there.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reed import config, pipelines
from reed.build import column as columns
from reed.build import computed, defaults, early, size
from reed.build import seen as memory
from reed.build.choices import Request, parse_codecs, parse_options
from reed.build.seen import Seen
from reed.build.size import Size
from reed.build.source import Listing, Source, listed
from reed.cache import changes, files, origin, plan, schema
from reed.cache.plan import Plan
from reed.errors import ReedError, placed, suggest
from reed.jobs import JobSpec as JobSpec
from reed.jobs import fresh
from reed.jobs import make_encoder as make_encoder
from reed.jobs import make_source as make_source


@dataclass(frozen=True)
class Build:
    """A request with all names looked up; nothing is written yet.

    Attributes:
        seen: What the listing found in each file.
        settings: Settings of the plan.
        plan: The plan as it would be frozen.
        jobs: The columns to build, inputs first.
        sizes: What each column has still to write.
        notes: Lines for the user: on columns of earlier versions, and on what will be stored in
            another way than was asked for.
    """

    request: Request
    listing: Listing
    seen: Seen
    settings: Mapping[str, Any]
    plan: Plan
    jobs: tuple[JobSpec, ...]
    sizes: tuple[Size, ...]
    notes: tuple[str, ...] = ()

    def make_source(self) -> Source:
        """Return the source of the request, with the settings of the plan."""
        settings, data = self.settings, self.request.data
        return make_source(settings["source"], data, settings["options"])

    def check_space(self) -> None:
        """Raise ReedError if the missing shards do not fit on the file system of the cache."""
        cache = self.request.cache
        size.check(cache, self.sizes, size.stored(cache) if self.request.rebuild else 0)

    def open_files(self, *, fetch: bool) -> Iterator[str]:
        """Open the weights and other files of every encoder, see `reed.build.early`."""
        for job in self.jobs:
            with placed(f"column {job.column!r}"):
                yield from early.open_files(job.column, job.make_encoder(), fetch)

    def freeze(self) -> Plan:
        """Freeze the plan, after removing the old cache for a rebuild, or a plan without shards."""
        cache, found = self.request.cache, self.listing
        # Of several ranks, one removes what a failed build left; the others find the new plan.
        with files.only_writer(cache, wait=True):
            if self.request.rebuild or (plan.is_unused(cache) and not self._is_planned()):
                plan.discard(cache)
            self.seen.save()
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
    settings = defaults.plan_settings(request, cache, fresh)
    source = make_source(settings["source"], request.data, settings["options"])
    if request.flip and source.views < 2:
        raise ReedError(f"source {settings['source']!r} cannot mirror its samples; no --flip")

    # Settings are checked before the source is listed, which may take minutes; first those that the
    # cache has for good, so that no other error advises to change them.
    if (cache / "manifest.json").is_file():
        asked = {name: settings[name] for name in ("pipeline", "source", "domain", "options")}
        changes.check_settings(cache, schema.load_manifest(cache), asked, request.flip)
    jobs = chosen(request, source.entries if pipelines.load(request.pipeline).optional else ())
    made = {job.column: job.make_encoder() for job in jobs}
    early.check_settings(cache, settings["source"], made, source)
    seen = Seen(request.cache / memory.NAME)
    listing = early.with_planned(cache, listed(source, seen))
    if listing.classes:
        settings["options"] = settings["options"] | {"classes": list(listing.classes)}
    frozen = plan.propose(cache, listing, **settings)

    described = {job.column: job.describe() for job in jobs}
    early.check_reads(cache, source, described)
    described, notes = early.lowered(cache, frozen, described)
    sizes = tuple(size.size_of(cache, frozen, column) for column in described.values())
    notes += computed.check_all(cache, [s.column for s in sizes if s.shards], source)
    placed = tuple(replace(job, cache=request.cache) for job in jobs)
    return Build(request, listing, seen, settings, frozen, placed, sizes, tuple(notes))


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
    plan_settings = defaults.plan_settings(request, cache, fresh)

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
    new = {n: encoder_of(n) for n in wanted if not schema.has_shards(cache, n)}
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


def _planned(request: Request) -> Path:
    """Return the folder to plan in: one that does not exist for a rebuild or an unused plan."""
    is_new = request.rebuild or plan.is_unused(request.cache)
    return request.cache / ".rebuilt" if is_new else request.cache
