"""Images as a source has them, with their labels: the base column of generated and toy data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.cache.schema import Field
from reed.encoders import ENCODERS


class Pixels:
    """The image and its label as they are; a net sees `image` scaled to -1..1.

    pixels: the image, such as [3, 32, 32], stored as its codec says; label: int64.
    """

    reads = ("pixels", "label")
    batch_size = 256

    def __init__(self, image: Field, licence: str) -> None:
        self.fields = (image, Field("label", "label", (), "int64"))
        self.licence = licence

    def revision(self) -> str:
        """A constant: nothing is computed."""
        return "1"

    def load(self, device: str) -> None:
        """Nothing to load."""

    def encode(self, samples: Sequence[dict[str, Any]]) -> dict[str, Sequence[Any]]:
        """pixels [B, *shape] and label [B]; BadSample when an image does not fit."""
        labels = np.array([sample["label"] for sample in samples], np.int64)
        field = self.fields[0]
        return {"pixels": stack(samples, field.shape, field.codec), "label": labels}


def stack(samples: Sequence[dict[str, Any]], shape: Sequence[int], dtype: str) -> np.ndarray:
    """The pixels of some samples [B, *shape]; BadSample when one does not fit shape or dtype."""
    images = [np.asarray(sample["pixels"]) for sample in samples]
    for image in images:
        if image.shape != tuple(shape) or not np.can_cast(image.dtype, dtype, "same_kind"):
            found = f"pixels are {image.dtype} of shape {image.shape}"
            raise BadSample(f"{found}, not {dtype} of shape {tuple(shape)}")
    return np.stack(images).astype(dtype, copy=False)


DIGIT = Field("pixels", "data", (1, 8, 8), "float32", scale=(0.125,), shift=(8.0,))
RGB = Field("pixels", "data", (3, 32, 32), "uint8", scale=(1 / 127.5,), shift=(127.5,))

# the data: UCI, Optical Recognition of Handwritten Digits
ENCODERS.register("pixels")(partial(Pixels, image=DIGIT, licence="CC-BY-4.0"))
ENCODERS.register("rgb-32")(partial(Pixels, image=RGB, licence="MIT"))
