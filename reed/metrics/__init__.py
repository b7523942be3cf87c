"""Measures of samples, and the feature spaces in which they are computed.

A feature space is registered under its name as a callable that takes weights and precision and
returns a FeatureSpace.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from reed.errors import ReedError
from reed.metrics.image_set import ImageSet
from reed.registry import Registry

FEATURES = Registry("feature space", "reed.metrics")


class FeatureSpace(Protocol):
    """A frozen map from images to feature vectors.

    ``outputs`` are the names of its vectors; metrics use the first unless they name another.
    """

    outputs: tuple[str, ...]

    def revision(self) -> str:
        """Return what the features depend on: weights, preprocessing, precision, library."""
        ...

    def lacks(self, real: ImageSet) -> str:
        """Return why the space cannot be used for these images; empty if it can be used.

        It may need weights or libraries that are not installed. Nothing is downloaded.
        """
        ...

    def load(self, device: str, real: ImageSet) -> None:
        """Load the weights.

        Args:
            device: Device of the computation.
            real: The reference images, for a space that is fitted to them.
        """
        ...

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the features [B, D] of uint8 images [B, H, W, C], by output."""
        ...


def unfit(real: ImageSet) -> str:
    """Return why images cannot be converted to RGB; empty if they can."""
    channels = real.shape[-1] if real.shape else 3
    return "" if channels in (1, 3) else f"images of {channels} channels"


def rgb(images: np.ndarray) -> np.ndarray:
    """Convert images [B, H, W, C] to [B, 3, H, W]; a single channel is repeated.

    Raises:
        ReedError: The images have neither 1 nor 3 channels.
    """
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise ReedError(f"images have {channels} channels; this feature space takes 1 or 3")
    colour = np.broadcast_to(images, (*images.shape[:3], 3))
    return np.require(colour.transpose(0, 3, 1, 2), requirements=("C", "W"))
