"""Histograms of oriented gradients: a teacher of images without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless
from reed.errors import at_least

BINS = 8  # of the direction of a gradient, without its sign
CHANNELS = BINS + 4  # and the mean colour, and the contrast
GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601


@ENCODERS.register("gradients")
@dataclass(frozen=True)
class Gradients(Weightless):
    """Histograms of oriented gradients, mean colour and contrast of each cell of a grid.

    Its fields; their codec takes out the mean and deviation of every channel:

    - ``tokens`` [grid x grid, 12]: the cells, row by row.
    - ``sample`` [24]: mean and standard deviation of the tokens.

    Source: Dalal and Triggs, Histograms of Oriented Gradients for Human Detection (CVPR 2005);
    here without overlapping blocks.

    Attributes:
        grid: Cells per side; the side of the images must be a multiple of it.
    """

    grid: int = 8

    reads = ("image",)
    licence = "MIT"
    batch_size = 64
    version = "1"  # raise it when a descriptor changes

    def __post_init__(self) -> None:
        at_least(1, "gradients: ", grid=self.grid)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields ``tokens`` and ``sample``."""
        return (
            Field("tokens", "token", (self.grid**2, CHANNELS), "standard+int8"),
            Field("sample", "sample", (2 * CHANNELS,), "standard+int8"),
        )

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``tokens`` [B, grid x grid, 12] and ``sample`` [B, 24].

        Raises:
            BadSample: The side of an image is not a multiple of ``grid``.
        """
        tokens = [self._described(sample["image"]) for sample in samples]
        whole = [np.concatenate([cells.mean(0), cells.std(0)]) for cells in tokens]
        return {
            "tokens": np.stack(tokens).astype(np.float32),
            "sample": np.stack(whole).astype(np.float32),
        }

    def _described(self, image: np.ndarray) -> np.ndarray:
        """Describe the cells of an image, uint8 [R, R, 3]: float64 [grid x grid, 12]."""
        side = image.shape[0]
        if side % self.grid or image.shape != (side, side, 3):
            problem = f"the image has shape {image.shape}, grid is {self.grid}"
            raise BadSample(f"{problem}; give both one multiple, --set gradients.grid=N")

        # The gradient is that of brightness, as central differences.
        colour = image / 255.0
        grey = colour @ GREY
        down, right = np.gradient(np.pad(grey, 1, mode="edge"))
        down, right = down[1:-1, 1:-1], right[1:-1, 1:-1]
        strength = np.hypot(down, right)
        angle = np.arctan2(down, right) % np.pi / np.pi * BINS - 0.5

        # Each gradient counts in the two nearest bins, so that a small turn changes little.
        low = np.floor(angle)
        share = angle - low
        votes = np.zeros((side, side, BINS))
        rows, columns = np.indices((side, side))
        for bins, weight in ((low, 1 - share), (low + 1, share)):
            votes[rows, columns, bins.astype(int) % BINS] += strength * weight

        parts = np.concatenate([self._mean(votes), self._mean(colour)], -1)
        variance = self._mean(np.square(grey)[..., None]) - self._mean(grey[..., None]) ** 2
        return np.concatenate([parts, np.sqrt(variance.clip(0))], -1).reshape(-1, CHANNELS)

    def _mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean over each cell: [R, R, C] -> [grid, grid, C]."""
        size = len(values) // self.grid
        return values.reshape(self.grid, size, self.grid, size, -1).mean((1, 3))
