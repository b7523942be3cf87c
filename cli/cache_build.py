"""reed-cache plan, prefetch and build: show what a build needs and writes, and run it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from reed import pipelines, stage_one
from reed.build import engines, overlap, ray_engine
from reed.cache import cost, schema
from reed.cache.plan import Plan
from reed.cli.common import CACHES, DEVICE, completed, one_line_errors, pick_device
from reed.encoders import ENCODERS
from reed.errors import ReedError
from reed.sources import SOURCES
from reed.stage_one import Build, Request
from reed.view import account

_COLUMNS = (
    click.argument("pipeline", shell_complete=completed(pipelines.names)),
    click.option(
        "--encoder",
        "encoders",
        multiple=True,
        metavar="[COLUMN=]NAME",
        shell_complete=completed(ENCODERS.names),
        help="Encoder to build a column with; may be repeated. Default: those of the pipeline. "
        "For your own encoder: COLUMN=package.module:Class (modules in the current folder are "
        "found).",
    ),
    click.option(
        "--latents",
        default="",
        metavar="[COLUMN=]NAME",
        shell_complete=completed(ENCODERS.names),
        help="Encoder whose latents are trained on in place of pixels, such as sd-vae.",
    ),
    click.option(
        "--cache",
        type=click.Path(path_type=Path),
        metavar="DIR",
        shell_complete=CACHES,
        help="Folder of the cache. Default: cache/PIPELINE.",
    ),
    click.option(
        "--set",
        "options",
        multiple=True,
        metavar="COLUMN.NAME=VALUE",
        help="Setting of a column's encoder, such as dinov2-b.weights=FILE; or of the source: "
        "source.NAME=VALUE, such as source.resolution=512.",
    ),
)
_REQUEST = (
    *_COLUMNS,
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Raw data, if the source reads files.",
    ),
    click.option(
        "--source",
        default="",
        metavar="NAME",
        shell_complete=completed(SOURCES.names),
        help="Source that reads the raw data (see: reed-cache list sources). Default: the "
        "cache's, or the pipeline's for a new cache.",
    ),
    click.option(
        "--codec",
        "codecs",
        multiple=True,
        metavar="COLUMN/FIELD=CODEC",
        help="Codec for a field; may be repeated. Example: digits-vit/tokens=float16.",
    ),
    click.option(
        "--container",
        type=click.Choice(schema.CONTAINERS),
        default=None,
        help="File format for the shards of new columns. Default: tar.",
    ),
    click.option("--flip", is_flag=True, help="Also store each sample mirrored, in every column."),
    click.option(
        "--extend",
        is_flag=True,
        help="Append the samples that were added to the source, as new shards.",
    ),
    click.option(
        "--rebuild", is_flag=True, help="Delete the plan and ALL columns of the cache first."
    ),
    click.option(
        "--max-failed",
        default="",
        metavar="SHARE",
        help="Share of the samples of a column that may fail, such as 10%; recorded in the plan. "
        "Default: that of the cache, or 1%.",
    ),
    click.option("--force", is_flag=True, help="Continue even if the disk seems too small."),
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print counts of samples and files, and why some were left out, as JSON; messages "
        "go to stderr.",
    ),
)


def _takes(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Return a decorator that adds options and arguments to a command."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command()
@_takes(*_COLUMNS)
@one_line_errors
def prefetch(**requested: Any) -> None:
    """Download the weights that a build needs, without building.

    \b
    Examples:
      reed-cache prefetch imagenet
      reed-cache prefetch imagenet --encoder dinov2-b
    """
    for weights in stage_one.prefetch(_request(**requested)):
        found = weights.found
        if found is None:
            click.echo(f"{weights.column}: has no weights to download")
            continue
        click.echo(f"{weights.column}: {weights.origin}, {found.folder}, sha256 {found.sha256}")
        for path in found.files:
            click.echo(f"  {path}: {path.stat().st_size:,} bytes")


@click.command()
@_takes(*_REQUEST)
@one_line_errors
def plan(force: bool, as_json: bool, **requested: Any) -> None:
    """Show what a build would write, without writing anything.

    Fails if the disk is too small for it.

    \b
    Examples:
      reed-cache plan digits
      reed-cache plan imagenet --data /data/imagenet/train
      reed-cache plan digits --codec digits-vit/tokens=float16
    """
    prepared = stage_one.prepare(_request(**requested))
    lines = account.plan_lines(prepared)
    for line in (prepared.listing.line, *lines, *prepared.notes, *prepared.open_files(fetch=False)):
        _say(line, as_json)
    _account(prepared, prepared.plan, as_json)
    if not force:
        prepared.check_space()


@click.command()
@_takes(*_REQUEST)
@DEVICE
@click.option(
    "--workers",
    type=click.IntRange(0),
    metavar="N",
    help="Processes that read samples ahead; with 0, reading and encoding alternate. Default: "
    "the cores of this rank, at most 8; 0 for fewer than 4,096 samples and under Ray.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where shards are built: local (this process, or the ranks of a launch) or ray (a Ray "
    "cluster).",
)
@click.option(
    "--shards-from",
    "begin",
    default=0,
    show_default=True,
    metavar="N",
    help="First shard to build, for the jobs of an array.",
)
@click.option(
    "--shards-to",
    "end",
    type=int,
    metavar="N",
    help="Build shards up to, but not including, this one. Default: all.",
)
@click.option(
    "--retry-failed", "retry", is_flag=True, help="Rebuild the shards that have failed samples."
)
@one_line_errors
def build(
    force: bool,
    as_json: bool,
    device: str,
    workers: int | None,
    engine: str,
    begin: int,
    end: int | None,
    retry: bool,
    **requested: Any,
) -> None:
    """Build the missing shards of a cache; rerun to resume.

    \b
    Examples:
      reed-cache build digits
      reed-cache build digits --encoder digits-vit
      reed-cache build digits --encoder mine=my_module:MyEncoder
      reed-cache build my_module:MY_PIPELINE --data DIR
      torchrun --nproc-per-node 2 -m reed.cli.cache build digits
      reed-cache build digits --shards-from 0 --shards-to 4
    """
    share = engines.launched_share(begin, end)
    if share.world > 1:
        rebuild, with_ray = requested["rebuild"], engine == "ray"
        _refuse_together(share.world, {"--rebuild": rebuild, "--engine": with_ray})
    # What was mistyped is told before torch is imported, which picking the device does.
    prepared = stage_one.prepare(_request(**requested))
    ray = ray_engine.connect() if engine == "ray" else None
    device = ray_engine.pick_device(ray, device) if ray else pick_device(device)
    _say(prepared.listing.line, as_json)
    # The workers of a Ray cluster may have files that this machine has not.
    if not ray:
        list(prepared.open_files(fetch=True))
    if not force:
        prepared.check_space()

    frozen = prepared.freeze()
    if workers is None:
        workers = 0 if ray else overlap.default_workers(frozen.manifest.samples)
    for planned in prepared.jobs:
        job = replace(planned, device=device)
        began = time.monotonic()
        if ray:
            gpu, spec = device == "cuda", job.absolute()
            timing = ray_engine.run(
                ray, job.column, frozen, spec, share, gpu=gpu, workers=workers, retry=retry
            )
        else:
            timing = engines.run(job.open(), share, workers=workers, retry=retry)
        if timing.encode:
            cost.record(job.cache / job.column, time.monotonic() - began, device)
            _say(f"{job.column}: {timing.summary()}", as_json)
        for note, count in timing.noted.items():
            _say(f"{job.column}: {count} of the samples that were read: {note}", as_json)
        if terms := getattr(job.make_encoder(), "terms", ""):
            _say(f"{job.column}: {terms}", as_json)
    _say(account.last_line(_account(prepared, frozen, as_json)), as_json)


def _say(line: str, as_json: bool) -> None:
    """Print a line for people: on stderr if stdout holds JSON."""
    if line:
        click.echo(line, err=as_json)


def _account(prepared: Build, frozen: Plan, as_json: bool) -> dict[str, Any]:
    names = [job.column for job in prepared.jobs]
    table = account.table(prepared.request.cache, frozen, names, prepared.listing)
    if as_json:
        click.echo(json.dumps(table, indent=1))
    return table


def _request(
    pipeline: str, cache: Path | None, container: str | None = None, **rest: Any
) -> Request:
    return Request(
        pipeline=pipeline,
        cache=cache or Path("cache") / pipelines.label(pipeline),
        container=container or "",
        **rest,
    )


def _refuse_together(world: int, flags: dict[str, bool]) -> None:
    for flag, is_set in flags.items():
        if is_set:
            raise ReedError(f"{flag} cannot be used by {world} processes at once; use one")
