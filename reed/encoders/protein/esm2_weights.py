"""Conversion of fair-esm's .pt files of ESM-2 to transformers: same tensors, other names.

Source: fair-esm 2.0.0, esm/model/esm2.py; transformers, models/esm/modeling_esm.py.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reed.encoders import pretrained as pre
from reed.errors import ReedError
from reed.state_dict import fill
from reed.weights import Found, read, weights_sha256

if TYPE_CHECKING:
    import torch

RENAMED = (
    (r"^(encoder\.sentence_encoder\.|encoder\.)", ""),
    (r"^embed_tokens\.", "embeddings.word_embeddings."),
    (r"^emb_layer_norm_after\.", "encoder.emb_layer_norm_after."),
    (r"^layers\.", "encoder.layer."),
    (r"\.self_attn\.([qkv])_proj\.", lambda match: f".attention.self.{NAMES[match[1]]}."),
    (r"\.self_attn\.out_proj\.", ".attention.output.dense."),
    (r"\.self_attn_layer_norm\.", ".attention.LayerNorm."),
    (r"\.fc1\.", ".intermediate.dense."),
    (r"\.fc2\.", ".output.dense."),
    (r"\.final_layer_norm\.", ".LayerNorm."),
)
NAMES = {"q": "query", "k": "key", "v": "value"}
UNUSED = re.compile(r"^lm_head\.|inv_freq$|^contact_head\.")  # filled in separately, or not needed
HEADS = {2560: 40, 5120: 40}  # by width, if the file does not tell; the smaller models have 20


def renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of transformers' EsmModel, under its names."""
    tensors = {}
    for key, value in state.items():
        for pattern, name in RENAMED:
            key = re.sub(pattern, name, key)
        if not UNUSED.search(key):
            tensors[key] = value
    return tensors


def open_fair(found: Found, *, contacts: bool) -> Any:
    """Open a .pt file as a frozen EsmModel, in float32 on the CPU.

    Args:
        found: The .pt file.
        contacts: Whether to fill the contact head, from NAME-contact-regression.pt beside the file.

    Raises:
        ReedError: A file is not an ESM-2, or lacks tensors.
    """
    path = found.files[0]
    table = read(path, allow=(Namespace,))
    raw = table.get("model", table)
    state = renamed(raw) if isinstance(raw, Mapping) else {}
    layers = {int(key.split(".")[2]) for key in state if key.startswith("encoder.layer.")}
    embedding = state.get("embeddings.word_embeddings.weight")
    if not layers or embedding is None:
        raise ReedError(f"{path} is not an ESM-2: it has no layers, or no embedding of tokens")

    # The file states neither the number of layers nor of heads: both follow from its tensors.
    vocabulary, dim = embedding.shape
    inverse = [value for key, value in raw.items() if key.endswith("inv_freq")]
    heads = dim // (2 * inverse[0].numel()) if inverse else HEADS.get(dim, 20)
    model = _empty(len(layers), dim, heads, vocabulary)

    # Buffers and the contact head, which the file lacks, keep their initial values.
    own = model.state_dict()
    state |= {key: value for key, value in own.items() if UNUSED.search(key)}
    if contacts:
        beside = read(_contact_file(found), allow=(Namespace,))
        state |= {k: v for k, v in beside.get("model", beside).items()}
    fill(model, {key: value.float() for key, value in state.items()}, str(path))
    return model.requires_grad_(False).eval()


def contact_sha256(found: Found) -> str:
    """Return the hash of the contact head's weights.

    Raises:
        ReedError: The file with the contact head is missing.
    """
    return weights_sha256(_contact_file(found))


def _contact_file(found: Found) -> Path:
    path = found.files[0]
    beside = path.with_name(f"{path.stem}-contact-regression.pt")
    if not beside.is_file():
        raise ReedError(f"contacts need {beside}, which does not exist; put it beside {path.name}")
    return beside


def _empty(layers: int, dim: int, heads: int, vocabulary: int) -> torch.nn.Module:
    """Return an EsmModel of a given size, with random weights."""
    pre.version("transformers", "proteins")
    from transformers import EsmConfig, EsmModel

    # Apart from the sizes, every ESM-2 has these settings.
    config = EsmConfig(
        vocab_size=vocabulary,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * dim,
        max_position_embeddings=1026,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
    )
    return EsmModel(config, add_pooling_layer=False)
