"""reed-cache convert: a copy of a cache in another file format, or a column in another codec."""

from __future__ import annotations

from pathlib import Path

import click

from reed.build import transcode
from reed.build.choices import parse_codecs
from reed.cache import convert as converting
from reed.cache import plan, schema
from reed.cli.common import CACHES, CacheDir, one_line_errors
from reed.errors import ReedError
from reed.wording import counted


@click.command()
@click.argument("cache", type=CacheDir(), shell_complete=CACHES)
@click.option(
    "--to",
    type=click.Choice(schema.CONTAINERS),
    help="File format for the shards of a new cache.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the new cache.",
)
@click.option(
    "--column",
    "names",
    multiple=True,
    metavar="NAME",
    help="Column to convert, others are copied; may be repeated. Default: all.",
)
@click.option(
    "--codec",
    "codecs",
    multiple=True,
    metavar="COLUMN/FIELD=CODEC",
    help="Codec of a field in a new column of this cache; may be repeated. The column stays.",
)
@click.option(
    "--name",
    default="",
    metavar="COLUMN",
    help="Name of the new column. Default: COLUMN-CODEC, such as hog-pca16-int8.",
)
@one_line_errors
def convert(
    cache: Path,
    to: str | None,
    out: Path | None,
    names: tuple[str, ...],
    codecs: tuple[str, ...],
    name: str,
) -> None:
    """Copy a cache in another format, or a column in another codec.

    With --to and --out: write a copy of the cache with its shards in another file format. With
    --codec: make a new column of this cache from the values of an existing one, without the raw
    data and the encoder. What its codec has lost stays lost. Rerun the same command to resume.

    \b
    Examples:
      reed-cache convert cache/digits --to h5 --out cache/digits-h5
      reed-cache convert cache/digits --codec digits-vit/tokens=pca:16+int8
    """
    if codecs:
        if to or out or names:
            raise click.UsageError(
                "--codec makes a new column of CACHE; leave out --to, --out and --column"
            )
        _transcode(cache, codecs, name)
        return

    # Neither is required by click, because --codec takes the place of both.
    if name:
        raise click.UsageError("--name is for the column that --codec makes; give that, too")
    if not to or not out:
        raise click.UsageError(
            "give --to and --out for a copy in another file format, or --codec for a new column"
        )
    frozen = converting.convert(cache, out, to, names)
    total = frozen.shards * len(schema.columns(out))
    click.echo(f"{out}: {counted(total, 'shard')}, every record read back and compared")


def _transcode(cache: Path, codecs: tuple[str, ...], name: str) -> None:
    """Make one new column per column that --codec names, and say what each is called."""
    chosen = parse_codecs(codecs)
    if name and len(chosen) > 1:
        raise ReedError(
            f"--name {name!r} is for one new column, --codec names {', '.join(chosen)}; run the "
            "command once per column"
        )

    # What was made may keep fewer components than --codec says, so both codecs are shown.
    for source, pairs in chosen.items():
        if len(dict(pairs)) < len(pairs):
            raise ReedError(f"--codec names a field of {source!r} twice; give each field once")
        column = transcode.transcode(cache, source, dict(pairs), name)
        old = schema.load_column(cache, source)
        how = ", ".join(
            f"{field} {old.field(field).codec} -> {column.field(field).codec}" for field, _ in pairs
        )
        shards = counted(plan.load(cache).shards, "shard")
        click.echo(f"{cache}: column {column.name}, {shards}, made from {source} ({how})")
