"""reed-cache list, info, study, peek and doctor: show, without changing a cache."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from reed.bytes import human
from reed.cli.common import CACHES, CacheDir, one_line_errors
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
    """List caches, pipelines, encoders, sources or codecs.

    WHAT is caches (the default: those in the folder cache/), pipelines,
    encoders (with those in Python files of this folder last), sources or
    codecs. Each line has a name and a description.

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
    if not lines:
        click.echo(listing.nothing(what, Path()), err=True)
    width = max((len(name) for name, _ in lines), default=0)
    for name, text in lines:
        click.echo(f"{name:{width}}  {text}".rstrip())


@click.command()
@click.argument("cache", type=CacheDir(), shell_complete=CACHES)
@one_line_errors
def info(cache: Path) -> None:
    """Show the columns of a cache, their fields, sizes and failures.

    Example: reed-cache info cache/digits
    """
    from reed.view.info import lines

    for line in lines(cache):
        click.echo(line)


@click.command()
@click.argument("cache", type=CacheDir(), shell_complete=CACHES)
@click.argument("column", metavar="COLUMN[/FIELD]")
@click.option(
    "--samples",
    type=click.IntRange(2),
    default=512,
    show_default=True,
    help="Number of records to read: half of them (at most 256) calibrate the codecs, the others "
    "measure them.",
)
@click.option(
    "--codec",
    "names",
    multiple=True,
    metavar="CODEC",
    help="Codec to measure; may be repeated. Default: the usual ones.",
)
@click.option(
    "--json",
    "out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the results to this file.",
)
@one_line_errors
def study(cache: Path, column: str, samples: int, names: tuple[str, ...], out: Path | None) -> None:
    """Measure the size and the fidelity of codecs on a column.

    \b
    Examples:
      reed-cache study cache/digits digits-vit/tokens
      reed-cache study cache/digits digits-vit --codec int8 --codec pca:16+int8
    """
    from reed.cache import files
    from reed.view import study as studies

    results = []
    for owner, field in studies.targets(cache, column):
        results.append(studies.study(cache, owner, field, samples=samples, names=names))
        for line in studies.table(results[-1]):
            click.echo(line)
    if out:
        plain = [dataclasses.asdict(result) for result in results]
        files.write_atomic(out, (json.dumps(plain, indent=1) + "\n").encode())


@click.command()
@click.argument("cache", type=CacheDir(), shell_complete=CACHES)
@click.argument("key", required=False)
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="File of the page. Default: peek-CACHE.html in this folder.",
)
@click.option(
    "--samples", type=click.IntRange(1), help="Number of samples on the page. Default: 24."
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help='Seed for choosing the samples of a page, or the "random" one.',
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="File of the picture. Default: peek-KEY.png in this folder.",
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
    """Show a cache as an HTML page, or one sample as a picture.

    Without KEY: write one self-contained page of HTML that describes the cache and shows some of
    its samples. With KEY (the key of a sample, "#ROW" for its row, or "random"): write a picture
    of that sample in every column. With KEY and --html: write the page, with that sample first.

    \b
    Examples:
      reed-cache peek cache/digits
      reed-cache peek cache/digits --html digits.html --samples 50
      reed-cache peek cache/digits random --seed 3
      reed-cache peek cache/digits '#0' --out first.png
    """
    from reed.view import peek as peeking

    # A KEY alone makes a picture, so that options of the page would have no effect.
    row = None if key is None else peeking.find(cache, key, seed)
    if row is not None and html is None:
        if samples is not None:
            raise ReedError("--samples is for a page, but a KEY alone makes a picture; add --html")
        click.echo(peeking.save(cache, row, out))
        return

    if out is not None:
        raise ReedError("--out is for the picture of a sample; give its KEY, or --html for a page")
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

    Writes up to 256 MiB to DIR (default: cache/ if it exists, else this
    folder) and removes them. The exit code is 1 if a build would fail. Paste
    the output into a bug report.

    Example: reed-cache doctor /data/cache
    """
    from reed.view import doctor as examining

    if folder is None:
        folder = Path("cache") if Path("cache").is_dir() else Path()
    if not folder.is_dir():
        raise click.UsageError(f"there is no folder {folder}; name the folder for the cache")

    problems = []
    for title, findings in examining.examine(folder):
        click.echo(f"{title}")
        for finding in findings:
            click.echo(f"  {finding.name:15} {finding.found}")
        problems += [finding for finding in findings if finding.advice]

    # All advice comes last, so that it is not lost among the findings.
    for problem in problems:
        click.echo(f"{'Error' if problem.breaks else 'Warning'}: {problem.advice}")
    if any(problem.breaks for problem in problems):
        raise SystemExit(1)
    click.echo("Found nothing that would break a build.")
