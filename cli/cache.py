"""reed-cache: build a feature cache, and look at it."""

from __future__ import annotations

from pathlib import Path

import click

import reed
from reed import pipelines
from reed.cache import column as columns
from reed.cache import engines, plan, schema, verify
from reed.cli.common import one_line_errors, pick_device
from reed.encoders import ENCODERS
from reed.errors import ReedError
from reed.sources import SOURCES


@click.group(context_settings={"max_content_width": 80})
@click.version_option(reed.__version__)
def main() -> None:
    """Build and inspect feature caches (stage one).

    Example: reed-cache build digits
    """


@main.command()
@click.argument("pipeline")
@click.option("--encoder", "encoders", multiple=True, metavar="NAME",
              help="Column to add; repeat for several. Default: the pipeline's own.")  # fmt: skip
@click.option("--cache", type=click.Path(path_type=Path), metavar="DIR",
              help="Where the cache goes. Default: cache/PIPELINE.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), metavar="PATH",
              help="The raw data, where the source reads files.")  # fmt: skip
@click.option("--codec", "codecs", multiple=True, metavar="COLUMN/FIELD=CODEC",
              help="Store a field in another way, such as digits-vit/tokens=float16.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@one_line_errors
def build(
    pipeline: str, encoders: tuple[str, ...], cache: Path | None, data: Path | None,
    codecs: tuple[str, ...], device: str,
) -> None:  # fmt: skip
    """Build what is missing of a cache; rerun the same command to resume.

    \b
    Examples:
      reed-cache build digits
      reed-cache build digits --encoder digits-vit
      torchrun --nproc-per-node 2 -m reed.cli.cache build digits
    """
    spec = pipelines.load(pipeline)
    cache = cache or Path("cache") / pipeline
    source = SOURCES.get(spec.source)(data)
    asked = [*spec.base, *(encoders or spec.encoders)]
    wanted = columns.with_inputs(cache, asked, lambda name: ENCODERS.get(name)())
    frozen = plan.freeze(
        cache, source.listing(), pipeline=pipeline, domain=spec.domain, source=spec.source,
        shard_size=spec.shard_size,
    )  # fmt: skip
    chosen = _codec_choices(codecs, set(wanted))
    share = engines.launched_share()
    for name, encoder in wanted.items():
        encoder.load(pick_device(device))
        job = columns.open_job(cache, frozen, name, encoder, source, chosen.get(name))
        engines.run(job, share)
    click.echo(f"{cache}: {frozen.manifest.samples} samples, columns {', '.join(wanted)}")


@main.command("list")
@click.argument("what", type=click.Choice(["caches", "pipelines", "encoders", "sources", "codecs"]),
                default="caches")  # fmt: skip
@one_line_errors
def list_(what: str) -> None:
    """List the caches here, or what this installation knows.

    Example: reed-cache list encoders
    """
    from reed.cache.codecs import CODECS

    tables = {
        "caches": lambda: sorted(str(p.parent) for p in Path("cache").glob("*/manifest.json")),
        "pipelines": pipelines.names, "encoders": ENCODERS.names, "sources": SOURCES.names,
        "codecs": lambda: sorted(CODECS),
    }  # fmt: skip
    for name in tables[what]():
        click.echo(name)


@main.command()
@click.argument("cache", type=click.Path(path_type=Path))
@one_line_errors
def info(cache: Path) -> None:
    """Show the columns of a cache, their fields, sizes and failures.

    Example: reed-cache info cache/digits
    """
    frozen = plan.load(cache)
    manifest = frozen.manifest
    click.echo(f"{cache}: pipeline {manifest.pipeline}, domain {manifest.domain}, "
               f"{manifest.samples} samples in {frozen.shards} shards")  # fmt: skip
    for name in schema.columns(cache):
        found = verify.summarise(cache, frozen, name)
        state = "complete" if found.shards == frozen.shards else "INCOMPLETE"
        click.echo(f"\n{name}: {state}, {found.shards}/{frozen.shards} shards, "
                   f"{found.samples} samples, {found.bytes / 1e6:.1f} MB, "
                   f"{len(found.failed)} failed")  # fmt: skip
        click.echo(f"  revision {found.column.revision}")
        for field in found.column.fields:
            shape = "x".join("?" if n is None else str(n) for n in field.shape) or "one"
            click.echo(f"  {name}/{field.name}: {field.kind}, {shape}, {field.codec}")
        for key, reason in found.failed.items():
            click.echo(f"  left out {key!r}: {reason}")


@main.command("verify")
@click.argument("cache", type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Also hash every shard.")
@one_line_errors
def verify_(cache: Path, deep: bool) -> None:
    """Check every shard of every column; exit with code 1 if anything is wrong.

    Example: reed-cache verify cache/digits --deep
    """
    frozen = plan.load(cache)
    problems = [
        problem
        for name in schema.columns(cache)
        for problem in verify.verify(cache, frozen, name, deep=deep)
        if problem
    ]
    for problem in problems:
        click.echo(f"{problem.where}: {problem.what}")
    total = frozen.shards * len(schema.columns(cache))
    click.echo(f"{cache}: {total} shards checked, {len(problems)} problems")
    if problems:
        raise SystemExit(1)


def _codec_choices(choices: tuple[str, ...], names: set[str]) -> dict[str, dict[str, str]]:
    chosen: dict[str, dict[str, str]] = {}
    for choice in choices:
        place, equals, codec = choice.partition("=")
        column, slash, field = place.partition("/")
        if not (equals and slash and column in names):
            raise ReedError(
                f"--codec {choice!r} is not COLUMN/FIELD=CODEC with a column that is built"
            )
        chosen.setdefault(column, {})[field] = codec
    return chosen


if __name__ == "__main__":
    main()
