"""Fields that the image domain generates: pixels, latents, or tokens as an image of features."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reed.cache.codecs import codecs
from reed.cache.schema import Field
from reed.errors import ReedError


def check_fields(x: Field, label: Field) -> None:
    """Raise ReedError unless a SiT can be trained on fields of these kinds and shapes."""
    if x.kind == "token":
        _check_tokens(x)
    elif (
        x.kind not in ("data", "moments")
        or len(x.shape) != 3
        or None in x.shape
        or (x.kind == "moments" and x.sizes[0] % 2)
    ):
        raise ReedError(
            f"data.x is {x.name!r} of kind {x.kind!r} and shape {x.shape}; it must be 'data' "
            "[C, H, W], 'moments' [2C, H, W] or 'token' [T, C]"
        )
    if label.kind != "label":
        raise ReedError(f"data.label is {label.name!r} of kind {label.kind!r}, not 'label'")


def _check_tokens(x: Field) -> None:
    """Raise ReedError unless tokens are the values of a square grid."""
    where = f"data.x is the tokens {x.name!r}"
    count = x.shape[0]
    if count is None:
        raise ReedError(f"{where}, whose number varies; an image of features needs a square grid")

    # A class token comes first, so that one less is a square.
    if math.isqrt(count) ** 2 != count:
        cls = math.isqrt(count - 1) ** 2 == count - 1
        hint = f"; {count - 1} of them are one: leave out the class token" if cls and count else ""
        raise ReedError(f"{where}, and {count} tokens are no square grid{hint}")
    if codecs.codec_of(x).decoded_shape(x) != x.shape or x.codec.startswith("standard"):
        raise ReedError(
            f"{where}, stored as {x.codec!r}, which does not give the encoder's values back; store "
            "them as int8 or float16 (reed-cache build --codec)"
        )


def net_shape(x: Field) -> tuple[int, int, int]:
    """Return channels, height and width of the net's input.

    Of moments, the net sees a draw, which has half as many channels.
    """
    if x.kind == "token":
        count, channels = x.sizes
        return channels, math.isqrt(count), math.isqrt(count)
    channels, height, width = x.sizes
    return channels // 2 if x.kind == "moments" else channels, height, width


def as_image(values: Tensor, x: Field) -> Tensor:
    """Return stored values as the net takes them: tokens [B, T, C], row by row, -> [B, C, H, W]."""
    if x.kind != "token":
        return values
    return values.mT.unflatten(2, net_shape(x)[1:]).contiguous()


def as_stored(images: Tensor, x: Field) -> Tensor:
    """Return what `as_image` was given."""
    return images.flatten(2).mT.contiguous() if x.kind == "token" else images


def per_channel(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    """Return one number, or one number per channel, as a tensor that broadcasts to [B, C, H, W]."""
    values = torch.tensor(numbers, dtype=like.dtype).view(-1, 1, 1)
    return values.to(like.device, non_blocking=True)  # else every step would wait for the GPU
