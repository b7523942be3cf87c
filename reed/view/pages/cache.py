"""The HTML page of a cache: its columns, and some of its samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import reed
from reed.bytes import human
from reed.cache import account, files, plan, reader, schema
from reed.cache.codecs import codecs
from reed.cache.plan import Plan
from reed.cache.schema import Field
from reed.view import info
from reed.view.info import Summary
from reed.view.pages import cache_charts, items, page, samples
from reed.wording import classes_of

FAILURES = 200  # failures listed, at most
COLUMNS = (
    "column",
    "state",
    "shards",
    "samples",
    "failed",
    "size",
    "per sample",
    "encoder",
    "revision",
    "licence",
    "container",
    "reads",
    "identity",
)
FIELDS = ("field", "kind", "shape", "codec", "per sample", "decodes to", "cosine kept")


def save(
    cache: Path,
    out: Path | None = None,
    *,
    count: int = 24,
    seed: int = 0,
    first: int | None = None,
    progress: bool = True,
) -> Path:
    """Write the page of a cache and return its path.

    Args:
        cache: Folder of the cache.
        out: File of the page; by default peek-CACHE.html in this folder.
        count: Number of samples to show.
        seed: Seed for choosing them.
        first: Row of a sample to show first; None for none in particular.
        progress: Whether to show progress bars.

    Raises:
        ReedError: There is no cache, or it is damaged, or the page cannot be written.
    """
    frozen = plan.load(cache)
    summaries = [info.summary(cache, frozen, name) for name in schema.columns(cache)]
    views = frozen.manifest.views
    path = out or Path(f"peek-{cache.resolve().name}.html")

    # Samples are read once, for the pictures as well as for the charts of their tokens.
    rows = samples.choose(frozen, summaries, count, seed, first)
    shown = samples.read(cache, frozen, summaries, rows, progress)
    grids = items.grids(cache, summaries, shown)
    failures = [(key, s.column.name, why) for s in summaries for key, why in s.failed.items()]

    page.write(
        path,
        "cache.html",
        option="--html",
        command="reed-cache peek",
        version=reed.__version__,
        cache=str(cache),
        total=frozen.manifest.samples,
        views=views,
        facts=_facts(cache, frozen, summaries),
        columns=COLUMNS,
        fields=FIELDS,
        column_rows=[_column(summary) for summary in summaries],
        field_rows=[row for summary in summaries for row in _fields(cache, summary, views)],
        charts=list(cache_charts.charts(cache, frozen, summaries, grids, progress)),
        failures=failures[:FAILURES],
        failed=len(failures),
        seed=seed,
        is_named=first is not None,
        data=items.plain(cache, frozen.manifest.classes, summaries, shown, grids),
    )
    return path


def _facts(cache: Path, frozen: Plan, summaries: Sequence[Summary]) -> list[tuple[str, Any]]:
    """Return facts about the cache, as names and values."""
    manifest = frozen.manifest
    incomplete = [each.column.name for each in summaries if not each.is_complete]
    state = f"incomplete: {', '.join(incomplete)}" if incomplete else "complete"
    containers = sorted({each.column.container for each in summaries})
    classes, passed = classes_of(manifest.classes), account.load(cache).line
    size = files.size_of(cache, follow=True)

    # Facts that not every cache has are left out, instead of shown as empty.
    return [
        ("pipeline", manifest.pipeline),
        ("domain", manifest.domain),
        ("source", manifest.source),
        ("samples", manifest.samples),
        *([("classes", classes)] if classes else []),
        *([("other files", passed)] if passed else []),
        ("views of each", manifest.views),
        ("shards", frozen.shards),
        ("samples per shard", manifest.shard_size),
        ("segments", " + ".join(map(str, manifest.segments))),
        ("order seed", manifest.order_seed),
        ("columns", len(summaries)),
        ("containers", ", ".join(containers) or "none"),
        ("on disk", human(size)),
        ("state", state if summaries else "no column is built yet"),
    ]


def _column(summary: Summary) -> list[Any]:
    """Return the row of a column in the table of columns."""
    column, state = summary.column, "complete" if summary.is_complete else "INCOMPLETE"
    per_sample = human(summary.bytes / summary.samples) if summary.samples else "none"

    # In the order of COLUMNS.
    return [
        column.name,
        state,
        f"{len(summary.markers)}/{summary.shards}",
        summary.samples,
        len(summary.failed),
        human(summary.bytes),
        per_sample,
        column.encoder,
        column.revision,
        column.licence or "not given",
        column.container,
        ", ".join(column.reads),
        column.identity(),
    ]


def _fields(cache: Path, summary: Summary, views: int) -> Iterator[list[Any]]:
    """Yield the rows of a column in the table of fields."""
    column = summary.column
    state = reader.load_state(cache, column)
    for field in column.fields:
        codec = codecs.codec_of(field)
        decoded = codec.decoded_shape(field)
        stored = _payload(field, summary, views) / (summary.samples or 1)
        cosine = state[field.name].get("cosine")
        kept = "" if cosine is None else f"{cosine[0]:.6f}, worst {cosine[1]:.6f}"

        # In the order of FIELDS.
        yield [
            f"{column.name}/{field.name}",
            field.kind,
            info.shape(field.shape),
            field.codec,
            human(stored) if summary.samples else "none",
            "" if decoded == field.shape else info.shape(decoded),
            kept,
        ]


def _payload(field: Field, summary: Summary, views: int) -> int:
    """Return the bytes of a field's values in all shards, without the overhead of the files."""
    total = 0
    for part in codecs.codec_of(field).parts(field):
        itemsize = 1 if part.dtype == "utf8" else np.dtype(part.dtype).itemsize
        rows = itemsize * math.prod(part.shape_at(0)[1:] if part.is_ragged else part.shape_at(0))
        lengths = (sum(m.parts[part.name]["lengths"]) for m in summary.markers)
        total += rows * (sum(lengths) if part.is_ragged else summary.samples * views)
    return total
