"""One sample of every column of a cache, as one picture."""

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
from reed.view import info

FITTED = 32  # records that decide the colours of tokens, so that two pictures can be compared
WIDTH, HEIGHT, DPI = 3.0, 3.1, 120  # of a panel, in inches
INK, PALE = "#30506e", "#6b7280"


@dataclass(frozen=True)
class Panel:
    """One part of the picture. shows: "image" [H, W, 3] uint8, "map" [H, W], "bars" [n], "text"."""

    title: str
    caption: str
    shows: str
    value: Any


def find(cache: Path, key: str, seed: int = 0) -> int:
    """The row of a sample: its key, "#ROW", or "random"; ReedError with the nearest keys."""
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
    """Draw the sample at a row; `out` is by default peek-KEY.png in the working folder."""
    frozen = plan.load(cache)
    key = frozen.keys[row]
    labels, found = panels(cache, frozen, row)
    title = "  ·  ".join([f"{key}  (#{row} of {len(frozen.keys)})", *labels])
    path = out or Path(f"peek-{re.sub(r'[^A-Za-z0-9._-]+', '-', key)[:80]}.png")
    try:
        files.write_atomic(path, _draw(title, found))
    except OSError as error:
        raise ReedError(f"cannot write {path}: {error.strerror}; choose another --out") from error
    return path


def panels(cache: Path, frozen: Plan, row: int) -> tuple[list[str], list[Panel]]:
    """The labels of a sample as words, and its panels: first what a model generates."""
    columns = [schema.load_column(cache, name) for name in schema.columns(cache)]
    columns.sort(key=lambda column: all(f.kind not in ("data", "moments") for f in column.fields))
    labels: list[str] = []
    found: list[Panel] = []
    for column in columns:
        if reason := missing(cache, frozen, column, row):
            found.append(Panel(column.name, "", "text", reason))
            continue
        shown = _views(cache, frozen, column, row)
        for field in column.fields:
            values = [values[field.name] for values in shown]
            if field.kind == "label":
                labels.append(f"{field.name} {values[0]}")
                continue
            for view, value in enumerate(values):
                which = f", view {view}" if len(values) > 1 else ""
                found += _panels(cache, column, field, value, which)
    return labels, found


def missing(cache: Path, frozen: Plan, column: Column, row: int) -> str:
    """Why a column has nothing of a sample; empty where it has."""
    shard, _ = frozen.locate(row)
    if not schema.marker_path(cache, column, shard).is_file():
        return f"shard {shard} is not built yet"
    failed = schema.load_marker(cache, column, shard).failed
    return f"left out: {failed[frozen.keys[row]]}" if frozen.keys[row] in failed else ""


def _views(cache: Path, frozen: Plan, column: Column, row: int) -> list[dict[str, Any]]:
    """The values of every view of a sample."""
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
    coloured = colours(tokens, palette(cache, column, field))
    caption = f"{_stored(field, np.asarray(value))}\n3 principal components"
    yield Panel(title, caption, "image", _square(coloured))
    yield Panel(title, "norm of each token", "map", _square(np.linalg.norm(tokens, axis=-1)))


def plain(title: str, field: Field, value: Any) -> Panel:
    """A value as its own kind and shape let it be seen, tokens too: as their numbers."""
    if field.kind == "text":
        return Panel(title, f"{len(value)} characters", "text", value)
    value = np.asarray(value)
    caption = _stored(field, value)
    if field.kind == "data" and field.shape[:1] == (None,) and value.ndim == 3 and value.size:
        first = value[:, 0]  # of the points of each token, such as the atoms of a residue
        apart = np.linalg.norm(first[:, None] - first[None], axis=-1)
        return Panel(title, f"{caption}\ndistances between the tokens", "map", apart)
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
    """Pictures as a net sees them; of moments and other channels the first three, stretched."""
    if field.kind == "data" and len(value) in (1, 3):
        image = picture.to_uint8(value[None], field)[0]
        return caption, "image", np.broadcast_to(image, (*image.shape[:2], 3))
    mean = value[: len(value) // 2] if field.kind == "moments" else value
    image = picture.stretched(mean[None])[0]
    what = "mean, " if field.kind == "moments" else ""
    note = f"{caption}\n{what}channels 1 to {image.shape[-1]}, stretched"
    return note, "image", np.broadcast_to(image, (*image.shape[:2], 3))


def palette(cache: Path, column: Column, field: Field) -> State:
    """What gives tokens their colours: components of the first records, the same for all samples.

    A state of reed.cache.codecs.pca, of three components or what the records allow; empty for none.
    """
    codec, place = codecs.codec_of(field), f"{column.name}/{field.name}"
    with open_cache(cache) as opened:
        shards = range(opened.plan.shards)
        built = (s for s in shards if schema.marker_path(cache, column, s).is_file())
        found = islice(opened.records(place, shards=islice(built, 1)), FITTED)
        state = opened.state(column.name)[field.name]
        fitted = [codec.restore(value, state) for _, value in found]
    kept = min(3, field.shape[-1] or 0, sum(map(len, fitted)) - 1)
    return pca.fit(fitted, kept) if kept > 0 else {}


def colours(tokens: np.ndarray, palette: State) -> np.ndarray:
    """[T, D] -> [T, 3] uint8: components one to three, from -2.5 to 2.5 standard deviations."""
    level = np.full((len(tokens), 3), 0.5)
    if palette:
        level[:, : len(palette["std"])] += pca.whiten(tokens, palette) / 5
    return np.rint(255 * level.clip(0, 1)).astype(np.uint8)


def _square(values: np.ndarray) -> np.ndarray:
    """[T, ...] on its square grid, row by row; as one row where T is no square."""
    side = math.isqrt(len(values))
    shape = (side, side) if side * side == len(values) else (1, len(values))
    return values.reshape(*shape, *values.shape[1:])


def _draw(title: str, found: Sequence[Panel]) -> bytes:
    figures = picture.library("matplotlib.figure")
    across = len(found) if len(found) <= 4 else 3 if len(found) <= 6 else 4
    down = -(-len(found) // across)
    figure = figures.Figure((across * WIDTH, down * HEIGHT + 0.5), DPI, layout="constrained")
    figure.suptitle(title, fontsize=12, weight="bold", parse_math=False, wrap=True)
    for axes in (all_axes := figure.subplots(down, across, squeeze=False).ravel()):
        axes.axis("off")
    for axes, panel in zip(all_axes, found, strict=False):
        _draw_panel(figure, axes, panel)
    file = io.BytesIO()
    with warnings.catch_warnings():  # a script that the font lacks shows as boxes
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
    height, width = panel.value.shape[:2]
    aspect = "equal" if max(height, width) <= 4 * min(height, width) else "auto"
    shown = axes.imshow(panel.value, aspect=aspect, interpolation="nearest", cmap="viridis")
    axes.set_box_aspect(None if aspect == "equal" else 0.5)
    if panel.shows == "map":
        figure.colorbar(shown, ax=axes, shrink=0.8).ax.tick_params(labelsize=7, colors=PALE)
