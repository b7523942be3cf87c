"""reed-cache push and pull: a cache and the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import click

from reed.cli.common import CACHES, CacheDir, LocalDir, one_line_errors
from reed.exchange import pull as pulling
from reed.exchange import push as pushing


@click.command()
@click.argument("cache", type=CacheDir(), shell_complete=CACHES)
@click.argument("url")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="COLUMN",
    help="Column to push; may be repeated. Default: all.",
)
@click.option("--public", is_flag=True, help="Let everybody read a data set that is created.")
@one_line_errors
def push(cache: Path, url: str, columns: tuple[str, ...], public: bool) -> None:
    """Store a cache on the Hugging Face hub.

    URL is hf://datasets/OWNER/NAME. What is there already is not sent again: rerun the command
    after a kill, or with new columns. Needs a token of the hub that can write.

    \b
    Examples:
      reed-cache push cache/digits hf://datasets/me/digits
      reed-cache push cache/digits hf://datasets/me/digits --public
    """
    for line in pushing.push(cache, url, columns, public=public).lines:
        click.echo(line)


@click.command()
@click.argument("url")
@click.argument("cache", type=LocalDir(), shell_complete=CACHES)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="COLUMN",
    help="Column to fetch; may be repeated. Default: all.",
)
@one_line_errors
def pull(url: str, cache: Path, columns: tuple[str, ...]) -> None:
    """Fetch a cache from the Hugging Face hub.

    Each shard is compared with the sha256 of its marker before the folder appears. Rerun the
    command after a kill. A cache that is there gets the columns that it lacks.

    \b
    Examples:
      reed-cache pull hf://datasets/me/digits cache/digits
      reed-cache pull hf://datasets/me/digits@v1 cache/digits --column pixels
    """
    for line in pulling.pull(url, cache, columns).lines:
        click.echo(line)
