"""Encoders that copy their input: labels, images, and latents that were encoded elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless
from reed.errors import ReedError

SD_VAE_SCALE = 0.18215  # one over the standard deviation of the latents of Stable Diffusion's VAE
SD_VAE_FACTOR = 8  # pixels per latent pixel


@ENCODERS.register("labels")
@dataclass(frozen=True)
class Labels(Weightless):
    """The class of a sample, as an int64 label."""

    reads = ("label",)
    fields = (Field("label", "label", (), "int64"),)

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``label`` [B]."""
        return {"label": np.array([sample["label"] for sample in samples], np.int64)}


@ENCODERS.register("image")
@dataclass(frozen=True)
class Image(Weightless):
    """The pixels themselves, uint8 [3, resolution, resolution].

    The field is ``image``; a net sees pixel / 127.5 - 1.

    Attributes:
        resolution: Height and width of the images in pixels.
    """

    resolution: int = 256

    reads = ("image",)
    batch_size = 64

    def __post_init__(self) -> None:
        _check_resolution("image", self.resolution, 1)

    @property
    def source_settings(self) -> Mapping[str, Any]:
        """The resolution, because images are not resized."""
        return {"resolution": self.resolution}

    @property
    def fields(self) -> tuple[Field, ...]:
        """The single field ``image``, of kind data."""
        shape = (3, self.resolution, self.resolution)
        return (Field("image", "data", shape, "uint8", scale=(1 / 127.5,), shift=(127.5,)),)

    def revision(self) -> str:
        """Return the resolution, because nothing is computed."""
        return f"1-{self.resolution}"

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``image`` [B, 3, R, R].

        Raises:
            BadSample: An image has another size than ``resolution``.
        """
        shape = (self.resolution, self.resolution, 3)
        images = [_of_shape("image", sample["image"], shape) for sample in samples]
        return {"image": np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))}


@ENCODERS.register("sd-vae-import")
@dataclass(frozen=True)
class ImportedMoments(Weightless):
    """Latents of Stable Diffusion's VAE that were encoded elsewhere.

    The field ``moments``, [8, resolution / 8, resolution / 8], holds their mean and standard
    deviation. It is float16 in the cache, and values beyond the range of float16 are refused. A
    net sees 0.18215 times a draw from the distribution.

    Attributes:
        resolution: Height and width of the images that were encoded, in pixels.
    """

    resolution: int = 256

    reads = ("moments",)
    licence = "MIT"  # licence of the VAE, stabilityai/sd-vae-ft-mse
    decoder = "sd-vae"  # the encoder that decodes sampled latents into images

    def __post_init__(self) -> None:
        _check_resolution("sd-vae-import", self.resolution, SD_VAE_FACTOR)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The single field ``moments``, of kind moments."""
        scale, shift = (SD_VAE_SCALE,), (0.0,)
        return (Field("moments", "moments", self._shape, "float16", scale=scale, shift=shift),)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return (8, self.resolution // SD_VAE_FACTOR, self.resolution // SD_VAE_FACTOR)

    def revision(self) -> str:
        """Return the resolution, because nothing is computed."""
        return f"imported1-{self.resolution}"

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``moments`` [B, 8, R / 8, R / 8].

        Raises:
            BadSample: The moments of a sample have another shape.
        """
        moments = [_of_shape("moments", sample["moments"], self._shape) for sample in samples]
        return {"moments": np.stack(moments)}


def _check_resolution(name: str, resolution: int, factor: int) -> None:
    if resolution < factor or resolution % factor:
        problem = f"{name}: resolution is {resolution}"
        raise ReedError(f"{problem}, it must be a multiple of {factor} and at least that")


def _of_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.shape != shape:
        problem = f"{name} has shape {array.shape}, the column {shape}"
        raise BadSample(f"{problem}; give the source and the encoder one resolution")
    return array
