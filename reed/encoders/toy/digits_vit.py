"""A small vision transformer for 8x8 digits, as functions of a dictionary of weights.

It is written as functions, not as a torch.nn.Module: the registry imports this module to list the
encoders, and that must not import torch.
"""

from __future__ import annotations

import math
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FILE = "digits_vit.safetensors"
HEADER = "digits-vit"
SIDE = 8  # pixels
PATCH = 2  # pixels; gives the same 4x4 grid, row by row, as a SiT with patch 2
TOKENS = (SIDE // PATCH) ** 2
WIDTH = 64
DEPTH = 3
HEADS = 4
CLASSES = 10


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor in the weights file."""
    table: dict[str, tuple[int, ...]] = {
        "patch.weight": (WIDTH, PATCH * PATCH),
        "patch.bias": (WIDTH,),
        "cls": (WIDTH,),
        "position": (TOKENS, WIDTH),
    }

    # Each block has four linear layers and two norms.
    for index in range(DEPTH):
        for name, out, width in (
            ("qkv", 3 * WIDTH, WIDTH),
            ("proj", WIDTH, WIDTH),
            ("up", 4 * WIDTH, WIDTH),
            ("down", WIDTH, 4 * WIDTH),
        ):
            table[f"blocks.{index}.{name}.weight"] = (out, width)
            table[f"blocks.{index}.{name}.bias"] = (out,)
        table |= _norm(f"blocks.{index}.norm1") | _norm(f"blocks.{index}.norm2")
    return table | _norm("norm") | {"head.weight": (CLASSES, WIDTH), "head.bias": (CLASSES,)}


def features(weights: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """Compute the states of the class token and the 16 patches after the final norm.

    Source: Dosovitskiy et al., 2021, pre-norm.

    Args:
        weights: The tensors of ``shapes``.
        pixels: float [B, 1, 8, 8], ink from 0 to 16.

    Returns:
        States [B, 17, WIDTH]; the class token comes first.
    """
    import torch
    from torch.nn import functional

    # Cut the image into patches, row by row.
    batch, grid = len(pixels), SIDE // PATCH
    patches = ((pixels - 8) / 8).reshape(batch, grid, PATCH, grid, PATCH).transpose(2, 3)
    patches = patches.reshape(batch, TOKENS, PATCH * PATCH)  # [B, 16, 4]

    x = functional.linear(patches, weights["patch.weight"], weights["patch.bias"])
    x = x + weights["position"]
    x = torch.cat([weights["cls"].expand(batch, 1, WIDTH), x], dim=1)  # [B, 17, WIDTH]
    for index in range(DEPTH):
        x = _block(weights, f"blocks.{index}", x)
    return _normed(weights, "norm", x)


def logits(weights: dict[str, torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    """Compute class scores [B, 10] from the class token of ``features``, as in training."""
    from torch.nn import functional

    return functional.linear(states[:, 0], weights["head.weight"], weights["head.bias"])


def shipped() -> bytes:
    """Return the bytes of the weights file that ships with the package."""
    return resources.files("reed.encoders.toy").joinpath(FILE).read_bytes()


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def _normed(weights: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return functional.layer_norm(x, (WIDTH,), scale, shift)


def _block(weights: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    def linear(part: str, value: torch.Tensor) -> torch.Tensor:
        weight, bias = weights[f"{name}.{part}.weight"], weights[f"{name}.{part}.bias"]
        return functional.linear(value, weight, bias)

    # Attention, then the feed-forward part, both pre-norm and residual.
    batch, tokens, _ = x.shape
    qkv = linear("qkv", _normed(weights, f"{name}.norm1", x))
    qkv = qkv.reshape(batch, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
    query, key, value = qkv  # each [B, HEADS, 17, WIDTH / HEADS]
    score = query @ key.transpose(-2, -1) / math.sqrt(WIDTH // HEADS)
    mixed = (score.softmax(-1) @ value).transpose(1, 2).reshape(batch, tokens, WIDTH)
    x = x + linear("proj", mixed)

    hidden = functional.gelu(linear("up", _normed(weights, f"{name}.norm2", x)))
    return x + linear("down", hidden)
