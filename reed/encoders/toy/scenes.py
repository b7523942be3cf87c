"""Encoders of the generated scenes: a small frozen net, a caption, and the caption's embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless
from reed.encoders.image.pixels import stack
from reed.encoders.toy import scenes_net as nets
from reed.encoders.toy.shipped import Shipped

if TYPE_CHECKING:
    import torch

NUMBERS = {1: "One", 2: "Two", 3: "Three"}


@ENCODERS.register("scenes-conv")
class ScenesConv(Shipped):
    """A convolutional net trained to recognise the object in each patch.

    The field ``tokens`` [64, 64] has one vector per 4x4 patch, row by row. It is stored as 32
    whitened components: without whitening, two tokens of an image have a mean cosine of 0.5, so
    that a cosine to them tells little.
    """

    reads = ("pixels",)
    fields = (Field("tokens", "token", (nets.GRID**2, nets.WIDTH), "pca:32+int8"),)

    def __init__(self) -> None:
        super().__init__(nets.shipped)

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``tokens`` [B, 64, 64].

        Raises:
            BadSample: An image is not [3, 32, 32].
        """
        import torch

        pixels = torch.from_numpy(stack(samples, (3, nets.SIDE, nets.SIDE), "uint8"))
        return {"tokens": self.tokens(pixels.to(self._device)).cpu().numpy()}

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the tokens [B, 64, 64] of uint8 images [B, 3, 32, 32] on the device."""
        import torch

        assert self._weights, "load() comes first"
        with torch.no_grad():
            return nets.image_features(self._weights, pixels)


@ENCODERS.register("scenes-caption")
class ScenesCaption(Weightless):
    """One English sentence per scene, on its objects, what they share, and the background."""

    reads = ("scene",)
    fields = (Field("caption", "text", (), "utf8"),)
    licence = "MIT"
    version = "1"  # raise it when the wording changes (a test notices)

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one caption per sample."""
        return {"caption": [describe(sample["scene"]) for sample in samples]}


def describe(scene: Any) -> str:
    """Describe a scene of reed.sources.toy: "Two objects of the same colour on …"."""
    count = len(scene.things)
    common = "mixed" if scene.rule == "none" else f"of the same {scene.rule}"
    objects = "object" if count == 1 else f"objects {common}"
    parts = [f"a {t.colour} {t.texture} {t.shape}" for t in scene.things]
    for i, (left, right) in enumerate(zip(scene.things, scene.things[1:], strict=False)):
        across, down = right.x - left.x, right.y - left.y
        relation = "left of" if across > abs(down) else "above" if down > 0 else "below"
        parts[i] += f" {relation}"
    return f"{NUMBERS[count]} {objects} on a {scene.ground} ground: {' '.join(parts)}."


@ENCODERS.register("scenes-text")
class ScenesText(Shipped):
    """A small text encoder trained to match captions with their images.

    The field ``embedding`` is float32 [64].
    """

    reads = ("scenes-caption/caption",)
    fields = (Field("embedding", "sample", (nets.WIDTH,), "float32"),)

    def __init__(self) -> None:
        super().__init__(nets.shipped)

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``embedding`` [B, 64].

        Raises:
            BadSample: A caption has a word that no caption of a scene has.
        """
        import torch

        assert self._weights, "load() comes before encode()"
        embeddings = []

        # One by one, so that captions need no padding.
        for sample in samples:
            caption = sample["scenes-caption/caption"]
            try:
                words = torch.tensor(nets.numbered(caption), device=self._device)
            except KeyError as error:
                raise BadSample(f"the caption {caption!r} has an unknown word: {error}") from error
            with torch.inference_mode():
                embeddings.append(nets.text_features(self._weights, words).cpu().numpy())
        return {"embedding": np.stack(embeddings)}
