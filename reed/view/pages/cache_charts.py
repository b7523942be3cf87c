"""The charts of a cache's page: sizes, lengths, labels, norms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from reed.bytes import human
from reed.cache.codecs import codecs
from reed.cache.opened import open_cache
from reed.cache.plan import Plan
from reed.cache.schema import Column, Field
from reed.view.info import Summary
from reed.view.pages import page
from reed.view.pages.page import Chart
from reed.view.pages.tokens import Grid

LABELS = 20_000  # records of which labels are counted, at most
CLASSES = 100  # labels that have a bar each, at most
BINS = 30


def charts(
    cache: Path,
    frozen: Plan,
    summaries: Sequence[Summary],
    grids: Sequence[Grid],
    progress: bool = True,
) -> Iterator[Chart]:
    """Bytes per column; lengths and labels where there are any; norms of the tokens shown."""
    if summaries:
        yield _sizes(summaries)
    yield from _lengths(summaries, frozen.manifest.views)
    for found in summaries:
        for field in found.column.fields:
            if field.kind == "label" and found.samples:
                yield _labels(cache, found, field, progress)
    for grid in grids:
        norms = grid.norms
        caption = (
            f"Of the {len(norms):,} tokens of the samples shown, in the channels of the encoder."
        )
        yield _histogram(f"Norms of the tokens: {grid.title}", caption, "norm", "tokens", norms)


def _sizes(summaries: Sequence[Summary]) -> Chart:
    summaries = sorted(summaries, key=lambda each: -each.bytes)
    rows = [
        [each.column.name, each.bytes, round(each.bytes / each.samples, 1) if each.samples else ""]
        for each in summaries
    ]
    names, sizes = [each.column.name for each in summaries], [each.bytes for each in summaries]
    caption = f"The files of the shards, {human(sum(sizes))} in all."
    columns = ["column", "bytes", "bytes per sample"]
    return _bars("Bytes per column", caption, "", "bytes", names, sizes, columns, rows)


def _lengths(summaries: Sequence[Summary], views: int) -> Iterator[Chart]:
    """How many tokens and how long a text; fields of the same lengths share a chart."""
    found: dict[tuple[int, ...], list[tuple[Column, Field]]] = {}
    for each in summaries:
        for field in each.column.fields:
            part = codecs.codec_of(field).parts(field)[0]
            if part.is_ragged and each.samples:
                lengths = [n for m in each.markers for n in m.parts[part.name]["lengths"][::views]]
                found.setdefault(tuple(lengths), []).append((each.column, field))
    for lengths, places in found.items():
        names = [f"{column.name}/{field.name}" for column, field in places]
        unit = "bytes" if places[0][1].kind == "text" else "tokens"
        caption = f"Of all {len(lengths):,} samples that are there: {', '.join(names)}."
        yield _histogram(f"Lengths: {names[0]}", caption, unit, "samples", np.array(lengths))


def _labels(cache: Path, found: Summary, field: Field, progress: bool) -> Chart:
    """Samples per class; how many classes have so many where classes are too many for bars."""
    place = f"{found.column.name}/{field.name}"
    counts: Counter[int] = Counter()
    total = min(found.samples, LABELS)
    with open_cache(cache) as opened:
        # a column may be incomplete: only of the shards that are there
        records = opened.records(place, shards=[marker.shard for marker in found.markers])
        bar = tqdm(islice(records, total), f"count {place}", total, disable=not progress)
        counts.update(int(value) for _, value in bar)
    which = "all" if total == found.samples else f"the first {total:,}, in cache order, of the"
    caption = f"Of {which} {found.samples:,} samples that are there: {len(counts)} classes."
    if len(counts) > CLASSES:
        values = np.array(list(counts.values()))
        return _histogram(f"Sizes of classes: {place}", caption, "samples", "classes", values)
    rows = [[label, count] for label, count in sorted(counts.items())]
    names, sizes = [str(row[0]) for row in rows], [row[1] for row in rows]
    columns = ["label", "samples"]
    return _bars(f"Labels: {place}", caption, "label", "samples", names, sizes, columns, rows)


def _histogram(title: str, caption: str, x: str, y: str, values: np.ndarray) -> Chart:
    """Counts in even bins: whole ones of whole numbers, and only one where all are the same."""
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.integer):
        width = max(1, -(-int(high - low + 1) // BINS))
        edges = np.arange(low, high + width + 1, width)
        names = [f"{a}" if width == 1 else f"{a} to {a + width - 1}" for a in edges[:-1].tolist()]
    else:
        edges = np.linspace(low, high, BINS + 1) if high > low else np.array([low, high])
        names = [f"{a:.4g} to {b:.4g}" for a, b in zip(edges[:-1], edges[1:], strict=True)]
    counts = np.histogram(values, edges)[0].tolist()
    caption = f"{caption} Median {np.median(values):.4g}, from {low:.4g} to {high:.4g}."
    rows = [list(row) for row in zip(names, counts, strict=True)]
    centres = ((edges[:-1] + edges[1:] - (x != "norm")) / 2).tolist()
    return _bars(title, caption, x, y, centres, counts, [x, y], rows, names)


def _bars(
    title: str,
    caption: str,
    x: str,
    y: str,
    places: list,
    heights: list,
    columns: list[str],
    rows: list,
    names: list[str] | None = None,
) -> Chart:
    """Bars at places on the axis: numbers, or texts that stay as they are."""
    chart = page.figure(x, y, bargap=0.08 if names else 0.3)
    if names is None:
        chart.update_xaxes(type="category")
    chart.add_bar(
        x=places,
        y=heights,
        customdata=names or [str(place) for place in places],
        hovertemplate="%{customdata}: %{y:,}<extra></extra>",
    )
    return Chart(title, chart, caption, columns, rows)
