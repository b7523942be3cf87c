"""The encoder of Uni-Mol v1, as functions of a dictionary of weights with the released names.

It is written as functions, not as a torch.nn.Module: the registry imports this module to list the
encoders, and that must not import torch. The special tokens are in the order of the released
dictionary; the package unimol_tools 0.1.5 and 0.1.6 reads the weights with another order.

Source: Zhou et al., Uni-Mol (ICLR 2023), and the released ``mol_pre_*_220816.pt``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

TOKENS = tuple(
    "[PAD] [CLS] [SEP] [UNK] C N O S H Cl F Br I Si P B Na K Al Ca Sn As Hg Fe Zn Cr Se Gd Au Li "
    "[MASK]".split()
)
PAD, CLS, SEP, UNKNOWN = range(4)
PI = 3.14159  # the value in the released code


@dataclass(frozen=True)
class Size:
    """The sizes of the net; the defaults are those of the released weights.

    Attributes:
        layers: Transformer layers.
        width: Channels of a token.
        inner: Hidden channels of the feed-forward layers.
        heads: Attention heads.
        gaussians: Gaussians that describe a distance.
    """

    layers: int = 15
    width: int = 512
    inner: int = 2048
    heads: int = 64
    gaussians: int = 128

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Size:
        """Return the sizes that the shapes of some weights imply."""
        prefix = "encoder.layers."
        layers = {key.split(".")[2] for key in state if key.startswith(prefix)}
        inner, width = state[f"{prefix}0.fc1.weight"].shape
        heads, gaussians = state["gbf_proj.linear2.weight"].shape
        return cls(len(layers), width, inner, heads, gaussians)


def shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor in use; the released files hold further heads."""
    width, count = size.width, len(TOKENS)
    table: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (count, width)}

    def linear(name: str, out: int, into: int) -> None:
        table[f"{name}.weight"], table[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str) -> None:
        table[f"{name}.weight"] = table[f"{name}.bias"] = (width,)

    # The transformer over the tokens.
    norm("encoder.emb_layer_norm")
    norm("encoder.final_layer_norm")
    for number in range(size.layers):
        name = f"encoder.layers.{number}"
        linear(f"{name}.self_attn.in_proj", 3 * width, width)
        linear(f"{name}.self_attn.out_proj", width, width)
        linear(f"{name}.fc1", size.inner, width)
        linear(f"{name}.fc2", width, size.inner)
        norm(f"{name}.self_attn_layer_norm")
        norm(f"{name}.final_layer_norm")

    # The bias of the attention, computed from Gaussians of the distances.
    linear("gbf_proj.linear1", size.gaussians, size.gaussians)
    linear("gbf_proj.linear2", size.heads, size.gaussians)
    for name in ("means", "stds"):
        table[f"gbf.{name}.weight"] = (1, size.gaussians)
    for name in ("mul", "bias"):
        table[f"gbf.{name}.weight"] = (count**2, 1)
    return table


def collate(
    molecules: Sequence[tuple[Sequence[str], np.ndarray]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad molecules to tokens [B, N + 2] and centred coordinates [B, N + 2, 3].

    The special tokens before and after the atoms lie in the centre. An element that Uni-Mol does
    not know becomes [UNK].

    Args:
        molecules: Element symbols and coordinates in angstroms of each molecule.
    """
    import torch

    longest = 2 + max(len(symbols) for symbols, _ in molecules)
    tokens = np.full((len(molecules), longest), PAD, np.int64)
    positions = np.zeros((len(molecules), longest, 3), np.float32)
    known = {symbol: number for number, symbol in enumerate(TOKENS)}

    # The mean is in float64, so that a molecule far from the origin loses no digits.
    for index, (symbols, coords) in enumerate(molecules):
        size = len(symbols)
        tokens[index, : size + 2] = [CLS, *(known.get(s, UNKNOWN) for s in symbols), SEP]
        positions[index, 1 : size + 1] = coords - coords.mean(0, dtype=np.float64)
    return torch.from_numpy(tokens), torch.from_numpy(positions)


def forward(
    weights: Mapping[str, torch.Tensor], tokens: torch.Tensor, coords: torch.Tensor
) -> torch.Tensor:
    """Compute the states of all tokens after the final norm, [B, T, width].

    The attention scores of a layer are the bias of the next one; those of padding are minus
    infinity.

    Args:
        weights: Tensors by their released names.
        tokens: Token numbers [B, T].
        coords: Coordinates [B, T, 3] in angstroms.
    """
    import torch
    import torch.nn.functional as F

    size = Size.of(weights)

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        parts = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return F.layer_norm(x, (size.width,), *parts)

    # The pairs of atoms bias the attention of the first layer.
    padding = tokens == PAD
    pairs = linear("gbf_proj.linear1", _distances(weights, tokens, coords))
    bias = linear("gbf_proj.linear2", F.gelu(pairs)).permute(0, 3, 1, 2)  # [B, heads, T, T]
    bias = bias.masked_fill(padding[:, None, None], -torch.inf)

    x = norm("encoder.emb_layer_norm", weights["embed_tokens.weight"][tokens])
    x = x * ~padding.unsqueeze(-1)
    for number in range(size.layers):
        # Pre-norm attention, whose scores are kept for the next layer, then the feed-forward part.
        name = f"encoder.layers.{number}"
        y = linear(f"{name}.self_attn.in_proj", norm(f"{name}.self_attn_layer_norm", x))
        q, k, v = y.unflatten(-1, (3, size.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = bias + (q * q.shape[-1] ** -0.5) @ k.mT
        mixed = (bias.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(f"{name}.self_attn.out_proj", mixed)
        y = F.gelu(linear(f"{name}.fc1", norm(f"{name}.final_layer_norm", x)))
        x = x + linear(f"{name}.fc2", y)
    return norm("encoder.final_layer_norm", x)


def _distances(
    weights: Mapping[str, torch.Tensor], tokens: torch.Tensor, coords: torch.Tensor
) -> torch.Tensor:
    """Return Gaussians of the distance of every pair, scaled and shifted by its two tokens."""
    import torch

    distances = torch.cdist(coords, coords, compute_mode="donot_use_mm_for_euclid_dist")
    pairs = tokens.unsqueeze(2) * len(TOKENS) + tokens.unsqueeze(1)
    x = weights["gbf.mul.weight"][pairs] * distances.unsqueeze(-1)
    x = x + weights["gbf.bias.weight"][pairs]
    std = weights["gbf.stds.weight"][0].abs() + 1e-5
    scaled = (x - weights["gbf.means.weight"][0]) / std
    return torch.exp(-0.5 * scaled.square()) / (math.sqrt(2 * PI) * std)
