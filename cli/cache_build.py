"""reed-cache plan, prefetch and build: what a build will write, what it needs, writing it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from reed import pipelines, stage_one
from reed.build import engines, overlap, ray_engine
from reed.build import size as space
from reed.bytes import human
from reed.cache import cost, schema
from reed.cache.plan import Plan
from reed.cli.common import CACHES, completed, one_line_errors, pick_device
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
        help="Column to add; repeat for several. Default: the pipeline's own. An encoder "
        "of your own: COLUMN=package.module:Class, found from this folder, too.",
    ),
    click.option(
        "--cache",
        type=click.Path(path_type=Path),
        metavar="DIR",
        shell_complete=CACHES,
        help="Where the cache goes. Default: cache/PIPELINE.",
    ),
    click.option(
        "--set",
        "options",
        multiple=True,
        metavar="COLUMN.NAME=VALUE",
        help="A setting of a column's encoder, or source.NAME=VALUE of the raw data's "
        "reader, such as dinov2-b.weights=FILE or source.resolution=512.",
    ),
)
_WHAT = (
    *_COLUMNS,
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="The raw data, where the source reads files.",
    ),
    click.option(
        "--source",
        default="",
        metavar="NAME",
        shell_complete=completed(SOURCES.names),
        help="What reads the raw data (reed-cache list sources). Default: as in the "
        "cache, or the pipeline's own.",
    ),
    click.option(
        "--codec",
        "codecs",
        multiple=True,
        metavar="COLUMN/FIELD=CODEC",
        help="Store a field in another way, such as digits-vit/tokens=float16.",
    ),
    click.option(
        "--container",
        type=click.Choice(schema.CONTAINERS),
        default=None,
        help="How shards of new columns are stored. Default: tar.",
    ),
    click.option("--flip", is_flag=True, help="Store the mirrored samples too, in every column."),
    click.option(
        "--extend",
        is_flag=True,
        help="Put samples that the source has now, and not before, into new shards.",
    ),
    click.option(
        "--rebuild",
        is_flag=True,
        help="Throw away the plan and ALL columns of the cache, and start anew.",
    ),
    click.option("--force", is_flag=True, help="Go on when the disk looks too small."),
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print the account of samples and files as JSON; what is said goes to stderr.",
    ),
)


def _takes(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command some of the arguments that make a Request."""

    def given(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return given


@click.command()
@_takes(*_COLUMNS)
@one_line_errors
def prefetch(**asked: Any) -> None:
    """Download the weights that a build would need; builds nothing.

    \b
    Examples:
      reed-cache prefetch imagenet
      reed-cache prefetch imagenet --encoder dinov2-b
    """
    for weights in stage_one.prefetch(_request(**asked)):
        found = weights.found
        if found is None:
            click.echo(f"{weights.column}: has no weights to download")
            continue
        click.echo(f"{weights.column}: {weights.origin}, {found.folder}, sha256 {found.sha256}")
        for path in found.files:
            click.echo(f"  {path}: {path.stat().st_size:,} bytes")


@click.command()
@_takes(*_WHAT)
@one_line_errors
def plan(force: bool, as_json: bool, **asked: Any) -> None:
    """Show what a build would write, and refuse what does not fit.

    Writes nothing.

    \b
    Examples:
      reed-cache plan digits
      reed-cache plan imagenet --data /data/imagenet/train
      reed-cache plan digits --codec digits-vit/tokens=float16
    """
    found = stage_one.prepare(_request(**asked))
    for line in (found.listing.line, *_shown(found), *found.open_files(fetch=False)):
        _say(line, as_json)
    _account(found, found.plan, as_json)
    if not force:
        found.check_space()


@click.command()
@_takes(*_WHAT)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option(
    "--workers",
    type=click.IntRange(0),
    metavar="N",
    help="Processes that read samples ahead; 0 reads between encoding. Default: the "
    "cores of this rank, at most 8; 0 below 4,096 samples and under Ray.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="This process (or the ranks of a launch), or a Ray cluster.",
)
@click.option(
    "--shards-from",
    "begin",
    default=0,
    show_default=True,
    metavar="N",
    help="The first shard to build, for the jobs of an array.",
)
@click.option(
    "--shards-to", "end", type=int, metavar="N", help="The shard to stop before. Default: all."
)
@click.option(
    "--retry-failed", "retry", is_flag=True, help="Build the shards again that have failed samples."
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
    **asked: Any,
) -> None:
    """Build what is missing of a cache; rerun to resume.

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
        _refuse_together(share.world, {"--rebuild": asked["rebuild"], "--engine": engine == "ray"})
    ray = ray_engine.connect() if engine == "ray" else None
    device = ray_engine.pick_device(ray, device) if ray else pick_device(device)
    found = stage_one.prepare(_request(device=device, **asked))
    _say(found.listing.line, as_json)
    if not ray:  # its workers may have the files, and this machine not
        list(found.open_files(fetch=True))
    if not force:
        found.check_space()
    frozen = found.freeze()
    if workers is None:
        workers = 0 if ray else overlap.default_workers(frozen.manifest.samples)
    for job in found.jobs:
        began = time.monotonic()
        if ray:
            timing = ray_engine.run(
                ray,
                job.column,
                frozen,
                job.absolute(),
                share,
                gpu=device == "cuda",
                workers=workers,
                retry=retry,
            )
        else:
            timing = engines.run(job.open(), share, workers=workers, retry=retry)
        if timing.encode:
            cost.record(job.cache / job.column, time.monotonic() - began, device)
            _say(f"{job.column}: {timing.summary()}", as_json)
        if terms := getattr(job.make_encoder(), "terms", ""):
            _say(f"{job.column}: {terms}", as_json)
    told = _account(found, frozen, as_json)
    _say(account.last_line(told), as_json)


def _say(line: str, as_json: bool) -> None:
    """A line for people, beside the JSON where that is asked for."""
    if line:
        click.echo(line, err=as_json)


def _account(found: Build, frozen: Plan, as_json: bool) -> dict[str, Any]:
    names = [job.column for job in found.jobs]
    table = account.table(found.request.cache, frozen, names, found.listing)
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


def _shown(found: Build) -> Iterator[str]:
    """The table of `reed-cache plan`."""
    manifest, cache = found.plan.manifest, found.request.cache
    views = f", {manifest.views} views of each" if manifest.views > 1 else ""
    yield (
        f"{cache}: {manifest.samples} samples{views}, {found.plan.shards} shards of up to "
        f"{manifest.shard_size}"
    )
    for size in found.sizes:
        known = f"{human(size.record)} per record, {size.basis}"
        took = "" if size.seconds is None else space.duration(size.seconds)
        pace = f"; about {took} at the pace of the shards that are there" if took else ""
        yield (
            f"  {size.column}: {size.shards} of {found.plan.shards} shards to write, "
            f"{size.bytes:,} bytes ({known}){pace}"
        )
    total = sum(size.bytes for size in found.sizes)
    files = sum(2 * size.shards for size in found.sizes)
    yield (
        f"total: {total:,} bytes ({human(total)}) in {files} files; {human(space.free(cache))} free"
    )
