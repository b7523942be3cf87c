"""The feature spaces for generated scenes, to which no run is aligned."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from reed.errors import ReedError
from reed.metrics import FEATURES
from reed.metrics.image_set import ImageSet

if TYPE_CHECKING:
    import torch

FILE = "scenes_judge.safetensors"
LAYERS = ((3, 32, 1), (32, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1), (96, 64, 1))
GROUPS = 8  # of the group norms


class _Fixed:
    """Base class of both spaces: 64 features per image, and no settings."""

    outputs = ("mean",)

    def __init__(self, weights: str | None = None, precision: str = "fp32") -> None:
        if weights or precision != "fp32":
            raise ReedError(
                "the feature spaces of scenes come with the package, in fp32: they have no weights "
                "to load and no precision to choose"
            )
        self._device = "cpu"

    def lacks(self, real: ImageSet) -> str:
        """Return why the space cannot be used: it needs colour images of the size of scenes."""
        return "" if real.shape == (32, 32, 3) else "only for scenes of 32x32 pixels"

    def load(self, device: str, real: ImageSet | None = None) -> None:
        """Keep the device; nothing is fitted to the reference."""
        self._device = device


@FEATURES.register("scenes-judge")
class ScenesJudge(_Fixed):
    """64 features of a plain convolutional net, averaged over the image.

    It was trained to classify what covers each patch, by shape with texture and by colour with
    shape (see reed.experiments.train_scenes). It differs from the encoders in its architecture,
    seed and training scenes, and shares no weights with them.
    """

    def revision(self) -> str:
        """Return the sha256 of the weights file and the version of the computation."""
        return f"{hashlib.sha256(shipped()).hexdigest()[:16]}-mean1-fp32"

    def load(self, device: str, real: ImageSet | None = None) -> None:
        """Load the shipped weights."""
        from safetensors.torch import load

        super().load(device, real)
        self._weights = {name: value.float().to(device) for name, value in load(shipped()).items()}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the features [B, 64] of uint8 images [B, 32, 32, 3]."""
        import torch

        with torch.inference_mode():
            features = patch_features(self._weights, torch.tensor(images, device=self._device))
        return {"mean": features.mean((2, 3)).cpu().numpy()}


@FEATURES.register("random-conv")
class RandomConv(_Fixed):
    """Mean and standard deviation over the image of 32 rectified random 5x5 filters: 64 features.

    Nothing is learned. The filters see colour, edges and fine texture, but no object as a whole.
    """

    def revision(self) -> str:
        """Return the seed of the filters and the version of the computation."""
        return "pcg64-0-mean-std1-fp32"

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the features [B, 64] of uint8 images [B, H, W, 3]."""
        import torch
        from torch.nn import functional

        rng = np.random.Generator(np.random.PCG64(0))
        filters = rng.normal(0, 75**-0.5, (32, 3, 5, 5)).astype(np.float32)
        x = torch.tensor(images, device=self._device).permute(0, 3, 1, 2).float()
        x = functional.conv2d((x - 127.5) / 127.5, torch.from_numpy(filters).to(self._device))
        x = x.relu().flatten(2)
        return {"mean": torch.cat([x.mean(2), x.std(2)], 1).cpu().numpy()}


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor in the weights file."""
    table: dict[str, tuple[int, ...]] = {}
    for i, (width, out, _) in enumerate(LAYERS):
        table |= {f"{i}.weight": (out, width, 3, 3), f"{i}.norm.weight": (out,)}
        table |= {f"{i}.bias": (out,), f"{i}.norm.bias": (out,)}
    return table


def patch_features(weights: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Compute the features [B, 64, 8, 8] of images [B, 32, 32, 3], 0 to 255."""
    from torch.nn import functional

    x = (images.permute(0, 3, 1, 2).float() - 127.5) / 127.5
    for i, (_, _, stride) in enumerate(LAYERS):
        x = functional.conv2d(x, weights[f"{i}.weight"], weights[f"{i}.bias"], stride, padding=1)
        scale, shift = weights[f"{i}.norm.weight"], weights[f"{i}.norm.bias"]
        x = functional.group_norm(x, GROUPS, scale, shift).relu()
    return x


def shipped() -> bytes:
    """Return the bytes of the weights file that ships with the package."""
    return resources.files("reed.metrics").joinpath(FILE).read_bytes()
