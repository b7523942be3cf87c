"""Measures of samples, and the feature spaces they are taken in.

A space is registered under its name as what makes it from (weights, precision), see FeatureSpace.
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

    outputs: the names of its vectors, first the one that metrics use which name none.
    """

    outputs: tuple[str, ...]

    def revision(self) -> str:
        """What the features depend on: weights, preprocessing, precision, library."""
        ...

    def lacks(self, real: ImageSet) -> str:
        """Why it cannot be used for these images with what is installed; empty where it can.

        Nothing is fetched to find out.
        """
        ...

    def load(self, device: str, real: ImageSet) -> None:
        """Bring the weights to `device`; real: the reference, for a space that is fitted to it."""
        ...

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Features [B, D] of images [B, H, W, C] uint8, by output."""
        ...


def unfit(real: ImageSet) -> str:
    """Why images cannot be brought to RGB; empty where they can."""
    channels = real.shape[-1] if real.shape else 3
    return "" if channels in (1, 3) else f"images of {channels} channels"


def rgb(images: np.ndarray) -> np.ndarray:
    """Images [B, H, W, C] as [B, 3, H, W]; one channel is repeated, ReedError for 2 or 4."""
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise ReedError(f"images have {channels} channels; this feature space takes 1 or 3")
    colour = np.broadcast_to(images, (*images.shape[:3], 3))
    return np.ascontiguousarray(colour.transpose(0, 3, 1, 2))
