"""The page of a cache: what it holds, column by column, and some of its samples to look at."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import reed
from reed.bytes import human
from reed.cache import account, plan, reader, schema
from reed.cache.codecs import codecs
from reed.cache.plan import Plan
from reed.cache.schema import Field
from reed.view import info
from reed.view.info import Summary
from reed.view.pages import cache_charts, items, page, samples

FAILURES = 200  # that are listed
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
    """Write the page; `out` is by default peek-CACHE.html in the working folder.

    count: samples to show, drawn with `seed`; first: a row to show before these. ReedError where
    there is no cache, where it is damaged, and where the page cannot be written.
    """
    frozen = plan.load(cache)
    summaries = [info.summary(cache, frozen, name) for name in schema.columns(cache)]
    views = frozen.manifest.views
    path = out or Path(f"peek-{cache.resolve().name}.html")
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
        column_rows=[_column(each) for each in summaries],
        field_rows=[row for each in summaries for row in _fields(cache, each, views)],
        charts=list(cache_charts.charts(cache, frozen, summaries, grids, progress)),
        failures=failures[:FAILURES],
        failed=len(failures),
        seed=seed,
        is_named=first is not None,
        data=items.plain(cache, summaries, shown, grids),
    )
    return path


def _facts(cache: Path, frozen: Plan, summaries: Sequence[Summary]) -> list[tuple[str, Any]]:
    """What the cache is, as names and values."""
    manifest = frozen.manifest
    lacking = [each.column.name for each in summaries if not each.is_complete]
    state = f"incomplete: {', '.join(lacking)}" if lacking else "complete"
    containers = sorted({each.column.container for each in summaries})
    named, passed = info.classes_of(manifest.classes), account.load(cache).line
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    return [
        ("pipeline", manifest.pipeline),
        ("domain", manifest.domain),
        ("source", manifest.source),
        ("samples", manifest.samples),
        *([("classes", named)] if named else []),
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


def _column(found: Summary) -> list[Any]:
    column, state = found.column, "complete" if found.is_complete else "INCOMPLETE"
    each = human(found.bytes / found.samples) if found.samples else "none"
    return [
        column.name,
        state,
        f"{len(found.markers)}/{found.shards}",
        found.samples,
        len(found.failed),
        human(found.bytes),
        each,
        column.encoder,
        column.revision,
        column.licence or "not given",
        column.container,
        ", ".join(column.reads),
        column.identity(),
    ]


def _fields(cache: Path, found: Summary, views: int) -> Iterator[list[Any]]:
    column = found.column
    state = reader.load_state(cache, column)
    for field in column.fields:
        codec = codecs.codec_of(field)
        decoded = codec.decoded_shape(field)
        stored = _payload(field, found, views) / (found.samples or 1)
        cosine = state[field.name].get("cosine")
        kept = "" if cosine is None else f"{cosine[0]:.6f}, worst {cosine[1]:.6f}"
        yield [
            f"{column.name}/{field.name}",
            field.kind,
            info.shape(field.shape),
            field.codec,
            human(stored) if found.samples else "none",
            "" if decoded == field.shape else info.shape(decoded),
            kept,
        ]


def _payload(field: Field, found: Summary, views: int) -> int:
    """The bytes of a field's numbers or letters in all shards, without what holds them."""
    total = 0
    for part in codecs.codec_of(field).parts(field):
        itemsize = 1 if part.dtype == "utf8" else np.dtype(part.dtype).itemsize
        rows = itemsize * math.prod(part.shape_at(0)[1:] if part.is_ragged else part.shape_at(0))
        lengths = (sum(m.parts[part.name]["lengths"]) for m in found.markers)
        total += rows * (sum(lengths) if part.is_ragged else found.samples * views)
    return total
