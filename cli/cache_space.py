"""reed-cache rm and prune: give space back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from reed.bytes import human
from reed.cache import files, plan, remove, schema
from reed.cli.common import CACHES, CacheDir, one_line_errors
from reed.errors import ReedError
from reed.store import mirror
from reed.view.holders import holders


def _runs(help: str) -> Callable[[Any], Any]:
    """Return the option --runs."""
    kind = click.Path(path_type=Path)
    default = Path("runs")
    return click.option(
        "--runs", type=kind, default=default, show_default=True, metavar="DIR", help=help
    )


@click.command()
@click.argument("columns", nargs=-1, required=True, type=click.Path(path_type=Path))
@_runs("Folder of runs: a column that one of them reads stays.")
@click.option("--force", is_flag=True, help="Remove a column that a run reads.")
@one_line_errors
def rm(columns: tuple[Path, ...], runs: Path, force: bool) -> None:
    """Remove columns, given as CACHE/COLUMN.

    A column stays if another one was made from it, or if a run reads it. `reed-cache build` makes
    a removed column again.

    \b
    Examples:
      reed-cache rm cache/digits/digits-vit
      reed-cache rm cache/digits/digits-vit --runs /scratch/runs
    """
    by_cache: dict[Path, list[str]] = {}
    for place in columns:
        by_cache.setdefault(mirror.local(place.parent), []).append(place.name)
    for cache, names in by_cache.items():
        plan.load(cache)  # raises ReedError if this is no cache
        remove.check(cache, names)
        read = {} if force else holders(runs, cache)
        for name in filter(read.__contains__, names):
            raise ReedError(
                f"column {name!r} of {cache} stays: the run {read[name]} reads it and could not "
                "go on; remove it anyway with --force"
            )

    for cache, names in by_cache.items():
        for name in dict.fromkeys(names):
            click.echo(f"{cache / name}: removed, {human(remove.column(cache, name))}")


@click.command()
@click.argument("cache", type=CacheDir(), shell_complete=CACHES)
@_runs("Folder of runs that may read the cache.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@one_line_errors
def prune(cache: Path, runs: Path, dry_run: bool) -> None:
    """Remove what killed commands left, and name unused columns.

    What has changed within the last hour stays, because a command may be writing it.

    Example: reed-cache prune cache/digits --dry-run
    """
    plan.load(cache)
    total = 0
    for path, what in list(remove.left_behind(cache)):
        size = files.size_of(path)
        total += size
        click.echo(f"{path}: {what}, {human(size)}")
        if not dry_run:
            files.remove(path)
    click.echo(f"{cache}: {human(total)} {'could be' if dry_run else 'were'} removed")

    # Columns are for the user to remove: a run elsewhere may read them.
    read = holders(runs, cache)
    for name in schema.columns(cache):
        if name not in read:
            size = human(files.size_of(cache / name))
            click.echo(f"{cache / name}: {size}, no run in {runs} reads it (reed-cache rm)")
