"""reed-cache export and import: a cache and the formats of other loaders and tools."""

from __future__ import annotations

from pathlib import Path

import click

from reed.cache import account
from reed.cache.opened import open_cache
from reed.cli.common import CACHES, LocalDir, completed, one_line_errors
from reed.errors import ReedError
from reed.exchange import FORMATS
from reed.exchange import export as exporting
from reed.exchange.table import DTYPES
from reed.sources.image.cached_files import LAYOUTS
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
    type=LocalDir(),
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
@click.argument("column", type=LocalDir())
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--entry",
    default="",
    metavar="NAME",
    help="Of parquet, the column with the arrays. Default: the only one besides key. Of --layout, "
    "the latents to take: repa-h5 the name of their file, webdataset the size of the images.",
)
@click.option("--codec", default="", help="Codec of the values. Default: float16.")
@click.option("--licence", default="", metavar="TEXT", help="Licence of the arrays.")
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    help="Make a whole cache of what another trainer has cached: FILE is its folder, COLUMN the "
    "cache to make.",
)
@click.option(
    "--stats",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Of --layout, LightningDiT's latents_stats.pt.",
)
@click.option(
    "--scale",
    type=float,
    help="Of --layout, the factor from latents to the input of a net. Default: 0.18215 for moments "
    "of 4 channels, else 1.",
)
@one_line_errors
def import_(
    column: Path,
    file: Path,
    entry: str,
    codec: str,
    licence: str,
    layout: str | None,
    stats: Path | None,
    scale: float | None,
) -> None:
    """Make a column from arrays by key, given as CACHE/COLUMN.

    FILE is an .npz, .safetensors, .h5 or .parquet file, or a folder of .npy or .parquet files. A
    sample without an array is left out. No raw data are needed. Rerun the command to resume.

    \b
    Examples:
      reed-cache import cache/digits/mine mine.npz
      reed-cache import cache/digits/mine out --entry digits-vit.cls
      reed-cache import cache/mar /data/mar --layout mar --scale 0.2325
    """
    from reed.exchange import bring, layouts  # here, because building imports torch

    if layout:
        codecs = (f"latents/latents={codec}",) if codec else ()
        layouts.make(
            column,
            file,
            layout,
            latents=entry,
            stats=stats,
            scale=scale,
            codecs=codecs,
            licence=licence,
        )
        _tell(column, file)
        return
    for name, value in {"--stats": stats, "--scale": scale}.items():
        if value is not None:
            raise ReedError(f"{name} is of --layout, which makes a whole cache")
    cache = column.parent
    made = bring.bring(cache, column.name, file, entry=entry, codec=codec, licence=licence)
    with open_cache(cache) as opened:
        place = f"{made.name}/{made.fields[0].name}"
        shape, total = list(made.fields[0].shape), len(opened.plan.keys)
        click.echo(
            f"{cache}: column {place} {shape} {made.fields[0].codec}, "
            f"{len(opened[place]):,} of {counted(total, 'sample')}"
        )


def _tell(cache: Path, data: Path) -> None:
    """Print what a cache that was imported has, and what it lacks of the files."""
    with open_cache(cache) as opened:
        columns = opened.columns.values()
        fields = [f"{c.name}/{f.name} {list(f.shape)}" for c in columns for f in c.fields]
        views = ", each mirrored, too" if opened.manifest.views > 1 else ""
        total = counted(len(opened.plan.keys), "sample")
        lost = len(opened.plan.keys) - len(opened["latents/latents"])

    if line := account.load(cache).line:
        click.echo(f"{data}: {line}")
    left_out = f", {lost:,} left out" if lost else ""
    click.echo(f"{cache}: {total}{views}{left_out}; {', '.join(fields)}")
