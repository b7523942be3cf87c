"""Families of text encoders in transformers: equal to transformers' own, or refused in one line."""

from __future__ import annotations

import re
import runpy
import shutil
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForTextEncoding, AutoTokenizer
from transformers.models.auto import modeling_auto

from reed import config
from reed.encoders import ENCODERS
from reed.encoders.text.text_models import UNPADDED, TextModel
from reed.errors import ReedError

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_language.py"))))
PAGE = Path(__file__).parents[1] / "docs" / "encoders.md"
CAPTIONS = ("a dog", "A red car.", "the mat on the house and the cat on a dog in front of")

# What makes a model small, under the names that the families use.
SMALL = {
    ("hidden_size", "emb_dim", "dim", "d_model", "embedding_size"): 32,
    ("intermediate_size", "hidden_dim", "d_ff", "ffn_dim", "encoder_ffn_dim"): 64,
    ("num_hidden_layers", "n_layers", "num_layers", "encoder_layers", "decoder_layers"): 2,
    ("decoder_ffn_dim",): 64,
    ("num_attention_heads", "n_heads", "num_heads", "num_key_value_heads"): 4,
    ("encoder_attention_heads", "decoder_attention_heads"): 4,
    ("head_dim", "d_kv"): 8,
    ("max_position_embeddings",): 64,
    ("max_2d_position_embeddings",): 16,
    ("pad_token_id", "decoder_start_token_id"): 0,
    ("bos_token_id", "cls_token_id"): 2,
    ("eos_token_id", "sep_token_id"): 3,
    ("mask_token_id",): 4,
}
# Settings of families that need others. An empty value leaves a setting as it is.
LATENT = {"head_dim": None, "q_lora_rank": 16, "kv_lora_rank": 16, "v_head_dim": 8}
LATENT |= {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "n_group": 1, "topk_group": 1}
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "codegen": {"rotary_dim": 4},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "falcon": {"head_dim": None},
    "funnel": {
        "architectures": ["FunnelModel"],  # the family has two, with and without its decoder
        "block_sizes": [1, 1],
        "num_hidden_layers": None,
        "d_head": 8,
        "d_inner": 64,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "neomme": {
        "hidden_act": "relu2",
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
    "perceiver": {"num_latents": 4, "d_latents": 32, "num_self_attends_per_block": 1},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"], "hash_seed": 0},
    "roc_bert": {"pronunciation_vocab_size": 10, "shape_vocab_size": 10},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}
# Their configuration describes a model of images and text, which other encoders read.
MULTIMODAL = {"emu3", "llama4", "mllama", "modernvbert", "ultravbert"}
WIDTH = {"reformer": 64}  # its two streams side by side; 32 elsewhere
LARGEST = 60_000_000  # parameters of a family that the settings above do not make small enough
FEW_DECODERS = ("cpmant", "jamba", "llama")  # no mask is read; fails with a cache; usual
FEW = ("bert", "convbert", "distilbert", "fnet", "modernbert", "mt5", "roberta", "t5", "umt5")


def families() -> list[str]:
    """Families that transformers calls text encoders, or trains by masking text."""
    auto = modeling_auto
    names = {*auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES, *auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES}
    return sorted(names & set(CONFIG_MAPPING) - MULTIMODAL)


def decoders() -> list[str]:
    """Families that transformers trains to continue text, and that are not among `families`."""
    auto = modeling_auto
    names = {*auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES} & {*auto.MODEL_MAPPING_NAMES}
    return sorted(names & set(CONFIG_MAPPING) - MULTIMODAL - set(families()))


@cache
def tokenizer(folder: Path) -> Any:
    """A small tokenizer that writes no token types, which many families do not take."""
    made = AutoTokenizer.from_pretrained(TINY.sentence(folder))
    made.model_input_names = ["input_ids", "attention_mask"]
    return made


def settings_of(family: str, vocabulary: int) -> dict[str, Any]:
    """The settings of a small model, among those that a family has."""
    small = {name: value for names, value in SMALL.items() for name in names}
    small |= {"vocab_size": vocabulary} | OWN.get(family, {})
    known = CONFIG_MAPPING[family]()
    return {n: v for n, v in small.items() if v is not None and hasattr(known, n)}


def small_config(family: str, vocabulary: int) -> Any:
    """The configuration of a small model of a family."""
    if family == "t5gemma":  # two halves, each with settings of its own
        part = {name: value for names, value in SMALL.items() for name in names}
        part["vocab_size"] = vocabulary
        return CONFIG_MAPPING[family](encoder=part, decoder=part, vocab_size=vocabulary)
    return CONFIG_MAPPING[family](**settings_of(family, vocabulary))


def written(family: str, folder: Path, most: int = 2_000_000) -> Path:
    """A random model of a family in a folder as the hub has it."""
    tokens = tokenizer(folder.parent / "tokenizer")
    torch.manual_seed(0)
    model = AutoModel.from_config(small_config(family, len(tokens)))
    assert sum(p.numel() for p in model.parameters()) <= most
    for parameter in model.parameters():  # also those that start at zero
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    tokens.save_pretrained(folder)
    return TINY.save(model, folder)


def encoder_for(family: str, folder: Path) -> TextModel:
    """The encoder that the documentation names for a family, loaded."""
    name = "t5" if "t5" in family else "sentence"
    card, dim = ENCODERS.get(name).keywords["card"], WIDTH.get(family, 32)
    settings = {"weights": str(folder), "dim": dim, "card": card}
    encoder = config.build(TextModel, settings, name)
    encoder.load("cpu")
    return encoder


def direct(family: str, folder: Path) -> np.ndarray:
    """The vectors of the captions from transformers itself, one caption at a time."""
    kind = AutoModelForTextEncoding if "t5" in family else AutoModel
    model, tokens = kind.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    model.config.use_cache = False  # with it, a looped decoder (dory) attends to keys twice
    with torch.no_grad():
        outputs = [model(**tokens(caption, return_tensors="pt")) for caption in CAPTIONS]
    return np.stack([output.last_hidden_state.mean(1)[0].numpy() for output in outputs])


def outcome(family: str, folder: Path, most: int = 2_000_000) -> str:
    """Compare a family with transformers; returns the line that refuses it, or nothing."""
    written(family, folder, most)
    try:
        encoder = encoder_for(family, folder)
    except ReedError as error:
        assert "\n" not in str(error)
        return str(error)
    have = encoder.encode([{"captions/text": caption} for caption in CAPTIONS])["embedding"]
    want = direct(family, folder)
    np.testing.assert_allclose(have, want, rtol=0, atol=1e-5, err_msg=family)
    assert want.std(0).max() > 1e-3, f"the captions of {family} are all alike"
    return ""


def is_small(family: str) -> bool:
    """Whether the settings make a model of a family, and a small one."""
    try:
        with torch.device("meta"):
            model = AutoModel.from_config(small_config(family, 60))
    except Exception:  # each family has its own checks of its settings
        return False
    return sum(p.numel() for p in model.parameters()) <= LARGEST


def decoder_outcome(family: str, folder: Path) -> str | None:
    """As `outcome`; None for a small model that transformers cannot run either."""
    line, problem = "", None
    try:
        line = outcome(family, folder, most=LARGEST)
    except Exception as error:
        problem = error
    if problem or "cannot encode text alone" in line:
        try:
            direct(family, folder)
        except Exception:
            return None
    if problem:
        raise problem
    return line


@pytest.mark.parametrize("family", FEW)
def test_a_family_of_text_encoders_is_that_of_transformers(family, tmp_path):
    """Captions of several lengths in one batch must equal each caption alone."""
    assert outcome(family, tmp_path / family) == ""


@pytest.mark.parametrize("family", [name for name in FEW_DECODERS if name in decoders()])
def test_a_family_of_decoders_is_that_of_transformers(family, tmp_path):
    assert decoder_outcome(family, tmp_path / family) == ""


@pytest.mark.parametrize(
    ("family", "text"),
    [("bart", "holds a BartModel, which has a decoder"), ("tapas", "cannot encode text alone")],
)
def test_a_model_that_does_not_encode_text_alone_is_refused(family, text, tmp_path):
    found = outcome(family, tmp_path / family)
    if family == "tapas" and not found:
        pytest.skip("tapas gives transformers' own vectors with this version of transformers")
    assert text in found


def test_families_with_corrected_vectors_have_another_revision(tmp_path):
    folder = written("fnet", tmp_path / "fnet")
    card = ENCODERS.get("sentence").keywords["card"]
    revisions = {}
    for family in ("fnet", "bert"):
        text = (folder / "config.json").read_text()
        text = re.sub('"model_type": "[^"]*"', f'"model_type": "{family}"', text)
        (folder / "config.json").write_text(text)
        revisions[family] = TextModel(card, weights=str(folder)).revision()
    assert revisions["fnet"].endswith(", corrected") and "corrected" not in revisions["bert"]


@pytest.mark.slow
def test_every_family_of_text_encoders_is_that_of_transformers_or_refused(tmp_path):
    refused, wrong = {}, {}
    for family in families():
        try:
            line = outcome(family, tmp_path / family)
        except Exception as error:  # so that one family does not hide the rest
            wrong[family] = f"{type(error).__name__}: {error}"[:300]
        else:
            refused |= {family: line} if line else {}
    assert not wrong
    assert UNPADDED - {"cpmant"} <= set(families()) - set(refused)

    said = re.search(
        r"(\d+) of the (\d+) families of text\s+encoders in transformers (\S+)", PAGE.read_text()
    )
    if said[3].rstrip(",:;.") == transformers.__version__:
        assert (int(said[1]), int(said[2])) == (len(families()) - len(refused), len(families()))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_small_family_of_decoders_is_that_of_transformers_or_refused(tmp_path):
    equal, refused, wrong = [], {}, {}
    for family in filter(is_small, decoders()):
        folder = tmp_path / family
        try:
            line = decoder_outcome(family, folder)
        except Exception as error:  # so that one family does not hide the rest
            wrong[family] = f"{type(error).__name__}: {error}"[:300]
        else:
            if line == "":
                equal.append(family)
            elif line:
                refused[family] = line
        shutil.rmtree(folder, ignore_errors=True)  # some take 200 MB
    assert not wrong

    text = r"(\d+) of the (\d+) families\s+of\s+decoders.*?(\d+)\s+are\s+refused"
    said = re.search(text, PAGE.read_text(), re.DOTALL)
    version = re.search(r"text\s+encoders in transformers (\S+)", PAGE.read_text())[1]
    if version.rstrip(",:;.") == transformers.__version__:
        counts = (len(equal), len(decoders()), len(refused))
        assert tuple(map(int, said.groups())) == counts, sorted(refused)
