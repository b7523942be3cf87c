"""Small random weights of encoders and of Inception, in the files of the real ones.

Test modules run this file with runpy. Beside them: what AlphaFold 3 writes for a job.
"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from reed.encoders.molecule.unimol_net import Size, shapes
from reed.encoders.protein.af3_files import CHANNELS
from reed.nets.mpnn import MPNN, MPNNConfig

VOCABULARY = [
    "<cls>",
    "<pad>",
    "<eos>",
    "<unk>",
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    "<null_1>",
    "<mask>",
]
FOLD_SIZES = {"single_dim": 32, "pair_dim": 16, "structure_dim": 24}
IF1_DIM = 32
IF1 = {
    "arch": "vt_medium_with_invariant_gvp",
    "encoder_embed_dim": IF1_DIM,
    "decoder_embed_dim": IF1_DIM,
    "encoder_ffn_embed_dim": 48,
    "decoder_ffn_embed_dim": 48,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "gvp_node_hidden_dim_scalar": 24,
    "gvp_node_hidden_dim_vector": 8,
    "gvp_edge_hidden_dim_scalar": 8,
    "gvp_edge_hidden_dim_vector": 1,
    "gvp_num_encoder_layers": 2,
    "gvp_dropout": 0.1,
    "gvp_top_k_neighbors": 10,
}
UNIMOL = Size(layers=2, width=16, inner=24, heads=4, gaussians=6)


def esm2(folder: Path) -> Path:
    """A folder as the hub has it, of the smallest ESM-2: 6 layers, 320 channels, 20 heads."""
    from reed.encoders.protein import esm2_weights

    torch.manual_seed(0)
    esm2_weights._empty(6, 320, 20, 33).save_pretrained(folder)
    return folder


def esmfold(folder: Path) -> Path:
    """A folder as the hub has it; its channels are FOLD_SIZES."""
    from transformers import EsmConfig, EsmForProteinFolding

    module = {
        "sequence_dim": 24,
        "pairwise_dim": 16,
        "ipa_dim": 4,
        "resnet_dim": 8,
        "num_heads_ipa": 2,
        "num_qk_points": 2,
        "num_v_points": 2,
        "num_blocks": 2,
        "num_resnet_blocks": 1,
        "num_angles": 7,
    }
    trunk = {
        "num_blocks": 1,
        "sequence_state_dim": 32,
        "pairwise_state_dim": 16,
        "max_recycles": 2,
        "sequence_head_width": 8,
        "pairwise_head_width": 8,
        "structure_module": module,
    }
    config = EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=1026,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
        is_folding_model=True,
        vocab_list=VOCABULARY,
        esmfold_config={"fp16_esm": False, "lddt_head_hid_dim": 8, "trunk": trunk},
    )
    torch.manual_seed(0)
    model = EsmForProteinFolding(config)
    for parameter in model.parameters():  # none at its default, where whole layers are zero
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


def mpnn_names() -> list[str]:
    """The 118 entries of ProteinMPNN's v_48_* files, by the table in its code."""
    linear = [f"{name}.{part}" for name in ("W1", "W2", "W3") for part in ("weight", "bias")]
    dense = [f"dense.{name}.{part}" for name in ("W_in", "W_out") for part in ("weight", "bias")]
    norms = [f"norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias")]
    more = [f"W1{i}.{part}" for i in (1, 2, 3) for part in ("weight", "bias")]
    encoder = [*linear, *more, *dense, *norms, "norm3.weight", "norm3.bias"]
    names = [f"encoder_layers.{i}.{name}" for i in range(3) for name in encoder]
    names += [f"decoder_layers.{i}.{n}" for i in range(3) for n in (*linear, *dense, *norms)]
    names += [f"features.embeddings.linear.{part}" for part in ("weight", "bias")]
    names += ["features.edge_embedding.weight"]
    names += [f"features.norm_edges.{part}" for part in ("weight", "bias")]
    return [*names, "W_e.weight", "W_e.bias", "W_s.weight", "W_out.weight", "W_out.bias"]


def mpnn_state() -> dict[str, torch.Tensor]:
    """The tensors of a random v_48_020.pt: 21 letters, no edge update."""
    torch.manual_seed(5)
    state = MPNN(MPNNConfig()).state_dict()
    found = {name: torch.randn_like(state[name]) for name in mpnn_names()}
    return {n: v[:21] if n.startswith(("W_s", "W_out")) else v for n, v in found.items()}


def mpnn(path: Path) -> Path:
    """A random v_48_020.pt."""
    torch.save({"num_edges": 48, "noise_level": 0.2, "model_state_dict": mpnn_state()}, path)
    return path


def esm_if1(path: Path) -> Path:
    """The layout of the public file: settings of fairseq beside the tensors."""
    from reed.encoders.protein.esm_if1 import library

    torch.manual_seed(0)
    model_class, _, alphabet = library()
    model = model_class(Namespace(**IF1), alphabet)
    torch.save({"args": Namespace(**IF1), "model": model.state_dict()}, path)
    return path


def unimol_state(size: Size = UNIMOL) -> dict[str, torch.Tensor]:
    """The tensors of a random Uni-Mol."""
    draw = torch.Generator().manual_seed(0)
    return {k: 0.3 * torch.randn(s, generator=draw) for k, s in shapes(size).items()}


def unimol(path: Path) -> Path:
    """The released layout, with heads that are not used."""
    more = {"lm_head.weight": torch.zeros(3), "dist_head.bias": torch.zeros(2)}
    torch.save({"model": unimol_state() | more}, path)
    return path


def af3_arrays(tokens: int, structure: bool = False, dtype=np.float16, seed: int = 0) -> dict:
    """What AlphaFold 3 keeps of a job, or what REED's branch does."""
    rng = np.random.default_rng(seed)
    shapes = {"single": (tokens,), "pair": (tokens, tokens), "structure": (tokens,)}
    names = ("single", "pair", "structure") if structure else ("single", "pair")
    return {
        f"{n}_embeddings": rng.normal(size=(*shapes[n], CHANNELS[n])).astype(dtype) for n in names
    }


def af3(
    folder: Path, job: str, sequences, content: dict, *, layout: str = "new", seed: int = 1
) -> Path:
    """One job's output. sequences: the input's list of entities, or the one sequence."""
    if isinstance(sequences, str):
        sequences = [{"protein": {"id": "A", "sequence": sequences}}]
    place = folder / job / f"seed-{seed}_embeddings"
    place.mkdir(parents=True)
    table = {"name": job, "sequences": sequences, "modelSeeds": [seed], "version": 2}
    (folder / job / f"{job}_data.json").write_text(json.dumps(table))
    name = {"new": f"{job}_seed-{seed}_embeddings.npz", "old": "embeddings.npz"}[layout]
    np.savez_compressed(place / name, **content)
    return folder / job


def inception(path: Path) -> Path:
    """Random weights under the keys and in the file of torch-fidelity's Inception."""
    import torch_fidelity

    class Bare(torch_fidelity.FeatureExtractorInceptionV3):
        """The network as it is before its weights are loaded."""

        def load_state_dict(self, state: dict) -> None:
            pass

    torch.save({}, path)  # what it reads first
    torch.manual_seed(0)
    state = Bare("inception-v3-compat", ["2048"], str(path)).state_dict()
    for name, value in state.items():
        if name.endswith("running_var"):
            value.uniform_(0.1, 0.25)  # so that activations neither fade nor grow
    torch.save(state, path)
    return path
