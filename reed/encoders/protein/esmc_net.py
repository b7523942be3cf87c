"""The network of ESM-C, under the names of the public files, and the content of such files.

Source: the package esm (EvolutionaryScale), esm/models/esmc.py and esm/layers; transformers,
models/esmc, which keeps the same tensors under other names. Queries, keys and values are one matrix
here and three there. It is written as functions, because the registry imports this module to list
the encoders, and that must not import torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reed.errors import ReedError
from reed.state_dict import compare

if TYPE_CHECKING:
    import torch

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


def shapes(width: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that the network reads."""
    # The inner width is 8/3 of the outer one, rounded up to a multiple of 256.
    inner = int(8 / 3 * width + 255) // 256 * 256
    block = {
        "attn.layernorm_qkv.0.weight": (width,),
        "attn.layernorm_qkv.0.bias": (width,),
        "attn.layernorm_qkv.1.weight": (3 * width, width),
        "attn.q_ln.weight": (width,),
        "attn.k_ln.weight": (width,),
        "attn.out_proj.weight": (width, width),
        "ffn.0.weight": (width,),
        "ffn.0.bias": (width,),
        "ffn.1.weight": (2 * inner, width),
        "ffn.3.weight": (width, inner),
    }

    names = {
        f"transformer.blocks.{i}.{name}": shape
        for i in range(layers)
        for name, shape in block.items()
    }
    return {"embed.weight": (VOCABULARY, width), **names, "transformer.norm.weight": (width,)}


def forward(
    state: Mapping[str, torch.Tensor], ids: torch.Tensor, real: torch.Tensor, layer: int
) -> torch.Tensor:
    """Return the states [B, T, width] after a layer; the last one is followed by the norm.

    Args:
        state: The tensors of `shapes`.
        ids: Tokens [B, T].
        real: bool [B, T], False for padding, which follows the tokens.
        layer: Number of the layer, counted from 1.
    """
    layers = sum(name.endswith(".ffn.3.weight") for name in state)
    scale = math.sqrt(layers / 36)  # keeps the sum of many layers near one
    x, turn = state["embed.weight"][ids], angles(ids.shape[1], ids.device)

    for i in range(layer):
        start = f"transformer.blocks.{i}."
        block = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
        x = x + _attention(block, x, real[:, None, None], turn) / scale
        x = x + _gated(block, x) / scale
    return _norm(x, state["transformer.norm.weight"]) if layer == layers else x


def _attention(
    block: Mapping[str, torch.Tensor], x: torch.Tensor, mask: torch.Tensor, turn: torch.Tensor
) -> torch.Tensor:
    """Return the update [B, T, width] by attention with normalised queries and keys."""
    from torch.nn.functional import linear, scaled_dot_product_attention

    normed = _norm(x, block["attn.layernorm_qkv.0.weight"], block["attn.layernorm_qkv.0.bias"])
    query, key, value = linear(normed, block["attn.layernorm_qkv.1.weight"]).chunk(3, -1)

    def split(part: torch.Tensor) -> torch.Tensor:
        return part.unflatten(-1, (-1, CHANNELS)).transpose(1, 2)  # [B, H, T, 64]

    # Norm and rotation are in float32 under autocast; the product is in that of the values.
    query = rotated(split(_norm(query, block["attn.q_ln.weight"])), turn).to(value.dtype)
    key = rotated(split(_norm(key, block["attn.k_ln.weight"])), turn).to(value.dtype)
    found = scaled_dot_product_attention(query, key, split(value), mask)
    return linear(found.transpose(1, 2).flatten(2), block["attn.out_proj.weight"])


def _gated(block: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return the update [B, T, width] by the feed-forward layer, a SwiGLU."""
    from torch.nn.functional import linear, silu

    normed = _norm(x, block["ffn.0.weight"], block["ffn.0.bias"])
    gate, up = linear(normed, block["ffn.1.weight"]).chunk(2, -1)
    return linear(silu(gate) * up, block["ffn.3.weight"])


def _norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    from torch.nn.functional import layer_norm

    return layer_norm(x, weight.shape, weight, bias)


def angles(length: int, device: torch.device) -> torch.Tensor:
    """Return the angles of the rotary positions in float32, [T, 32]."""
    import torch

    powers = torch.arange(0, CHANNELS, 2, dtype=torch.float32, device=device) / CHANNELS
    places = torch.arange(length, dtype=torch.float32, device=device)
    return torch.outer(places, 1.0 / 10000.0**powers)


def rotated(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Rotate channel i with channel i + 32 of x [B, H, T, 64] by ``turn``, in float32."""
    import torch

    left, right = x.float().chunk(2, -1)
    cos, sin = turn.cos(), turn.sin()
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


def checked(
    path: Path, content: Mapping[str, Any], width: int, layers: int
) -> dict[str, torch.Tensor]:
    """Return the tensors of `shapes` from a file, in float32.

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
        problem = f"{path} has {have} layers and channels, this encoder has {want}"
        raise ReedError(f"{problem}; name the encoder of its size")

    compare(str(path), shapes(width, layers), state)
    return {key: value.float() for key, value in state.items()}


def of_esm(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors under the names of the package esm, whichever names they had."""
    import torch

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
