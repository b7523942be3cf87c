"""The charts on the page of a cache: sizes, lengths, labels, norms."""

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

LABELS = 20_000  # labels counted, at most
CLASSES = 100  # classes with a bar each, at most
BINS = 30  # bars of a histogram, at most


def charts(
    cache: Path,
    frozen: Plan,
    summaries: Sequence[Summary],
    grids: Sequence[Grid],
    progress: bool = True,
) -> Iterator[Chart]:
    """Yield charts: bytes per column, lengths, labels, and norms of the tokens shown."""
    if summaries:
        yield _sizes(summaries)
    yield from _lengths(summaries, frozen.manifest.views)
    for summary in summaries:
        for field in summary.column.fields:
            if field.kind == "label" and summary.samples:
                yield _labels(cache, summary, field, progress)
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
    """Yield histograms of the lengths of samples; fields of equal lengths share one."""
    groups: dict[tuple[int, ...], list[tuple[Column, Field]]] = {}
    for summary in summaries:
        for field in summary.column.fields:
            part = codecs.codec_of(field).parts(field)[0]
            if part.is_ragged and summary.samples:
                markers = summary.markers
                lengths = [n for m in markers for n in m.parts[part.name]["lengths"][::views]]
                groups.setdefault(tuple(lengths), []).append((summary.column, field))
    for lengths, fields in groups.items():
        names = [f"{column.name}/{field.name}" for column, field in fields]
        unit = "bytes" if fields[0][1].kind == "text" else "tokens"
        caption = f"Of all {len(lengths):,} samples that are there: {', '.join(names)}."
        yield _histogram(f"Lengths: {names[0]}", caption, unit, "samples", np.array(lengths))


def _labels(cache: Path, summary: Summary, field: Field, progress: bool) -> Chart:
    """Return a chart of the samples per class; of many classes, a histogram of their sizes."""
    address = f"{summary.column.name}/{field.name}"
    counts: Counter[int] = Counter()
    total = min(summary.samples, LABELS)
    with open_cache(cache) as opened:
        # A column may be incomplete, so only built shards are read.
        records = opened.records(address, shards=[marker.shard for marker in summary.markers])
        bar = tqdm(islice(records, total), f"count {address}", total, disable=not progress)
        counts.update(int(value) for _, value in bar)
    which = "all" if total == summary.samples else f"the first {total:,}, in cache order, of the"
    caption = f"Of {which} {summary.samples:,} samples that are there: {len(counts)} classes."

    if len(counts) > CLASSES:
        values = np.array(list(counts.values()))
        return _histogram(f"Sizes of classes: {address}", caption, "samples", "classes", values)
    rows = [[label, count] for label, count in sorted(counts.items())]
    names, sizes = [str(row[0]) for row in rows], [row[1] for row in rows]
    columns = ["label", "samples"]
    return _bars(f"Labels: {address}", caption, "label", "samples", names, sizes, columns, rows)


def _histogram(title: str, caption: str, x: str, y: str, values: np.ndarray) -> Chart:
    """Return a histogram with equal bins, of whole width for integers; one bin for equal values."""
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
    positions: list,
    heights: list,
    columns: list[str],
    rows: list,
    names: list[str] | None = None,
) -> Chart:
    """Return a bar chart.

    Args:
        title: Title of the chart.
        caption: Text below it.
        x: Name of the x axis.
        y: Name of the y axis.
        positions: Positions of the bars: numbers, or texts if `names` is None.
        heights: Their heights.
        columns: Header of the table below the chart.
        rows: Rows of that table.
        names: Names of the bars.
    """
    chart = page.figure(x, y, bargap=0.08 if names else 0.3)
    if names is None:
        chart.update_xaxes(type="category")
    chart.add_bar(
        x=positions,
        y=heights,
        customdata=names or [str(position) for position in positions],
        hovertemplate="%{customdata}: %{y:,}<extra></extra>",
    )
    return Chart(title, chart, caption, columns, rows)
