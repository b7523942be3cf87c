"""Preprocessing of uint8 images for a vision encoder, in float32 on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Mean and standard deviation per channel, of values from 0 to 1.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

# The steps applied to x / 255 when its size has to change, in order.
ORDERS = {
    "normalise-resize": "normalise, then bicubic without antialiasing (REPA: dinov2, jepa)",
    "resize-normalise": "bicubic without antialiasing, then normalise (REPA: clip)",
    "antialias-normalise": "resize with antialiasing, clamp to 0..1, then normalise (timm)",
}


@dataclass(frozen=True)
class Preprocess:
    """How the input images of a vision encoder are normalised and resized.

    Attributes:
        mean: Mean of each channel, of values from 0 to 1.
        std: Standard deviation of each channel, of values from 0 to 1.
        order: A key of ORDERS.
        interpolation: Mode of ``torch.nn.functional.interpolate``.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: str
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        assert self.order in ORDERS, self.order

    def __call__(self, pixels: torch.Tensor, size: int) -> torch.Tensor:
        """Convert uint8 [B, 3, R, R] to float32 [B, 3, size, size].

        Nothing is resized if R equals ``size``.
        """
        from torch.nn import functional

        def normalise(x: torch.Tensor) -> torch.Tensor:
            mean, std = (x.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
            return (x - mean) / std

        def resize(x: torch.Tensor, *, antialias: bool = False) -> torch.Tensor:
            if x.shape[-1] == size:
                return x
            return functional.interpolate(
                x, (size, size), mode=self.interpolation, align_corners=False, antialias=antialias
            )

        # Each order follows a public implementation, so that the values agree with it.
        x = pixels.float() / 255
        if self.order == "normalise-resize":
            return resize(normalise(x))
        if self.order == "resize-normalise":
            return normalise(resize(x))
        return normalise(resize(x, antialias=True).clamp(0, 1))
