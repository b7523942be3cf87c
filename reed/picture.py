"""Image samples as pictures: uint8 arrays and grids."""

from __future__ import annotations

from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from reed.cache.schema import Field
from reed.errors import ReedError
from reed.extras import pip_install


def library(name: str) -> Any:
    """A module of the libraries that draw; ReedError naming the extra where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        project = name.partition(".")[0].replace("PIL", "Pillow")
        raise ReedError(
            f"a picture needs {project}, which cannot be imported: {error}; "
            f"install it with: {pip_install('plot')}"
        ) from error


# what is added to 127.5 x, x in -1..1, before the fraction is dropped: SiT's way, ADM's and REPA's
ROUNDING = {"nearest": 128.0, "down": 127.5}


def to_uint8(x: np.ndarray, field: Field, rounding: str = "nearest") -> np.ndarray:
    """Stored values [N, C, H, W] as uint8 [N, H, W, C]: what a net sees as -1..1 is 0..255.

    rounding: of ROUNDING.
    """
    scale = np.asarray(field.scale, np.float32).reshape(-1, 1, 1)
    shift = np.asarray(field.shift, np.float32).reshape(-1, 1, 1)
    level = 127.5 * ((x - shift) * scale) + ROUNDING[rounding]
    return level.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def stretched(latents: np.ndarray) -> np.ndarray:
    """The first three channels (or the only one) of [N, C, H, W] as uint8 [N, H, W, 3 or 1].

    Each sample's channels go from their 1st to their 99th percentile: colours say nothing.
    """
    first = latents[:, : 3 if latents.shape[1] >= 3 else 1].astype(np.float64)
    low, high = np.percentile(first, [1, 99], axis=(2, 3), keepdims=True)
    level = ((first - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
    return np.rint(255 * level).astype(np.uint8).transpose(0, 2, 3, 1)


def grid(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Images [N, H, W, C] uint8, row by row in one [H', W', C] picture on white."""
    rows = -(-len(images) // columns)
    _, height, width, channels = images.shape
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, channels)
    picture = np.full(shape, 255, np.uint8)
    for i, image in enumerate(images):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        picture[top : top + height, left : left + width] = image
    return picture


def save_png(picture: np.ndarray, path: Path | BytesIO, enlarge: int = 1) -> None:
    """Write [H, W, C] uint8 (C = 1, 3 or 4) as a PNG, each pixel `enlarge` times as large.

    ReedError without Pillow.
    """
    image = library("PIL.Image")
    large = picture.repeat(enlarge, 0).repeat(enlarge, 1)
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(large[..., 0] if large.shape[-1] == 1 else large).save(path, "PNG")
