"""The options that reed-cache plan, prefetch and build share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from reed import pipelines
from reed.cache import schema
from reed.cli.common import CACHES, CacheDir, completed
from reed.encoders import ENCODERS
from reed.sources import SOURCES

COLUMNS = (
    click.argument("pipeline", shell_complete=completed(pipelines.names)),
    click.option(
        "--encoder",
        "encoders",
        multiple=True,
        metavar="[COLUMN=]NAME",
        shell_complete=completed(ENCODERS.names),
        help="Encoder to build a column with; may be repeated. Default: those of the pipeline. "
        "For your own encoder: COLUMN=package.module:Class (modules in the current folder are "
        "found).",
    ),
    click.option(
        "--latents",
        default="",
        metavar="[COLUMN=]NAME",
        shell_complete=completed(ENCODERS.names),
        help="Encoder whose latents are trained on in place of pixels, such as sd-vae.",
    ),
    click.option(
        "--cache",
        type=CacheDir(),
        metavar="DIR",
        shell_complete=CACHES,
        help="Folder of the cache, or its URL, such as s3://bucket/imagenet. Default: "
        "cache/PIPELINE.",
    ),
    click.option(
        "--set",
        "options",
        multiple=True,
        metavar="COLUMN.NAME=VALUE",
        help="Setting of a column's encoder, such as dinov2-b.weights=FILE; or of the source: "
        "source.NAME=VALUE, such as source.resolution=512.",
    ),
)
REQUEST = (
    *COLUMNS,
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Raw data, if the source reads files.",
    ),
    click.option(
        "--source",
        default="",
        metavar="NAME",
        shell_complete=completed(SOURCES.names),
        help="Source that reads the raw data (see: reed-cache list sources). Default: the "
        "cache's, or the pipeline's for a new cache.",
    ),
    click.option(
        "--codec",
        "codecs",
        multiple=True,
        metavar="COLUMN/FIELD=CODEC",
        help="Codec for a field; may be repeated. Example: digits-vit/tokens=float16.",
    ),
    click.option(
        "--container",
        type=click.Choice(schema.CONTAINERS),
        default=None,
        help="File format for the shards of new columns. Default: tar.",
    ),
    click.option("--flip", is_flag=True, help="Also store each sample mirrored, in every column."),
    click.option(
        "--extend",
        is_flag=True,
        help="Append the samples that were added to the source, as new shards.",
    ),
    click.option(
        "--rebuild", is_flag=True, help="Delete the plan and ALL columns of the cache first."
    ),
    click.option(
        "--max-failed",
        default="",
        metavar="SHARE",
        help="Share of the samples of a column that may fail, such as 10%; recorded in the plan. "
        "Default: that of the cache, or 1%.",
    ),
    click.option("--force", is_flag=True, help="Continue even if the disk seems too small."),
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print counts of samples and files, and why some were left out, as JSON; messages "
        "go to stderr.",
    ),
)


def takes(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Return a decorator that adds options and arguments to a command."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
