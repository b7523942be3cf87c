"""What a request leaves out, completed from its pipeline and from the cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from reed import config, pipelines
from reed.build.choices import Request, parse_encoder, parse_options, parse_share
from reed.build.early import NeedsSettings
from reed.build.shard import Encoder
from reed.cache import schema
from reed.errors import ReedError
from reed.pipelines import Pipeline


def codecs(request: Request, pipeline: Pipeline, columns: Mapping[str, str]) -> tuple[str, ...]:
    """Return the pipeline's codecs of its own columns, then those of the request, which override.

    Args:
        request: The options of the command.
        pipeline: Its pipeline.
        columns: Encoder of every column that is new.
    """
    named = dict(map(parse_encoder, (*pipeline.base, *pipeline.encoders)))
    own = {column for column, encoder in columns.items() if named.get(column, column) == encoder}
    return (*(text for text in pipeline.codecs if text.partition("/")[0] in own), *request.codecs)


def asked(request: Request, pipeline: Pipeline, entries: Collection[str]) -> dict[str, str]:
    """Return the encoder of every column that is asked for, by column.

    Args:
        request: The options of the command.
        pipeline: Its pipeline.
        entries: Entries of the source; some columns are built only if their entry is there.

    Raises:
        ReedError: --latents is given, but the pipeline has no pixels that they could replace.
    """
    base = list(pipeline.base)
    if request.latents:
        if not pipeline.latents:
            raise ReedError(
                f"--latents is {request.latents!r}, but the pipeline {request.pipeline!r} has no "
                "column of pixels; leave it out, or name a column with --encoder"
            )
        base[base.index(pipeline.latents)] = request.latents

    # A column that the user names replaces one of the same name.
    optional = [n for entry, names in pipeline.optional.items() if entry in entries for n in names]
    named = (*base, *optional, *(request.encoders or pipeline.encoders))
    return dict(map(parse_encoder, named))


def followed(encoder: Encoder, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in which an encoder follows its source, such as the resolution.

    Args:
        encoder: The encoder, with its default settings.
        source: Settings of the source.
    """
    names = encoder.source_settings if isinstance(encoder, NeedsSettings) else {}
    return {name: source[name] for name in names if name in source}


def plan_settings(
    request: Request, cache: Path, fresh: Callable[[str], Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the settings of the plan; others than the requested ones stay as in the cache.

    Args:
        request: The options of the command.
        cache: Folder of the cache.
        fresh: Function that returns the settings that a new plan of a source records.
    """
    pipeline, source, recorded = pipelines.load(request.pipeline), request.source, None
    if (cache / "manifest.json").is_file():
        manifest = schema.load_manifest(cache)
        source = source or manifest.source
        recorded = manifest.options if source == manifest.source else None

    # The pipeline's settings are those of its own source; another one may not have them. A cache
    # keeps its own, so that one that is given does not reset the others.
    source = source or pipeline.source
    options = dict(pipeline.settings.get("source", {})) if source == pipeline.source else {}
    given = parse_options(request.options).get("source", {})
    options = config.merge(options if recorded is None else recorded, given)

    # These are frozen with the plan, whatever settings of the source are given now: an earlier
    # version may have planned without them.
    frozen = dict(fresh(source)) if recorded is None else recorded
    named = {name: frozen[name] for name in ("classes", *fresh(source)) if name in frozen}
    return {
        "pipeline": request.pipeline,
        "domain": pipeline.domain,
        "source": source,
        "shard_size": pipeline.shard_size,
        "flip": request.flip,
        "extend": request.extend,
        "max_failed": parse_share(request.max_failed),
        "options": named | options,
    }
