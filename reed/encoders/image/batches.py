"""Helpers of the image encoders: check a precision, and put images on a device and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reed.build.shard import BadSample
from reed.errors import ReedError, suggest
from reed.precision import PRECISIONS

if TYPE_CHECKING:
    import torch


def check_precision(name: str, precision: str) -> None:
    """Refuse a precision that is not one of PRECISIONS.

    Args:
        name: Name of the encoder, for the message.
        precision: The precision to check.
    """
    if precision not in PRECISIONS:
        hint = suggest(precision, PRECISIONS)
        raise ReedError(f"{name}.precision cannot be {precision!r}.{hint}")


def handed_over(values: torch.Tensor) -> Any:
    """Return values as an encoder does, float32: on a GPU they stay there until they are stored."""
    values = values.float()
    return values if values.is_cuda else values.cpu().numpy()


def bytes_of(pixels: torch.Tensor, half: float) -> np.ndarray:
    """Return pixels in -1..1, [B, 3, R, R], as uint8 [B, R, R, 3].

    Args:
        pixels: The pixels.
        half: A pixel x becomes the integer part of clamp(127.5 x + half, 0, 255).
    """
    import torch

    level = (pixels * 127.5 + half).clamp(0, 255).to(torch.uint8)
    return level.permute(0, 2, 3, 1).cpu().numpy()


def images(samples: Sequence[dict[str, Any]], device: str) -> torch.Tensor:
    """Stack the images of some samples, uint8 [B, 3, R, R] on ``device``.

    Raises:
        BadSample: An image is not uint8 [R, R, 3], or the images differ in size.
    """
    import torch

    # Name the sample at fault, where np.stack would report only that shapes differ.
    first = np.asarray(samples[0]["image"]).shape
    for sample in samples:
        image = np.asarray(sample["image"])
        square = image.ndim == 3 and image.shape[0] == image.shape[1] and image.shape[2] == 3
        if not square or image.dtype != np.uint8:
            raise BadSample(f"image is {image.dtype} {image.shape}, it should be uint8 [R, R, 3]")
        if image.shape != first:
            raise BadSample(f"image is {image.shape}, the first one of the batch {first}")

    stacked = torch.from_numpy(np.stack([sample["image"] for sample in samples]))
    return stacked.to(device).permute(0, 3, 1, 2).contiguous()
