"""Samples against the data of a cache, in a named feature space."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from reed.cache import plan, reader, schema
from reed.errors import ReedError
from reed.metrics import FEATURES
from reed.metrics.frechet import Gaussian, frechet_distance
from reed.picture import to_uint8


def reference_images(cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Every image of a cache and its label: uint8 [N, H, W, C] and int64 [N]."""
    frozen = plan.load(cache)
    column = _data_column(cache)
    x = next(field for field in column.fields if field.kind == "data")
    label = next(field for field in column.fields if field.kind == "label")
    state = reader.load_state(cache, column)
    values = [
        record
        for shard in range(frozen.shards)
        for _, record in reader.records(cache, column, shard, [x, label], state)
    ]
    images = to_uint8(np.stack([value[x.name] for value in values]), x)
    return images, np.array([int(value[label.name]) for value in values])


class Reference:
    """The real images of a cache in a feature space, fitted once for any number of samples."""

    def __init__(self, cache: Path, features: str) -> None:
        self._cache, self._features = cache, features
        self.images, labels = reference_images(cache)
        self._space = FEATURES.get(features)(self.images, labels)
        self._real = self.gaussian(self.images)

    def gaussian(self, images: np.ndarray) -> Gaussian:
        """Mean and covariance of the features of images [N, H, W, C] uint8."""
        return Gaussian.of(self._space(images))

    def measure(self, samples: Path) -> dict[str, Any]:
        """The Fréchet distance of an .npz of samples to the real images, and what it was of.

        Raises ReedError when the file is not one that reed-sample wrote.
        """
        drawn = _read_samples(samples)
        if drawn.shape[1:] != self.images.shape[1:]:
            shapes = f"{drawn.shape[1:]}, the images of {self._cache} {self.images.shape[1:]}"
            raise ReedError(f"samples in {samples} have shape {shapes}")
        return {
            "frechet_distance": frechet_distance(self.gaussian(drawn), self._real),
            "features": self._features,
            "samples": len(drawn),
            "reference_samples": len(self.images),
            "reference": str(self._cache),
        }


def _read_samples(path: Path) -> np.ndarray:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["arr_0"]
    except (OSError, EOFError, KeyError, TypeError, ValueError, BadZipFile) as error:
        raise ReedError(f"cannot read samples from {path}: {error}") from error


def _data_column(cache: Path) -> schema.Column:
    for name in schema.columns(cache):
        column = schema.load_column(cache, name)
        if {"data", "label"} <= {field.kind for field in column.fields}:
            return column
    raise ReedError(f"{cache} has no column with images and labels to compare with")
