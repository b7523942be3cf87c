"""reed-cache peek KEY: one sample in every column of a cache, as a picture."""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from reed import picture
from reed.cache import files, plan, reader, schema
from reed.cache.codecs import codecs, pca
from reed.cache.codecs.codecs import State
from reed.cache.opened import open_cache
from reed.cache.plan import Plan
from reed.cache.schema import Column, Field
from reed.errors import ReedError
from reed.view import info, shares

FITTED = 32  # records that fix the colours of tokens for all pictures of a cache
WIDTH, HEIGHT, DPI = 3.0, 3.1, 120  # of a panel; inches, and dots per inch
INK, PALE = "#30506e", "#6b7280"


@dataclass(frozen=True)
class Panel:
    """One part of the picture.

    Attributes:
        title: Line above it.
        caption: Lines below it.
        shows: Kind of `value`: "image" (uint8 [H, W, 3]), "map" ([H, W]), "bars" ([n]) or "text".
        value: What it shows.
    """

    title: str
    caption: str
    shows: str
    value: Any


def find(cache: Path, key: str, seed: int = 0) -> int:
    """Return the row of a sample.

    Args:
        cache: Folder of the cache.
        key: Key of the sample, "#ROW", or "random".
        seed: Seed for "random".

    Raises:
        ReedError: There is no such sample; the message has the nearest keys.
    """
    frozen = plan.load(cache)
    keys, row = frozen.keys, frozen.row_of(key)
    if row is not None:
        return row
    if key == "random":
        return int(np.random.default_rng(seed).integers(len(keys)))
    if re.fullmatch(r"#[0-9]{1,18}", key):
        if (row := int(key[1:])) >= len(keys):
            raise ReedError(f"{cache} has no row {row}: its rows are #0 to #{len(keys) - 1}")
        return row
    near = ", ".join(map(repr, frozen.near(key)))
    raise ReedError(
        f"{cache} has no sample {key!r}. Near it: {near}; or give '#ROW' (of {len(keys)}) or random"
    )


def save(cache: Path, row: int, out: Path | None = None) -> Path:
    """Draw the sample at a row and return the file, by default peek-KEY.png in this folder."""
    frozen = plan.load(cache)
    key = frozen.keys[row]
    labels, parts = panels(cache, frozen, row)
    title = "  ·  ".join([f"{key}  (#{row} of {len(frozen.keys)})", *labels])
    path = out or Path(f"peek-{re.sub(r'[^A-Za-z0-9._-]+', '-', key)[:80]}.png")
    try:
        files.write_atomic(path, _draw(title, parts))
    except OSError as error:
        raise ReedError(f"cannot write {path}: {error.strerror}; choose another --out") from error
    return path


def panels(cache: Path, frozen: Plan, row: int) -> tuple[list[str], list[Panel]]:
    """Return the labels of a sample as texts, and its panels, first those of generated data."""
    columns = [schema.load_column(cache, name) for name in schema.columns(cache)]
    columns.sort(key=lambda column: all(f.kind not in ("data", "moments") for f in column.fields))
    labels: list[str] = []
    parts: list[Panel] = []

    for column in columns:
        # A missing sample is shown too, because its reason is what the user looks for.
        if reason := missing(cache, frozen, column, row):
            parts.append(Panel(column.name, "", "text", reason))
            continue
        views = _views(cache, frozen, column, row)
        for field in column.fields:
            values = [values[field.name] for values in views]
            if field.kind == "label":
                classes = frozen.manifest.classes
                labels.append(shares.label_text(column, field, classes, values[0]))
                continue
            for view, value in enumerate(values):
                which = f", view {view}" if len(values) > 1 else ""
                parts += _panels(cache, column, field, value, which)
    return labels, parts


def missing(cache: Path, frozen: Plan, column: Column, row: int) -> str:
    """Return why a column lacks a sample; empty if it has the sample."""
    shard, _ = frozen.locate(row)
    if not schema.marker_path(cache, column, shard).is_file():
        return f"shard {shard} is not built yet"
    failed = schema.load_marker(cache, column, shard).failed
    return f"left out: {failed[frozen.keys[row]]}" if frozen.keys[row] in failed else ""


def _views(cache: Path, frozen: Plan, column: Column, row: int) -> list[dict[str, Any]]:
    """Return the values of every view of a sample, by field."""
    shards, keys = [frozen.locate(row)[0]], {frozen.keys[row]}
    with open_cache(cache) as opened:
        views = [
            opened.records(column.name, view=view, shards=shards, keys=keys)
            for view in range(opened.manifest.views)
        ]
        return [values for view in views for _, values in view]


def _panels(cache: Path, column: Column, field: Field, value: Any, which: str) -> Iterator[Panel]:
    title = f"{column.name}/{field.name}{which}"
    if field.kind != "token" or not np.size(value):
        yield plain(title, field, value)
        return
    state = reader.load_state(cache, column)[field.name]
    tokens = codecs.codec_of(field).restore(value, state)
    image = _square(colours(tokens, palette(cache, column, field)))
    caption = f"{_stored(field, np.asarray(value))}\n3 principal components"
    yield Panel(title, caption, "image", image)
    yield Panel(title, "norm of each token", "map", _square(np.linalg.norm(tokens, axis=-1)))


def plain(title: str, field: Field, value: Any) -> Panel:
    """Return a panel for any value, chosen by kind and shape; tokens are shown as numbers."""
    if field.kind == "text":
        return Panel(title, f"{len(value)} characters", "text", value)
    value = np.asarray(value)
    caption = _stored(field, value)

    # Coordinates depend on the frame; distances show the shape whatever the frame.
    if field.kind == "data" and field.shape[:1] == (None,) and value.ndim == 3 and value.size:
        first = value[:, 0]  # first point of each token, such as the first atom of a residue
        distances = np.linalg.norm(first[:, None] - first[None], axis=-1)
        return Panel(title, f"{caption}\ndistances between the tokens", "map", distances)
    if field.kind in ("data", "moments") and value.ndim == 3:
        return Panel(title, *_image(field, value, caption))
    if value.ndim == 1:
        return Panel(title, caption, "bars", value)
    if value.ndim > 1 and value.size:
        flat = value if value.ndim == 2 else np.linalg.norm(value, axis=-1)
        return Panel(title, caption, "map", flat.reshape(len(flat), -1))
    return Panel(title, caption, "text", str(value))


def _stored(field: Field, value: np.ndarray) -> str:
    return f"{field.kind} {info.shape(value.shape)}, {field.codec}"


def _image(field: Field, value: np.ndarray, caption: str) -> tuple[str, str, np.ndarray]:
    """Return caption, kind and image of data or moments.

    Data of 1 or 3 channels is shown as it is. Of other data, and of the mean of moments, the first
    three channels are shown with stretched contrast.
    """
    if field.kind == "data" and len(value) in (1, 3):
        image = picture.to_uint8(value[None], field)[0]
        return caption, "image", np.broadcast_to(image, (*image.shape[:2], 3))
    mean = value[: len(value) // 2] if field.kind == "moments" else value
    image = picture.stretched(mean[None])[0]
    prefix = "mean, " if field.kind == "moments" else ""
    note = f"{caption}\n{prefix}channels 1 to {image.shape[-1]}, stretched"
    return note, "image", np.broadcast_to(image, (*image.shape[:2], 3))


def palette(cache: Path, column: Column, field: Field) -> State:
    """Return the principal components that colour tokens, the same for all samples.

    They are fitted to the first records.

    Returns:
        A state of reed.cache.codecs.pca with three components, or as many as the records allow;
        empty if they allow none.
    """
    codec, address = codecs.codec_of(field), f"{column.name}/{field.name}"
    with open_cache(cache) as opened:
        shards = range(opened.plan.shards)
        built = (s for s in shards if schema.marker_path(cache, column, s).is_file())
        records = islice(opened.records(address, shards=islice(built, 1)), FITTED)
        state = opened.state(column.name)[field.name]
        fitted = [codec.restore(value, state) for _, value in records]
    kept = min(3, field.shape[-1] or 0, sum(map(len, fitted)) - 1)
    return pca.fit(fitted, kept) if kept > 0 else {}


def colours(tokens: np.ndarray, palette: State) -> np.ndarray:
    """Return the colours of tokens [T, D], uint8 [T, 3].

    Red, green and blue are the components from -2.5 to 2.5 standard deviations.
    """
    level = np.full((len(tokens), 3), 0.5)
    if palette:
        level[:, : len(palette["std"])] += pca.whiten(tokens, palette) / 5
    return np.rint(255 * level.clip(0, 1)).astype(np.uint8)


def _square(values: np.ndarray) -> np.ndarray:
    """Arrange [T, ...] in a square grid, row by row; in one row if T is not a square."""
    side = math.isqrt(len(values))
    shape = (side, side) if side * side == len(values) else (1, len(values))
    return values.reshape(*shape, *values.shape[1:])


def _draw(title: str, parts: Sequence[Panel]) -> bytes:
    figures = picture.library("matplotlib.figure")
    across = len(parts) if len(parts) <= 4 else 3 if len(parts) <= 6 else 4
    down = -(-len(parts) // across)
    figure = figures.Figure((across * WIDTH, down * HEIGHT + 0.5), DPI, layout="constrained")
    figure.suptitle(title, fontsize=12, weight="bold", parse_math=False, wrap=True)
    for axes in (all_axes := figure.subplots(down, across, squeeze=False).ravel()):
        axes.axis("off")
    for axes, panel in zip(all_axes, parts, strict=False):
        _draw_panel(figure, axes, panel)
    file = io.BytesIO()
    with warnings.catch_warnings():  # characters that the font lacks are drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(file, format="png")
    return file.getvalue()


def _draw_panel(figure: Any, axes: Any, panel: Panel) -> None:
    axes.axis("on")
    axes.set_title(panel.title, fontsize=10, color=INK, weight="bold", parse_math=False)
    axes.set_xlabel(panel.caption, fontsize=8, color=PALE)
    axes.tick_params(labelsize=7, colors=PALE)
    axes.spines[:].set_visible(panel.shows == "bars")

    if panel.shows == "bars":
        edges = np.arange(len(panel.value) + 1) - 0.5
        axes.stairs(panel.value, edges, fill=True, baseline=0, color=INK)
        axes.axhline(0, color=PALE, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_box_aspect(1)
        return

    axes.set_xticks([])
    axes.set_yticks([])
    if panel.shows == "text":
        lines = [part for line in panel.value.splitlines() for part in textwrap.wrap(line, 32)]
        text = "\n".join([*lines[:11], "…"] if len(lines) > 12 else lines)
        axes.text(0, 1, text, fontsize=10, va="top", parse_math=False, transform=axes.transAxes)
        axes.set_box_aspect(1)
        return

    # Square pixels would make a very long image too thin to see.
    height, width = panel.value.shape[:2]
    aspect = "equal" if max(height, width) <= 4 * min(height, width) else "auto"
    shown = axes.imshow(panel.value, aspect=aspect, interpolation="nearest", cmap="viridis")
    axes.set_box_aspect(None if aspect == "equal" else 0.5)
    if panel.shows == "map":
        figure.colorbar(shown, ax=axes, shrink=0.8).ax.tick_params(labelsize=7, colors=PALE)
