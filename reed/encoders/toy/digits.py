"""Encoders of the digits: a small frozen transformer, and a description in words."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless
from reed.encoders.image.pixels import stack
from reed.encoders.toy import digits_vit as vit
from reed.encoders.toy.shipped import Shipped

SHAPE = (1, vit.SIDE, vit.SIDE)
EDGE = 6  # ink from which a pixel counts as drawn, of 16; closes the loops of most 0, 6 and 8


@ENCODERS.register("digits-vit")
class DigitsVit(Shipped):
    """A small vision transformer trained to classify the digits.

    Its fields, both after the final norm:

    - ``tokens`` [16, 64]: one per 2x2 patch, row by row.
    - ``cls`` [64]: the class token.
    """

    reads = ("pixels",)
    fields = (
        Field("tokens", "token", (vit.TOKENS, vit.WIDTH), "int8"),
        Field("cls", "sample", (vit.WIDTH,), "float32"),
    )

    def __init__(self) -> None:
        super().__init__(vit.shipped)

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``tokens`` [B, 16, 64] and ``cls`` [B, 64].

        Raises:
            BadSample: An image is not [1, 8, 8].
        """
        import torch

        assert self._weights, "load() comes before encode()"
        pixels = torch.from_numpy(stack(samples, SHAPE, "float32")).to(self._device)
        with torch.inference_mode():
            states = vit.features(self._weights, pixels).cpu().numpy()  # [B, 17, 64]
        return {"tokens": states[:, 1:], "cls": states[:, 0]}


@ENCODERS.register("describe")
class Describe(Weightless):
    """One English sentence per digit, derived from measurements of the image alone."""

    reads = ("pixels",)
    fields = (Field("caption", "text", (), "utf8"),)
    licence = "MIT"
    version = "1"  # raise it when a measure, a threshold or a word changes (a test notices)

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one caption per sample.

        Raises:
            BadSample: An image is not [1, 8, 8], or has no ink.
        """
        return {
            "caption": [sentence(measure(image[0])) for image in stack(samples, SHAPE, "float32")]
        }


@dataclass(frozen=True)
class Measures:
    """The measures of an image from which its description is made.

    Attributes:
        ink: Mean over the image, 0 to 16.
        slant: Pixels to the right per pixel upwards.
        aspect: Width divided by height of the box around drawn pixels.
        holes: Regions of paper that drawn pixels enclose.
        across: Horizontal centre of the ink, in pixels from the left.
        down: Vertical centre of the ink, in pixels from the top.
    """

    ink: float
    slant: float
    aspect: float
    holes: int
    across: float
    down: float


def measure(image: np.ndarray) -> Measures:
    """Measure one image [8, 8] with ink from 0 to 16.

    The slant is the shear of the second moments: -cov(x, y) / var(y), with y downwards.

    Raises:
        BadSample: The image has no ink.
    """
    from scipy import ndimage

    drawn = image >= EDGE
    if not drawn.any():
        raise BadSample(f"nothing to describe: no pixel has an ink of {EDGE} or more")

    # Whole numbers until the last division, so that no rounding moves a value over a threshold.
    ink = image.astype(np.float64)
    y, x = np.mgrid[: vit.SIDE, : vit.SIDE]
    total, sum_x, sum_y = ink.sum(), (ink * x).sum(), (ink * y).sum()
    cov = total * (ink * x * y).sum() - sum_x * sum_y
    var = total * (ink * y * y).sum() - sum_y**2
    height, width = (np.ptp(indices) + 1 for indices in np.nonzero(drawn))

    # The frame joins all paper outside the drawing into one region, which is not a hole.
    _, regions = ndimage.label(np.pad(~drawn, 1, constant_values=True))
    return Measures(
        ink=float(total / ink.size),
        slant=float(-cov / var) if var else 0.0,
        aspect=float(width / height),
        holes=regions - 1,
        across=float(sum_x / total),
        down=float(sum_y / total),
    )


def sentence(measures: Measures) -> str:
    """Describe the measures in a sentence, "A bold drawing that ...", one phrase for each."""
    # Each measure becomes one of three phrases, by two thresholds.
    stroke = _word(measures.ink, (4.6, 5.15), ("faint", "plain", "bold"))
    lean = _word(measures.slant, (-0.12, 0.06), ("leans left", "stands upright", "leans right"))
    build = _word(measures.aspect, (0.6, 0.7), ("narrow", "of medium width", "wide"))
    holes = _word(measures.holes, (1, 2), ("no hole", "one hole", "several holes"))
    down = _word(
        measures.down, (3.3, 3.7), ("in the upper half", "halfway down", "in the lower half")
    )
    across = _word(
        measures.across, (3.4, 3.7), ("left of the middle", "central", "right of the middle")
    )

    return (
        f"A {stroke} drawing that {lean} and is {build}, with {holes}, "
        f"its weight {down} and {across}."
    )


def _word(value: float, cuts: tuple[float, ...], words: tuple[str, ...]) -> str:
    return words[bisect(cuts, value)]
