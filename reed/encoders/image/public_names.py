"""Vision models in the files of transformers and of their authors, under timm's names.

Source: the files of facebook/dinov3-vit*-pretrain-* and google/siglip2-* on the Hugging Face hub,
and the .pth files of github.com/facebookresearch/dinov3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Rules = Sequence[tuple[str, str]]

DINOV3: Rules = (
    (r"^model\.(layer\.)", r"\1"),
    (r"^embeddings\.(cls_token)$", r"\1"),
    (r"^(embeddings\.register_tokens|storage_tokens)$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^layer\.", "blocks."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.(?:layer_scale|ls)([12])\.(?:lambda1|gamma)$", r".gamma_\1"),
    (r"\.mlp\.(?:gate_proj|w1)\.", ".mlp.fc1_g."),
    (r"\.mlp\.(?:down_proj|w3)\.", ".mlp.fc2."),
    (r"\.mlp\.(?:up_proj|w2)\.", ".mlp.fc1_x."),
)
# What serves the training alone, and what timm computes anew.
DINOV3_UNUSED = re.compile(r"mask_token$|\.bias_mask$|^rope_embed\.|^local_cls_norm\.")

SIGLIP: Rules = (
    (r"^vision_model\.", ""),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"^post_layernorm\.", "norm."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.attention\.in_proj_", "attn_pool.in_proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
)
SIGLIP_UNUSED = re.compile(r"^text_model\.|^logit_(scale|bias)$|position_ids$")


def from_dinov3(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a DINOv3 of transformers or of its authors under timm's names; others as they are.

    timm's models have no bias of queries and values, which is zero in the public files. One that is
    not zero keeps a name of its own, so that the file is refused.
    """
    if not state.keys() & {"embeddings.register_tokens", "storage_tokens"}:
        return dict(state)
    found = {k: v for k, v in _renamed(state, DINOV3).items() if not DINOV3_UNUSED.search(k)}

    # Without a gate, the first layer of the feed-forward part has a name without a letter.
    is_gated = any(".mlp.fc1_g." in key for key in found)
    if not is_gated:
        found = {key.replace(".mlp.fc1_x.", ".mlp.fc1."): value for key, value in found.items()}

    for key in [key for key in found if re.search(r"\.attn\.(q|v|qkv)\.bias$", key)]:
        if not found[key].any():
            del found[key]
    return _joined(found)


def from_siglip(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the vision model of transformers' SigLIP under timm's names; others as they are."""
    probes = {f"{prefix}embeddings.position_embedding.weight" for prefix in ("", "vision_model.")}
    if not state.keys() & probes:
        return dict(state)
    kept = {key: value for key, value in state.items() if not SIGLIP_UNUSED.search(key)}
    found = _joined(_renamed(kept, SIGLIP))

    # timm's positions have a batch axis, and its pooling has a matrix for the query alone.
    found["pos_embed"] = found["pos_embed"][None]
    for kind in ("weight", "bias"):
        if (joint := found.pop(f"attn_pool.in_proj.{kind}", None)) is not None:
            width = len(joint) // 3
            found[f"attn_pool.q.{kind}"] = joint[:width]
            found[f"attn_pool.kv.{kind}"] = joint[width:]
    return found


CONVERTERS = {"dinov3": from_dinov3, "siglip": from_siglip}


def _renamed(state: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """Return a state dict whose names went through the rules one after another."""
    renamed = {}
    for key, value in state.items():
        for pattern, name in rules:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    return renamed


def _joined(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict with one matrix for queries, keys and values where there are three."""
    import torch

    joined = dict(state)
    for key in state:
        if not (match := re.fullmatch(r"(.*\.attn\.)q\.(weight|bias)", key)):
            continue
        parts = [f"{match[1]}{letter}.{match[2]}" for letter in "qkv"]
        if all(part in joined for part in parts):
            joined[f"{match[1]}qkv.{match[2]}"] = torch.cat([joined.pop(part) for part in parts])
    return joined
