"""Base class of encoders whose small weights ship with the package."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Shipped:
    """An encoder with weights, in float32, from a safetensors file in the package.

    Args:
        shipped: Function that returns the content of the file.
    """

    licence = "MIT"
    batch_size = 256

    def __init__(self, shipped: Callable[[], bytes]) -> None:
        self._shipped = shipped
        self._weights: dict[str, torch.Tensor] = {}
        self._device = "cpu"

    def revision(self) -> str:
        """Return the sha256 of the weights file and the version of the computation."""
        return f"{hashlib.sha256(self._shipped()).hexdigest()[:16]}-forward1"

    def load(self, device: str) -> None:
        """Load the shipped weights in float32 onto ``device``."""
        from safetensors.torch import load

        self._device = device
        self._weights = {k: v.float().to(device) for k, v in load(self._shipped()).items()}
