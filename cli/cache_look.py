"""The commands of reed-cache that only look: list, info, study, peek, doctor."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from reed.bytes import human
from reed.cli.common import CACHES, one_line_errors
from reed.errors import ReedError


@click.command("list")
@click.argument(
    "what",
    type=click.Choice(["caches", "pipelines", "encoders", "sources", "codecs"]),
    default="caches",
    metavar="[WHAT]",
)
@one_line_errors
def list_(what: str) -> None:
    """List caches here, or pipelines, encoders, sources or codecs.

    A line is a name and what it is; WHAT is caches (the default), pipelines,
    encoders (those in files of this folder come last), sources or codecs.

    Example: reed-cache list encoders
    """
    from reed.view import listing

    tables = {
        "caches": lambda: listing.caches(Path()),
        "pipelines": listing.pipeline_lines,
        "encoders": lambda: listing.encoder_lines(Path()),
        "sources": listing.source_lines,
        "codecs": listing.codec_lines,
    }
    lines = list(tables[what]())
    width = max((len(name) for name, _ in lines), default=0)
    for name, text in lines:
        click.echo(f"{name:{width}}  {text}".rstrip())


@click.command()
@click.argument("cache", type=click.Path(path_type=Path), shell_complete=CACHES)
@one_line_errors
def info(cache: Path) -> None:
    """Show the columns of a cache, their fields, sizes and failures.

    Example: reed-cache info cache/digits
    """
    from reed.view.info import lines

    for line in lines(cache):
        click.echo(line)


@click.command()
@click.argument("cache", type=click.Path(path_type=Path), shell_complete=CACHES)
@click.argument("column", metavar="COLUMN[/FIELD]")
@click.option(
    "--samples",
    type=click.IntRange(2),
    default=512,
    show_default=True,
    help="Records to read: half calibrate, at most 256; the others measure.",
)
@click.option(
    "--codec",
    "names",
    multiple=True,
    metavar="CODEC",
    help="A codec to try; repeat for several. Default: the usual ones.",
)
@click.option(
    "--json",
    "out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the numbers here.",
)
@one_line_errors
def study(cache: Path, column: str, samples: int, names: tuple[str, ...], out: Path | None) -> None:
    """Measure what each codec would cost and keep of a column.

    \b
    Examples:
      reed-cache study cache/digits digits-vit/tokens
      reed-cache study cache/digits digits-vit --codec int8 --codec pca:16+int8
    """
    from reed.cache import files
    from reed.view import study as studies

    found = []
    for owner, field in studies.targets(cache, column):
        found.append(studies.study(cache, owner, field, samples=samples, names=names))
        for line in studies.table(found[-1]):
            click.echo(line)
    if out:
        plain = [dataclasses.asdict(each) for each in found]
        files.write_atomic(out, (json.dumps(plain, indent=1) + "\n").encode())


@click.command()
@click.argument("cache", type=click.Path(path_type=Path), shell_complete=CACHES)
@click.argument("key", required=False)
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Where the page goes. Default: peek-CACHE.html, here.",
)
@click.option(
    "--samples", type=click.IntRange(1), help="How many samples the page shows. Default: 24."
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help='Which sample "random" is, and which ones a page shows.',
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Where the picture goes. Default: peek-KEY.png, here.",
)
@one_line_errors
def peek(
    cache: Path,
    key: str | None,
    html: Path | None,
    samples: int | None,
    seed: int,
    out: Path | None,
) -> None:
    """Write a page of a cache, or draw one sample of every column.

    Without a KEY: one page of HTML that needs nothing else, with what the cache holds and some of
    its samples. With a KEY (a sample's key, "#ROW" of the cache, or "random"): a picture of that
    sample, or with --html too the page with that sample before the others.

    \b
    Examples:
      reed-cache peek cache/digits
      reed-cache peek cache/digits --html digits.html --samples 50
      reed-cache peek cache/digits random --seed 3
      reed-cache peek cache/digits '#0' --out first.png
    """
    from reed.view import peek as peeking

    row = None if key is None else peeking.find(cache, key, seed)
    if row is not None and html is None:
        if samples is not None:
            raise ReedError("--samples is of a page, a KEY alone asks for a picture; add --html")
        click.echo(peeking.save(cache, row, out))
        return
    if out is not None:
        raise ReedError("--out is of the picture of a sample; give its KEY, or --html for a page")
    from reed.view.pages import cache as pages

    page = pages.save(cache, html, count=samples or 24, seed=seed, first=row)
    click.echo(f"{page} ({human(page.stat().st_size)})")


@click.command()
@click.argument(
    "folder",
    metavar="[DIR]",
    required=False,
    type=click.Path(path_type=Path),
    shell_complete=CACHES,
)
@one_line_errors
def doctor(folder: Path | None) -> None:
    """Check versions, extras, devices and the speed of a disk.

    Writes up to 256 MiB to DIR (default: cache/, or else this folder) and
    removes them. Exit code 1 if a build would fail; paste it into an issue.

    Example: reed-cache doctor /data/cache
    """
    from reed.view import doctor as examining

    if folder is None:
        folder = Path("cache") if Path("cache").is_dir() else Path()
    if not folder.is_dir():
        raise click.UsageError(f"there is no folder {folder}; name one that the cache can be in")
    wrong = []
    for title, findings in examining.examine(folder):
        click.echo(f"{title}")
        for each in findings:
            click.echo(f"  {each.name:15} {each.found}")
        wrong += [each for each in findings if each.advice]
    for each in wrong:
        click.echo(f"{'Error' if each.breaks else 'Warning'}: {each.advice}")
    if any(each.breaks for each in wrong):
        raise SystemExit(1)
    click.echo("Nothing is wrong that would break a build.")
