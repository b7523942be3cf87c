"""Casting an encoder to bf16 casts its weights alone: buffers keep every bit, in every encoder."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from reed import config, stage_one
from reed import weights as files
from reed.encoders import ENCODERS
from reed.encoders.image import timm_models, vision
from reed.encoders.protein import esm2, esm2_weights
from reed.errors import ReedError
from reed.precision import cast_weights
from reed.weights import Found

HERE = Path(__file__).parent
TINY, LANGUAGE, IMAGES = (
    SimpleNamespace(**runpy.run_path(str(HERE / f"tiny_{name}.py")))
    for name in ("weights", "language", "images")
)


def esm2_file(folder: Path) -> Path:
    """A random ESM-2 as fair-esm writes it."""
    torch.manual_seed(0)
    state = esm2_weights._empty(2, 40, 4, 33).state_dict()
    renamed = {
        "attention.self.query": "self_attn.q_proj",
        "attention.self.key": "self_attn.k_proj",
        "attention.self.value": "self_attn.v_proj",
        "attention.output.dense": "self_attn.out_proj",
        "attention.LayerNorm": "self_attn_layer_norm",
        "intermediate.dense": "fc1",
        "output.dense": "fc2",
        ".LayerNorm": ".final_layer_norm",
        "encoder.layer": "layers",
        "encoder.emb_layer_norm_after": "emb_layer_norm_after",
        "embeddings.word_embeddings": "embed_tokens",
    }
    fair = {}
    for key, value in state.items():
        for ours, theirs in renamed.items():
            key = key.replace(ours, theirs)
        fair[key] = value
    torch.save({"model": fair}, folder / "esm2.pt")
    return folder / "esm2.pt"


def esmfold(folder: Path) -> Path:
    """The released configuration: ESM-2 in half precision."""
    path = TINY.esmfold(folder) / "config.json"
    table = json.loads(path.read_text())
    table["esmfold_config"]["fp16_esm"] = True
    path.write_text(json.dumps(table))
    return folder


def vae(folder: Path) -> Path:
    IMAGES.vae(folder)
    return folder


SAPROT, QWEN3, PROTT5, TOKENS = (
    SimpleNamespace(**runpy.run_path(str(HERE / f"test_{name}.py")))
    for name in ("saprot", "qwen3", "prott5", "token_data")
)


def saprot(folder: Path) -> Path:
    SAPROT.public_folder(folder)
    return folder


def prott5(folder: Path) -> Path:
    PROTT5.public_folder(folder)
    return folder


def rae(folder: Path) -> Path:
    TOKENS.save_rae(folder)
    return folder


def qwen3_embedding(folder: Path) -> Path:
    return QWEN3.embedding_folder(folder, True)


def named(start: str) -> list[str]:
    return [name for name in ENCODERS.names() if name.startswith(start)]


ESM2 = {"card": esm2.Card("tiny", "", 2, 40, 4)}
# Encoder -> writer of small weights in a true format, and the settings that they need.
SMALL = {
    "captions": (LANGUAGE.qwen2_vl, {}),
    "clip-text": (LANGUAGE.clip_text, {"dim": 24}),
    "esmfold": (esmfold, TINY.FOLD_SIZES),
    "qwen2-vl-7b": (LANGUAGE.qwen2_vl, {"dim": 32, "layer": 2}),
    "sd-vae": (vae, {}),
    "sentence": (LANGUAGE.sentence, {"dim": 32}),
    "t5": (LANGUAGE.t5, {"dim": 32}),
    **{name: (prott5, {"card": card}) for name, card in PROTT5.CARDS.items()},
    **dict.fromkeys(named("esm2-"), (esm2_file, ESM2)),
    **dict.fromkeys(named("rae-"), (rae, {"channels": 24, "grid": 4})),
    **dict.fromkeys(named("saprot-"), (saprot, {"card": SAPROT.CARD})),
    **dict.fromkeys(named("qwen3-embedding-"), (qwen3_embedding, {"dim": 32})),
    **dict.fromkeys(named("qwen3-vl-"), (QWEN3.qwen3_vl, {"dim": 32, "layer": 2})),
}
WITHOUT_MODULE = named("esmc-")  # functions of its weights, so there is no buffer to be cast


def make(name: str, **settings):
    found = ENCODERS.get(name)
    given = getattr(found, "keywords", {}) | settings
    return config.build(getattr(found, "func", found), given, name)


def can_be_cast(name: str) -> bool:
    """Whether an encoder takes the precision bf16; some have none, and geometry needs fp32."""
    try:
        return stage_one.make_encoder(name, Path(), {"precision": "bf16"}).precision == "bf16"
    except ReedError:
        return False


CAST = [n for n in ENCODERS.names() if n not in WITHOUT_MODULE and can_be_cast(n)]


def buffers(encoder) -> dict[str, torch.Tensor]:
    """The buffers of floating point of all modules that an encoder holds."""
    parts = [*vars(encoder).values()]
    parts += [inner for part in parts for inner in getattr(part, "__dict__", {}).values()]
    held = [part for part in parts if isinstance(part, nn.Module)]
    assert held, "the encoder holds no module"
    return {
        f"{place}.{name}": value
        for place, module in enumerate(held)
        for name, value in module.named_buffers()
        if value.is_floating_point()
    }


@pytest.fixture
def narrowed(monkeypatch):
    """The buffers that a cast of a module makes narrower, even if they are widened again."""
    found, apply = [], nn.Module._apply

    def watched(self, *args, **more):
        before = {name: value.dtype for name, value in self.named_buffers()}
        result = apply(self, *args, **more)
        found.extend(
            name
            for name, value in self.named_buffers()
            if before[name].is_floating_point and value.dtype.itemsize < before[name].itemsize
        )
        return result

    monkeypatch.setattr(nn.Module, "_apply", watched)
    return found


@pytest.fixture
def drawn(monkeypatch):
    """Vision models of any size on the device "meta", which have types and no memory."""
    monkeypatch.setattr(files, "find", lambda *_: Found(Path(), (Path("w.safetensors"),)))
    monkeypatch.setattr(files, "read", lambda *_: {})
    monkeypatch.setattr(vision, "fill", lambda *_: None)
    monkeypatch.setattr(timm_models, "state_for", lambda *_: {})
    monkeypatch.setattr(vision.Vision, "_check_shapes", lambda _: None)


VISION = [name for name in CAST if name not in SMALL]


@pytest.mark.parametrize("name", [name for name in CAST if name in SMALL])
def test_bf16_changes_no_buffer(name, narrowed, tmp_path, monkeypatch):
    TOKENS.small_heads(monkeypatch)
    write, settings = SMALL[name]
    path = str(write(tmp_path))
    loaded = {}
    for precision in ("fp32", "bf16"):
        loaded[precision] = make(name, weights=path, precision=precision, **settings)
        loaded[precision].load("cpu")
    assert not narrowed
    exact, cast = (buffers(loaded[precision]) for precision in ("fp32", "bf16"))
    assert exact.keys() == cast.keys()
    assert all(torch.equal(cast[n], exact[n]) and cast[n].dtype == exact[n].dtype for n in exact)


@pytest.mark.parametrize("name", VISION)
def test_bf16_changes_no_buffer_of_a_vision_model(name, narrowed, drawn):
    encoder = make(name, precision="bf16")
    assert isinstance(encoder, vision.Vision)  # another kind of encoder belongs into SMALL
    with torch.device("meta"):
        encoder.load("meta")
    assert not narrowed
    assert {value.dtype for value in buffers(encoder).values()} <= {torch.float32}
    assert {value.dtype for value in encoder._model.parameters()} == {torch.float32}


def test_parameters_are_cast_and_buffers_are_not():
    net = nn.BatchNorm1d(3)
    net.running_mean += torch.tensor([1.001, 2.002, 3.003])
    cast_weights(net, "fp32")
    assert net.weight.dtype == torch.float32
    cast_weights(net, "bf16")
    assert net.weight.dtype == net.bias.dtype == torch.bfloat16
    np.testing.assert_array_equal(net.running_mean, np.float32([1.001, 2.002, 3.003]))


def test_the_watch_sees_a_cast_that_is_taken_back(narrowed):
    nn.BatchNorm1d(3).half().float()
    assert narrowed
