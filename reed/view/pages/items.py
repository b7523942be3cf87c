"""The samples on the page of a cache as plain data, which its script draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reed import picture
from reed.cache import reader
from reed.cache.codecs import codecs
from reed.cache.schema import Column, Field
from reed.view import peek, shares
from reed.view.info import Summary
from reed.view.pages import page, samples, tokens
from reed.view.pages.drawings import SIDE, drawings
from reed.view.pages.samples import Sample
from reed.view.pages.tokens import Grid
from reed.view.peek import Panel

PIXELS = 256  # of the longer side of an image, at most
CELLS = 128  # of the longer side of a map, at most


def grids(cache: Path, summaries: Sequence[Summary], shown: Sequence[Sample]) -> list[Grid]:
    """Return the tokens of the samples shown, one grid per field that has any."""
    result = []
    for column, field in _fields(summaries, "token"):
        values = _values(column, field, shown)
        if values := {index: value for index, value in values.items() if len(value)}:
            result.append(tokens.grid(cache, column, field, values))
    return result


def plain(
    cache: Path,
    classes: Sequence[str],
    summaries: Sequence[Summary],
    shown: Sequence[Sample],
    grids: Sequence[Grid],
) -> dict[str, Any]:
    """Return the data for the script: samples, fields of tokens, nearest neighbours."""
    near = [
        {"title": title, "of": samples.nearest(vectors)}
        for title, vectors in _representations(cache, summaries, shown, grids).items()
    ]
    return {
        "side": SIDE,
        "viridis": list(picture.library("plotly.colors").sequential.Viridis),
        "samples": [_sample(sample, summaries, classes) for sample in shown],
        "tokens": [tokens.plain(cache, grid) for grid in grids],
        "near": [table for table in near if table["of"]],
    }


def _fields(summaries: Sequence[Summary], kind: str) -> list[tuple[Column, Field]]:
    return [(s.column, f) for s in summaries for f in s.column.fields if f.kind == kind]


def _values(column: Column, field: Field, shown: Sequence[Sample]) -> dict[int, Any]:
    """Return the values of a field by index of the sample, for samples that have it."""
    return {
        index: sample.values[column.name][field.name]
        for index, sample in enumerate(shown)
        if column.name in sample.values
    }


def _representations(
    cache: Path, summaries: Sequence[Summary], shown: Sequence[Sample], grids: Sequence[Grid]
) -> dict[str, dict[int, np.ndarray]]:
    """Return one vector per sample for each field that has one, and for the means of tokens."""
    vectors = {}
    for column, field in _fields(summaries, "sample"):
        state, codec = reader.load_state(cache, column)[field.name], codecs.codec_of(field)
        values = _values(column, field, shown)
        vectors[f"{column.name}/{field.name}"] = {
            index: np.ravel(codec.restore(value, state)) for index, value in values.items()
        }
    means = {
        f"mean of {grid.title}": {index: x.mean(0) for index, x in grid.arrays.items()}
        for grid in grids
    }
    return vectors | means


def _sample(sample: Sample, summaries: Sequence[Summary], classes: Sequence[str]) -> dict[str, Any]:
    """Return one sample: its labels, its pictures, texts and drawings, and its other fields."""
    labels: list[str] = []
    shows: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    drawn: list[dict[str, Any]] = []

    for summary in summaries:
        column = summary.column
        if column.name not in sample.values:
            continue
        values = sample.values[column.name]
        drawn += drawings(column, values)
        for field in column.fields:
            if field.kind == "label":
                labels.append(shares.label_text(column, field, classes, values[field.name]))
            # Tokens are drawn by the script from their grid, unless there are none.
            elif field.kind != "token" or not len(values[field.name]):
                panel = peek.plain(f"{column.name}/{field.name}", field, values[field.name])
                is_seen = field.kind == "text" or panel.shows == "image"
                (shows if is_seen else others).append(_panel(panel))

    return {
        "key": sample.key,
        "row": sample.row,
        "labels": labels,
        "missing": sample.missing,
        "drawings": drawn,
        "shows": shows,
        "others": others,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    """Return a panel as plain data: a text, a picture as a data URL, or numbers in 255 levels."""
    shown = {"title": panel.title, "caption": panel.caption, "shows": panel.shows}
    if panel.shows == "text":
        return shown | {"text": panel.value}
    if panel.shows == "image":
        return shown | _image(panel.value, panel.caption)

    values = np.atleast_2d(np.asarray(panel.value, np.float64))
    if panel.shows == "map" and max(values.shape) > CELLS:
        rows, columns = (-(-n // CELLS) for n in values.shape)
        values = values[::rows, ::columns]
        shown["caption"] += f"\none of {rows} rows and of {columns} columns"

    # One byte per number is all that a screen can show; 255 stands for what is not finite.
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    level = np.rint((values - low) * (254 / ((high - low) or 1.0)))
    stored = np.where(np.isfinite(level), level, 255).astype(np.uint8)
    return shown | {
        "rows": values.shape[0],
        "columns": values.shape[1],
        "low": low,
        "high": high,
        "levels": tokens.packed(stored),
    }


def _image(image: np.ndarray, caption: str) -> dict[str, Any]:
    """Return an image as a PNG; a large image is reduced by block means, as its caption says."""
    block = -(-max(image.shape[:2]) // PIXELS)
    if block > 1:
        height, width = (n // block for n in image.shape[:2])
        cut = image[: height * block, : width * block].reshape(height, block, width, block, -1)
        image = np.rint(cut.mean((1, 3))).astype(np.uint8)
        caption = f"{caption}\nshown at 1/{block} of its size"
    height, width = image.shape[:2]
    return {"src": page.png(image), "height": height, "width": width, "caption": caption}
