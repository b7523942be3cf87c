"""The commands of reed-cache that only look: list, info, study, peek."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from reed import pipelines
from reed.cli.common import one_line_errors
from reed.encoders import ENCODERS
from reed.sources import SOURCES


@click.command("list")
@click.argument("what", type=click.Choice(["caches", "pipelines", "encoders", "sources", "codecs"]),
                default="caches")  # fmt: skip
@one_line_errors
def list_(what: str) -> None:
    """List the caches here, or what this installation knows.

    Example: reed-cache list encoders
    """
    from reed.cache import codecs

    tables = {
        "caches": lambda: sorted(str(p.parent) for p in Path("cache").glob("*/manifest.json")),
        "pipelines": pipelines.names, "encoders": ENCODERS.forms, "sources": SOURCES.names,
        "codecs": lambda: codecs.NAMES,
    }  # fmt: skip
    for name in tables[what]():
        click.echo(name)


@click.command()
@click.argument("cache", type=click.Path(path_type=Path))
@one_line_errors
def info(cache: Path) -> None:
    """Show the columns of a cache, their fields, sizes and failures.

    Example: reed-cache info cache/digits
    """
    from reed.cache.info import lines

    for line in lines(cache):
        click.echo(line)


@click.command()
@click.argument("cache", type=click.Path(path_type=Path))
@click.argument("column", metavar="COLUMN[/FIELD]")
@click.option("--samples", type=click.IntRange(2), default=512, show_default=True,
              help="Records to read: half calibrate, at most 256; the others measure.")  # fmt: skip
@click.option("--codec", "names", multiple=True, metavar="CODEC",
              help="A codec to try; repeat for several. Default: the usual ones.")  # fmt: skip
@click.option("--json", "out", type=click.Path(path_type=Path), metavar="FILE",
              help="Also write the numbers here.")  # fmt: skip
@one_line_errors
def study(cache: Path, column: str, samples: int, names: tuple[str, ...], out: Path | None) -> None:
    """Measure what each codec would cost and keep of a column.

    \b
    Examples:
      reed-cache study cache/digits digits-vit/tokens
      reed-cache study cache/digits digits-vit --codec int8 --codec pca:16+int8
    """
    from reed.cache import files
    from reed.cache import study as studies

    found = []
    for owner, field in studies.targets(cache, column):
        found.append(studies.study(cache, owner, field, samples=samples, names=names))
        for line in studies.table(found[-1]):
            click.echo(line)
    if out:
        plain = [dataclasses.asdict(each) for each in found]
        files.write_atomic(out, (json.dumps(plain, indent=1) + "\n").encode())


@click.command()
@click.argument("cache", type=click.Path(path_type=Path))
@click.argument("key")
@click.option("--seed", default=0, show_default=True, help='Which sample "random" is.')
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.png",
              help="Where the picture goes. Default: peek-KEY.png, here.")  # fmt: skip
@one_line_errors
def peek(cache: Path, key: str, seed: int, out: Path | None) -> None:
    """Draw one sample of every column. KEY: a sample's key, "#ROW" of the cache, or "random".

    \b
    Examples:
      reed-cache peek cache/digits random --seed 3
      reed-cache peek cache/digits '#0' --out first.png
    """
    from reed import peek as peeking

    click.echo(peeking.save(cache, peeking.find(cache, key, seed), out))
