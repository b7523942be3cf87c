"""reed-cache plan, prefetch and build: show what a build needs and writes, and run it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from reed import pipelines, stage_one
from reed.build import engines, ray_engine, together
from reed.build.shard import Timing
from reed.cache import cost
from reed.cache.plan import Plan
from reed.cli import slurm as job_scripts
from reed.cli.build_options import COLUMNS, REQUEST, takes
from reed.cli.common import DEVICE, one_line_errors, pick_device
from reed.errors import ReedError
from reed.stage_one import Build, JobSpec, Request
from reed.store import mirror
from reed.view import account, pace


@click.command()
@takes(*COLUMNS)
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
@takes(*REQUEST)
@DEVICE
@click.option(
    "--measure",
    is_flag=True,
    help="Also time disk, reading, encoding and writing on a few samples: which of them limits "
    "the build, and how long it takes.",
)
@one_line_errors
def plan(force: bool, as_json: bool, device: str, measure: bool, **requested: Any) -> None:
    """Show what a build would write, without building anything.

    Fails if the disk is too small for it.

    \b
    Examples:
      reed-cache plan digits
      reed-cache plan digits --measure
      reed-cache plan imagenet --data /data/imagenet/train
      reed-cache plan digits --codec digits-vit/tokens=float16
    """
    prepared = stage_one.prepare(_request(**requested))
    lines = account.plan_lines(prepared)
    for line in (prepared.listing.line, *lines, *prepared.notes, *prepared.open_files(fetch=False)):
        _say(line, as_json)
    for line in pace.lines(prepared, pick_device(device)) if measure else ():
        _say(line, as_json)
    _account(prepared, prepared.plan, as_json)
    if not force:
        prepared.check_space()


@click.command()
@takes(*REQUEST)
@DEVICE
@click.option(
    "--workers",
    type=click.IntRange(0),
    metavar="N",
    help="Processes that read samples ahead; with 0, reading and encoding alternate. Default: by "
    "the time that the first samples take, at most the cores of this rank and 8; 0 under Ray.",
)
@click.option(
    "--apart",
    is_flag=True,
    help="Build one column after another, each reading the source, so that one encoder at a time "
    "is in memory.",
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
@job_scripts.SLURM
@click.pass_context
@one_line_errors
def build(
    context: click.Context,
    force: bool,
    as_json: bool,
    device: str,
    workers: int | None,
    apart: bool,
    engine: str,
    begin: int,
    end: int | None,
    retry: bool,
    slurm: int | None,
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
      reed-cache build digits --slurm 4
    """
    share = engines.launched_share(begin, end)
    if share.world > 1:
        rebuild, with_ray = requested["rebuild"], engine == "ray"
        _refuse_together(share.world, {"--rebuild": rebuild, "--engine": with_ray})
    # What was mistyped is told before torch is imported, which picking the device does.
    if slurm:
        job_scripts.refuse(context)
    prepared = stage_one.prepare(_request(**requested))
    ray = ray_engine.connect() if engine == "ray" else None
    if not slurm:
        device = ray_engine.pick_device(ray, device) if ray else pick_device(device)
    _say("\n".join(filter(None, (prepared.listing.line, *prepared.notes))), as_json)
    # The workers of a Ray cluster, and the jobs of Slurm, may have files that this machine has not.
    if not ray and not slurm:
        list(prepared.open_files(fetch=True))
    if not force:
        prepared.check_space()
    if slurm:
        return _say(job_scripts.write(prepared, context), as_json)

    frozen = prepared.freeze()
    jobs = {job.column: replace(job, device=device) for job in prepared.jobs}

    def report(name: str, timing: Timing, seconds: float) -> None:
        _report(jobs[name], timing, seconds, as_json)

    how = together.Settings(
        prepared.request.cache, frozen, prepared.make_source(), share, workers, retry
    )
    if ray:
        _build_on_ray(ray, jobs, how, report)
    else:
        together.run([job.member() for job in jobs.values()], how, report, apart)
    _say(account.last_line(_account(prepared, frozen, as_json)), as_json)


def _build_on_ray(
    ray: Any, jobs: dict[str, JobSpec], how: together.Settings, report: together.Report
) -> None:
    for name, job in jobs.items():
        began, gpu, spec = time.monotonic(), job.device == "cuda", job.absolute()
        workers, share = how.workers or 0, how.share
        timing = ray_engine.run(
            ray, name, how.plan, spec, share, gpu=gpu, workers=workers, retry=how.retry
        )
        mirror.local(spec.cache)  # of what workers on other machines have stored
        report(name, timing, time.monotonic() - began)


def _report(job: JobSpec, timing: Timing, seconds: float, as_json: bool) -> None:
    """Record and print what a column took."""
    if timing.encode:
        cost.record(job.cache / job.column, seconds, job.device)
        _say(f"{job.column}: {timing.summary()}", as_json)
    for note, count in timing.noted.items():
        _say(f"{job.column}: {count} of the samples that were read: {note}", as_json)
    if terms := getattr(job.make_encoder(), "terms", ""):
        _say(f"{job.column}: {terms}", as_json)


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
