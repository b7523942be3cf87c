"""reed-cache verify, repair and reindex: check a cache and repair it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from tqdm import tqdm

from reed import stage_one
from reed.build import column as columns
from reed.build import computed, engines, seen, transcode
from reed.build.seen import Seen
from reed.build.shard import Encoder
from reed.build.source import listed
from reed.cache import classes, mend, plan, schema
from reed.cache import verify as verifying
from reed.cache.plan import Plan
from reed.cache.schema import Marker
from reed.cache.verify import Problem
from reed.cli.common import CACHES, DEVICE, CacheDir, one_line_errors, pick_device
from reed.errors import ReedError
from reed.stage_one import JobSpec
from reed.store import mirror
from reed.wording import counted

JOBS = click.option(
    "--jobs",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Number of threads that read shards.",
)


@click.command()
@click.argument("cache", type=CacheDir(), shell_complete=CACHES)
@click.argument("columns", nargs=-1, metavar="[COLUMN]...")
@click.option("--deep", is_flag=True, help="Also read every shard: hash, headers and values.")
@JOBS
@one_line_errors
def verify(cache: Path, columns: tuple[str, ...], deep: bool, jobs: int) -> None:
    """Check every shard of every column, or of some columns.

    The exit code is 1 if there is a problem.

    \b
    Examples:
      reed-cache verify cache/digits --deep
      reed-cache verify cache/digits pixels digits-vit
    """
    frozen = _plan_or_exit(cache)
    # A column that is named but was never begun is a problem, too.
    names, where = list(dict.fromkeys(columns)) or verifying.names(cache), mirror.shown(cache)
    problems, total = _problems(cache, frozen, names, deep, jobs)
    for problem in problems:
        click.echo(f"{problem.where}: {problem.what}")
    for note in (verifying.note(cache, frozen), *verifying.lost_origins(cache)):
        if note:
            click.echo(f"{where}: {note}")
    click.echo(f"{where}: {counted(total, 'shard')} checked, {counted(len(problems), 'problem')}")
    if problems:
        raise SystemExit(1)


def _plan_or_exit(cache: Path) -> Plan:
    """Load the plan; if it is damaged, print the problem and exit with code 1.

    A damaged plan is a problem like any other, but without it no shard can be checked.
    """
    try:
        return plan.load(cache)
    except ReedError as error:
        if not (cache / "manifest.json").is_file():
            raise
        click.echo(f"{cache}: {error}")
        raise SystemExit(1) from error


def _problems(
    cache: Path, frozen: Plan, names: Sequence[str], deep: bool, jobs: int
) -> tuple[list[Problem], int]:
    """Verify some columns, with a bar in a terminal; return what is wrong, and the shards seen."""
    problems, seen = [], 0
    with tqdm(total=frozen.shards * len(names), unit="shard", disable=None) as bar:
        for name in names:
            bar.set_description(name)
            for problem in verifying.verify(cache, frozen, name, deep=deep, jobs=jobs):
                is_shard = problem is None or problem.shard is not None
                seen += is_shard
                bar.update(is_shard)
                if problem:
                    problems.append(problem)
    return problems, seen


@click.command()
@click.argument("cache", type=CacheDir(), shell_complete=CACHES)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Raw data, if the source reads files.",
)
@DEVICE
@JOBS
@one_line_errors
def repair(cache: Path, data: Path | None, device: str, jobs: int) -> None:
    """Verify every byte, and rebuild the bad shards.

    Example: reed-cache repair cache/digits
    """
    frozen = plan.load(cache)
    problems, _ = _problems(cache, frozen, verifying.names(cache), True, jobs)
    for problem in problems:
        click.echo(f"{problem.where}: {problem.what}")

    mend.refuse_denied(cache, problems)

    # Without its description or its calibration a column has no shards that could be replaced.
    broken = [problem.column for problem in problems if problem.shard is None]
    if broken:
        raise ReedError(
            f"column {', '.join(map(repr, broken))} of {cache} cannot be mended shard by shard; "
            "restore the file, or remove the column's folder and build it again"
        )

    # Whether the shards can be made again is known before the bad ones are removed.
    names = list(dict.fromkeys(problem.column for problem in problems))
    makers = _makers(cache, names)
    encoded = [name for name, maker in makers.items() if not isinstance(maker, _Transcoded)]
    unknown = _check_source(cache, frozen, encoded, data) if encoded else []
    before = mend.markers(cache, problems)
    dropped = mend.repair(cache, problems)
    if makers:
        device = pick_device(device)
        _rebuild(cache, makers, data, device)
        _follow(cache, before, unknown, data, device)
    count = sum(len(shards) for shards in dropped.values())
    were = "was bad and is" if count == 1 else "were bad and are"
    click.echo(f"{mirror.shown(cache)}: {counted(count, 'shard')} {were} built again")


def _check_source(cache: Path, frozen: Plan, names: list[str], data: Path | None) -> list[str]:
    """Raise ReedError if the source no longer has, or computes, what the plan was made from.

    Samples that are new in the source do no harm.

    Returns:
        The columns of which it is not known what the source computed by; a line says so.
    """
    manifest = frozen.manifest
    source = stage_one.make_source(manifest.source, data, manifest.options)
    unknown = []
    for name in names:
        if line := computed.check(cache, schema.load_column(cache, name), source):
            click.echo(f"{line}; columns that read what changes are built again, too")
            unknown.append(name)

    # Their values may change, so the columns that read them must be ones that can be built again.
    for name in mend.readers_of(cache, unknown):
        maker = _maker(cache, name)
        if not isinstance(maker, _Transcoded):
            computed.check_reader(cache, schema.load_column(cache, name), maker, source)
    listing = listed(source, Seen(cache / seen.NAME))

    # Labels number the classes: with another list of classes they would no longer match.
    moved = classes.first_moved(manifest, frozen.keys, listing.classes)
    if moved and any(classes.has_labels(cache, name) for name in names):
        raise ReedError(
            f"{cache} was extended before class lists were frozen, and {moved!r} has two numbers "
            "in it: labels cannot be built again as they were; start anew with --rebuild"
        )

    plan.propose(  # raises ReedError if the source has changed
        cache,
        listing,
        pipeline=manifest.pipeline,
        domain=manifest.domain,
        source=manifest.source,
        shard_size=manifest.shard_size,
        extend=True,
    )
    return unknown


def _follow(
    cache: Path,
    before: Mapping[tuple[str, int], Marker | None],
    unknown: Collection[str],
    data: Path | None,
    device: str,
) -> None:
    """Build again the shards of other columns that were made from values that have changed."""
    stale: dict[tuple[str, int], Problem] = {}
    for (name, shard), old in before.items():
        new = schema.load_marker(cache, schema.load_column(cache, name), shard)
        if mend.has_changed(old, new, unknown=name in unknown):
            readers = mend.readers_of(cache, [name])
            stale |= {(r, shard): Problem(r, "its input has changed", r, shard) for r in readers}
            also = f"; built again, too: {', '.join(readers)}" if readers else ""
            click.echo(f"{name} shard {shard}: other values than before{also}")

    # What was built again from the new values just now is left as it is.
    stale = {place: problem for place, problem in stale.items() if place not in before}
    if dropped := mend.repair(cache, stale.values()):
        _rebuild(cache, _makers(cache, list(dropped)), data, device)


@dataclass(frozen=True)
class _Transcoded:
    """The maker of a column that no encoder makes, in place of one.

    Attributes:
        reads: The fields of the column that it was made from.
    """

    reads: tuple[str, ...]


def _makers(cache: Path, names: Sequence[str]) -> dict[str, Encoder | _Transcoded]:
    """Return what makes some columns and those that they read, inputs first."""
    return columns.with_inputs(cache, names, lambda name: _maker(cache, name))


def _maker(cache: Path, name: str) -> Encoder | _Transcoded:
    """Return the encoder of a column, or what it was transcoded from; ReedError if that is gone."""
    column = schema.load_column(cache, name)
    if column.made_from:
        transcode.check(cache, column)
        return _Transcoded(tuple(column.made_from))
    return JobSpec.of_column(cache, name, None, "cpu").make_encoder()


def _rebuild(
    cache: Path, makers: Mapping[str, Encoder | _Transcoded], data: Path | None, device: str
) -> None:
    """Make the missing shards of columns as they were first made, inputs first."""
    for name, maker in makers.items():
        if isinstance(maker, _Transcoded):
            transcode.remake(cache, name)
        else:
            engines.run(JobSpec.of_column(cache, name, data, device).open(), engines.Share())


@click.command()
@click.argument("cache", type=CacheDir(), shell_complete=CACHES)
@click.option(
    "--column",
    "names",
    multiple=True,
    metavar="NAME",
    help="Column to reindex; may be repeated. Default: all.",
)
@one_line_errors
def reindex(cache: Path, names: tuple[str, ...]) -> None:
    """Restore lost markers from the headers of the shards.

    Example: reed-cache reindex cache/digits
    """
    frozen, count = plan.load(cache), 0
    for name in names or schema.columns(cache):
        for marker in mend.reindex(cache, frozen, name):
            failed = f", {len(marker.failed)} not in it" if marker.failed else ""
            click.echo(
                f"{name} shard {marker.shard}: {counted(len(marker.keys), 'sample')}{failed}"
            )
            count += 1
    click.echo(f"{mirror.shown(cache)}: {counted(count, 'marker')} written")
