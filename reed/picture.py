"""Turns image samples into pictures: uint8 arrays, grids and PNG files."""

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
    """Import a drawing library; ReedError names the extra that installs it if it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        project = name.partition(".")[0].replace("PIL", "Pillow")
        raise ReedError(
            f"a picture needs {project}, which cannot be imported: {error}; "
            f"install it with: {pip_install('plot')}"
        ) from error


# Added to 127.5 x, with x in -1..1, before truncation: SiT rounds to nearest, ADM and REPA down.
ROUNDING = {"nearest": 128.0, "down": 127.5}


def to_uint8(x: np.ndarray, field: Field, rounding: str = "nearest") -> np.ndarray:
    """Convert stored values to bytes; -1..1 in the scale of the net becomes 0..255.

    Args:
        x: Stored values, [N, C, H, W].
        field: Field of the cache, whose scale and shift lead to the scale of the net.
        rounding: A key of ROUNDING.

    Returns:
        uint8 [N, H, W, C].
    """
    scale = np.asarray(field.scale, np.float32).reshape(-1, 1, 1)
    shift = np.asarray(field.shift, np.float32).reshape(-1, 1, 1)
    level = 127.5 * ((x - shift) * scale) + ROUNDING[rounding]
    return np.nan_to_num(level).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def stretched(latents: np.ndarray) -> np.ndarray:
    """Show latents as false colours: [N, C, H, W] becomes uint8 [N, H, W, 3 or 1].

    The first three channels (or the only one) of every sample are stretched from their 1st to
    their 99th percentile, so colours carry no meaning.
    """
    first = latents[:, : 3 if latents.shape[1] >= 3 else 1].astype(np.float64)
    low, high = np.percentile(first, [1, 99], axis=(2, 3), keepdims=True)
    level = ((first - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
    return np.rint(255 * level).astype(np.uint8).transpose(0, 2, 3, 1)


def grid(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Arrange images [N, H, W, C] uint8 row by row on white, as one picture [H, W, C]."""
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
    """Write a picture as a PNG.

    Args:
        picture: uint8 [H, W, C] with 1, 3 or 4 channels.
        path: File or buffer to write to; its folder is made.
        enlarge: Pixels of the file per pixel of the picture, in both directions.

    Raises:
        ReedError: Pillow is not installed.
    """
    image = library("PIL.Image")
    large = picture.repeat(enlarge, 0).repeat(enlarge, 1)
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(large[..., 0] if large.shape[-1] == 1 else large).save(path, "PNG")
