"""The nets of the scenes' encoders, as functions of a dictionary of weights.

They are written as functions, not as torch.nn.Modules: the registry imports this module to list
the encoders, and that must not import torch.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FILE = "scenes.safetensors"
SIDE = 32  # pixels
GRID = 8  # tokens along a side: that of a SiT with patch 4 on the same image
WIDTH = 64  # of a token and of a caption's embedding
STEM = 32  # channels at full resolution
GROUPS = 8  # of the group norms
BLOCKS = 3
WORDS = (
    "one two three object objects of the same colour shape texture mixed on a dark light ground "
    "left right above below disc square triangle cross ring plain striped barred red yellow "
    "green cyan blue purple"
).split()


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor in the weights file."""
    convolutions = {"stem.0": (STEM, 3), "stem.1": (WIDTH, STEM), "stem.2": (WIDTH, WIDTH)}
    convolutions |= {f"block{i}.{part}": (WIDTH, WIDTH) for i in range(BLOCKS) for part in "ab"}
    table: dict[str, tuple[int, ...]] = {}
    for name, size in convolutions.items():
        table |= {f"{name}.weight": (*size, 3, 3), f"{name}.bias": size[:1]}
    for name in ("stem.norm", "norm", *(f"block{i}.norm{p}" for i in range(BLOCKS) for p in "ab")):
        table |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
    table |= {"out.weight": (WIDTH, WIDTH, 1, 1), "out.bias": (WIDTH,)}
    table |= {"words": (len(WORDS), WIDTH), "phrase.weight": (2 * WIDTH, WIDTH, 3)}
    return table | {"phrase.bias": (2 * WIDTH,), "text.weight": (WIDTH, 2 * WIDTH)}


def image_features(weights: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """Compute one vector per 4x4 patch, row by row, with a residual net with group norm.

    Source: He et al. (arXiv 1603.05027), pre-activation blocks.

    Args:
        weights: The tensors of ``shapes``.
        pixels: [B, 3, 32, 32], 0 to 255.

    Returns:
        Vectors [B, 64, WIDTH].
    """
    from torch.nn import functional

    def conv(name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.silu(functional.group_norm(x, GROUPS, scale, shift))

    # Two strides of 2 bring 32 pixels to the grid of 8.
    x = functional.silu(conv("stem.0", (pixels.float() - 127.5) / 127.5))
    x = conv("stem.2", norm("stem.norm", conv("stem.1", x, 2)), 2)  # [B, WIDTH, 8, 8]
    for block in (f"block{i}" for i in range(BLOCKS)):
        inner = conv(f"{block}.a", norm(f"{block}.norma", x))
        x = x + conv(f"{block}.b", norm(f"{block}.normb", inner))
    return conv("out", norm("norm", x)).flatten(2).transpose(1, 2)


def text_features(weights: dict[str, torch.Tensor], caption: torch.Tensor) -> torch.Tensor:
    """Embed the numbers of a caption's words, [L] -> [WIDTH], by phrases of three words.

    Source: Kim (arXiv 1408.5882), with the mean over phrases instead of the maximum.
    """
    from torch.nn import functional

    words = weights["words"][caption].T  # [WIDTH, L]
    phrases = functional.conv1d(words, weights["phrase.weight"], weights["phrase.bias"], padding=1)
    return functional.linear(phrases.relu().mean(-1), weights["text.weight"])


def numbered(caption: str) -> list[int]:
    """Return the numbers of a caption's words.

    Raises:
        KeyError: A word occurs in no caption of a scene.
    """
    return [_NUMBERS[word] for word in re.findall("[a-z]+", caption.lower())]


def shipped() -> bytes:
    """Return the bytes of the weights file that ships with the package."""
    return resources.files("reed.encoders.toy").joinpath(FILE).read_bytes()


_NUMBERS = {word: i for i, word in enumerate(WORDS)}
