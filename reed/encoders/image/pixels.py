"""Images as the source provides them, with labels: the base column of toy data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless


class Pixels(Weightless):
    """The unchanged image and its label; a net sees the image scaled to -1..1.

    Its fields:

    - ``pixels``: the image, such as [3, 32, 32], in the codec of ``image``.
    - ``label``: int64.

    Attributes:
        image: The field ``pixels``, which a subclass sets.
    """

    image: ClassVar[Field]

    reads = ("pixels", "label")

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields ``pixels`` and ``label``."""
        return (self.image, Field("label", "label", (), "int64"))

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``pixels`` [B, ...] and ``label`` [B].

        Raises:
            BadSample: An image has another shape or dtype than the field.
        """
        labels = np.array([sample["label"] for sample in samples], np.int64)
        pixels = stack(samples, self.image.sizes, self.image.codec)
        return {"pixels": pixels, "label": labels}


def stack(samples: Sequence[dict[str, Any]], shape: Sequence[int], dtype: str) -> np.ndarray:
    """Stack the pixels of samples, [B, ...].

    Raises:
        BadSample: The pixels of a sample have another shape, or do not fit ``dtype``.
    """
    images = [np.asarray(sample["pixels"]) for sample in samples]
    for image in images:
        if image.shape != tuple(shape) or not np.can_cast(image.dtype, dtype, "same_kind"):
            problem = f"pixels are {image.dtype} of shape {image.shape}"
            raise BadSample(f"{problem}, not {dtype} of shape {tuple(shape)}")
    return np.stack(images).astype(dtype, copy=False)


@ENCODERS.register("pixels")
class DigitPixels(Pixels):
    """The 8x8 digits of UCI's Optical Recognition of Handwritten Digits, ink from 0 to 16."""

    image = Field("pixels", "data", (1, 8, 8), "float32", scale=(0.125,), shift=(8.0,))
    licence = "CC-BY-4.0"


@ENCODERS.register("rgb-32")
class Rgb32(Pixels):
    """Colour images of 32x32 pixels, such as the generated scenes."""

    image = Field("pixels", "data", (3, 32, 32), "uint8", scale=(1 / 127.5,), shift=(127.5,))
    licence = "MIT"
