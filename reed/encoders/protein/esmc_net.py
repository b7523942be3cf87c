"""The network of ESM-C, under the names of the public files, and the content of such files.

Source: the package esm (EvolutionaryScale), esm/models/esmc.py and esm/layers; transformers,
models/esmc, which keeps the same tensors under other names. Queries, keys and values are one matrix
here and three there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from reed.errors import ReedError
from reed.state_dict import fill

VOCABULARY = 64  # rows of the embedding, of which 33 are used
CHANNELS = 64  # of an attention head, in every size
UNUSED = re.compile(r"^(sequence_head|lm_head)\.|inv_freq$")  # the language head; computed anew

# Names of transformers -> names of the package esm, below a layer.
RENAMED = {
    "input_layernorm": "attn.layernorm_qkv.0",
    "self_attn.o_proj": "attn.out_proj",
    "self_attn.q_norm": "attn.q_ln",
    "self_attn.k_norm": "attn.k_ln",
    "post_attention_layernorm": "ffn.0",
    "mlp.down_proj": "ffn.3",
}
# Names of which transformers keeps the parts as matrices of their own, in order.
FUSED = {
    "attn.layernorm_qkv.1": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "ffn.1": ("mlp.gate_proj", "mlp.up_proj"),
}


class Attention(nn.Module):
    """Attention with normalised queries and keys, and rotary positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // CHANNELS
        self.layernorm_qkv = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 3 * width, bias=False)
        )
        self.out_proj = nn.Linear(width, width, bias=False)
        self.q_ln = nn.LayerNorm(width, bias=False)
        self.k_ln = nn.LayerNorm(width, bias=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        """Return the update of the states [B, T, width]."""
        query, key, value = self.layernorm_qkv(x).chunk(3, -1)

        def split(part: torch.Tensor) -> torch.Tensor:
            return part.unflatten(-1, (self.heads, CHANNELS)).transpose(1, 2)  # [B, H, T, 64]

        # Norm and rotation are in float32 under autocast; the product is in that of the values.
        query = rotated(split(self.q_ln(query)), turn).to(value.dtype)
        key = rotated(split(self.k_ln(key)), turn).to(value.dtype)
        found = functional.scaled_dot_product_attention(query, key, split(value), mask)
        return self.out_proj(found.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """SwiGLU: the SiLU of the first half of the channels times the second half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Halve the channels of x [..., 2C]."""
        gate, up = x.chunk(2, -1)
        return functional.silu(gate) * up


class Block(nn.Module):
    """Attention and a gated feed-forward layer, both scaled by the depth of the net."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.scale = math.sqrt(layers / 36)
        inner = int(8 / 3 * width + 255) // 256 * 256
        self.attn = Attention(width)
        self.ffn = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * inner, bias=False),
            Gated(),
            nn.Linear(inner, width, bias=False),
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        """Return the states [B, T, width] after this layer."""
        x = x + self.attn(x, mask, turn) / self.scale
        return x + self.ffn(x) / self.scale


class EsmCNet(nn.Module):
    """The encoder of ESM-C, without its language head."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.transformer = nn.Module()
        self.transformer.blocks = nn.ModuleList(Block(width, layers) for _ in range(layers))
        self.transformer.norm = nn.LayerNorm(width, bias=False)

    def forward(self, ids: torch.Tensor, real: torch.Tensor, layer: int) -> torch.Tensor:
        """Return the states [B, T, width] after a layer; the last one is followed by the norm.

        Args:
            ids: Tokens [B, T].
            real: bool [B, T], False for padding, which follows the tokens.
            layer: Number of the layer, counted from 1.
        """
        blocks = list(self.transformer.blocks)
        x, turn = self.embed(ids), angles(ids.shape[1], ids.device)
        for block in blocks[:layer]:
            x = block(x, real[:, None, None], turn)
        return self.transformer.norm(x) if layer == len(blocks) else x


def angles(length: int, device: torch.device) -> torch.Tensor:
    """Return the angles of the rotary positions in float32, [T, 32]."""
    powers = torch.arange(0, CHANNELS, 2, dtype=torch.float32, device=device) / CHANNELS
    places = torch.arange(length, dtype=torch.float32, device=device)
    return torch.outer(places, 1.0 / 10000.0**powers)


def rotated(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Rotate channel i with channel i + 32 of x [B, H, T, 64] by ``turn``, in float32."""
    left, right = x.float().chunk(2, -1)
    cos, sin = turn.cos(), turn.sin()
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


def open_net(path: Path, content: Mapping[str, Any], width: int, layers: int) -> EsmCNet:
    """Return the frozen network with the weights of a file, in float32 on the CPU.

    Args:
        path: The file, for messages.
        content: The content of a .pth file of the package esm, or of transformers' safetensors.
        width: Channels of a token.
        layers: Number of layers.

    Raises:
        ReedError: The file is no ESM-C of this size.
    """
    state = {key: value for key, value in of_esm(content).items() if not UNUSED.search(key)}
    numbers = {key.split(".")[2] for key in state if key.startswith("transformer.blocks.")}
    embedding = state.get("embed.weight")
    if embedding is None or not numbers:
        raise ReedError(f"{path} is not an ESM-C: it has no layers, or no embedding of tokens")
    have, want = (len(numbers), embedding.shape[1]), (layers, width)
    if have != want:
        raise ReedError(f"{path} has {have} layers and channels, this encoder has {want}")

    net = EsmCNet(width, layers)
    fill(net, {key: value.float() for key, value in state.items()}, str(path))
    return net.requires_grad_(False).eval()


def of_esm(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors under the names of the package esm, whichever names they had."""
    state = {key.removeprefix("esmc."): value for key, value in content.items()}
    if "embed_tokens.weight" not in state:
        return state

    # Names that are left over keep the name they had, so that a message tells it.
    renamed = {
        "embed.weight": state.pop("embed_tokens.weight"),
        "transformer.norm.weight": state.pop("norm.weight", None),
    }

    for number in sorted({key.split(".")[1] for key in state if key.startswith("layers.")}):
        here, there = f"layers.{number}.", f"transformer.blocks.{number}."
        for name, parts in FUSED.items():
            keys = [f"{here}{part}.weight" for part in parts]
            if all(key in state for key in keys):
                renamed[f"{there}{name}.weight"] = torch.cat([state.pop(key) for key in keys])
        for key in [key for key in state if key.startswith(here)]:
            name, _, kind = key.removeprefix(here).rpartition(".")
            renamed[f"{there}{RENAMED.get(name, name)}.{kind}"] = state.pop(key)
    return {key: value for key, value in (renamed | state).items() if value is not None}
