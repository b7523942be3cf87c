"""reed-cache export and import: a cache and the formats of other loaders and tools."""

from __future__ import annotations

from pathlib import Path

import click

from reed.cache.opened import open_cache
from reed.cli.common import CACHES, completed, one_line_errors
from reed.exchange import FORMATS
from reed.exchange import export as exporting
from reed.exchange.table import DTYPES
from reed.wording import counted


@click.command()
@click.argument("cache", type=click.Path(path_type=Path), shell_complete=CACHES)
@click.option(
    "--to",
    required=True,
    metavar="FORMAT",
    shell_complete=completed(lambda: FORMATS.names()),
    help="Format: energon, hf, lance, litdata, mds or parquet.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to write, which must not exist. Default: CACHE-FORMAT.",
)
@click.option(
    "--column",
    "places",
    multiple=True,
    metavar="COLUMN[/FIELD]",
    help="Column or field to export; may be repeated. Default: all.",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="float32",
    show_default=True,
    help="Type of decoded values that are no integers.",
)
@one_line_errors
def export(cache: Path, to: str, out: Path | None, places: tuple[str, ...], dtype: str) -> None:
    """Copy a cache to the format of another loader, decoded.

    A row has the key of a sample and a column "COLUMN.FIELD" for each field. A sample that one of
    the columns lacks is left out and named. Rerun the same command after a kill.

    \b
    Examples:
      reed-cache export cache/digits --to parquet
      reed-cache export cache/digits --to mds --column digits-vit --out mds
    """
    target = cache.with_name(f"{cache.resolve().name}-{to}") if out is None else out
    with open_cache(cache) as opened:
        done = exporting.export(opened, to, target, places, dtype=dtype)
    for line in done.lines:
        click.echo(line)


@click.command("import")
@click.argument("column", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--entry",
    default="",
    metavar="NAME",
    help="Of parquet, the column with the arrays. Default: the only one besides key.",
)
@click.option("--codec", default="", help="Codec of the values. Default: float16.")
@click.option("--licence", default="", metavar="TEXT", help="Licence of the arrays.")
@one_line_errors
def import_(column: Path, file: Path, entry: str, codec: str, licence: str) -> None:
    """Make a column from arrays by key, given as CACHE/COLUMN.

    FILE is an .npz, .safetensors, .h5 or .parquet file, or a folder of .npy or .parquet files. A
    sample without an array is left out. No raw data are needed. Rerun the command to resume.

    \b
    Examples:
      reed-cache import cache/digits/mine mine.npz
      reed-cache import cache/digits/mine out --entry digits-vit.cls
    """
    from reed.exchange.bring import bring  # here, because building imports torch

    cache = column.parent
    made = bring(cache, column.name, file, entry=entry, codec=codec, licence=licence)
    with open_cache(cache) as opened:
        place = f"{made.name}/{made.fields[0].name}"
        shape, total = list(made.fields[0].shape), len(opened.plan.keys)
        click.echo(
            f"{cache}: column {place} {shape} {made.fields[0].codec}, "
            f"{len(opened[place]):,} of {counted(total, 'sample')}"
        )
