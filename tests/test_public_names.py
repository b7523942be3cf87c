"""DINOv3, SigLIP 2 and Perception Encoders: timm's own output, from the files of the hub too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from reed.encoders import ENCODERS
from reed.encoders.image.cards import CARDS
from reed.encoders.image.public_names import from_dinov3, from_siglip
from reed.errors import ReedError

BY_NAME = {card.name: card for card in CARDS}
SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}
GRID = 4


def scattered(model):
    """A model with random parameters, those that start at zero or one too."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval().requires_grad_(False)


def small_model(name: str):
    """A card and its timm model, both two blocks deep."""
    model = timm.create_model(BY_NAME[name].model, pretrained=False, num_classes=0, **SMALL)
    card = dataclasses.replace(BY_NAME[name], dim=48, arguments=tuple(SMALL.items()))
    return card, scattered(model)


def tokens_of(card, path: Path) -> dict[str, np.ndarray]:
    encoder = ENCODERS.get(card.name).func(card, str(path), grid=GRID)
    encoder.load("cpu")
    return encoder.encode([{"image": image} for image in pictures()])


def pictures() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


def seen(card) -> torch.Tensor:
    """What the model is given."""
    pixels = torch.from_numpy(pictures()).permute(0, 3, 1, 2)
    return card.preprocess(pixels, GRID * card.patch)


def close(have, want) -> None:
    np.testing.assert_allclose(np.stack(have), want.detach().numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "name", ["dinov3-s-plus", "pe-core-b", "pe-core-g", "pe-spatial-l", "siglip2-l"]
)
def test_each_family_gives_timms_own_tokens(name, tmp_path):
    card, model = small_model(name)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    values = tokens_of(card, tmp_path)
    model.set_input_size(img_size=(GRID * card.patch,) * 2)
    last = model.forward_features(seen(card))
    close(values["tokens"], last[:, -(GRID**2) :])
    assert last.shape[1] == GRID**2 + model.num_prefix_tokens and last.std() > 0.3
    if card.pooled:
        close(values["pooled"], model.forward_head(last, pre_logits=True))
    else:
        close(values["cls"], last[:, 0])


def dinov3_folder(folder: Path, gated: bool, bias: float = 0.0):
    """transformers' DINOv3, and its file under the names of the hub."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    settings = DINOv3ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=192,
        num_register_tokens=4,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
        layerscale_value=1.0,
    )
    model = scattered(DINOv3ViTModel(settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.bias", "v_proj.bias")):
                parameter.fill_(bias)  # zero in the public files
    folder.mkdir(parents=True, exist_ok=True)
    state = {key.removeprefix("model."): value for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return model, state


@pytest.mark.parametrize("name", ["dinov3-b", "dinov3-h-plus"])
def test_dinov3_of_the_hub_gives_what_transformers_does(name, tmp_path):
    card, _ = small_model(name)
    model, state = dinov3_folder(tmp_path, gated=name == "dinov3-h-plus")
    assert "layer.0.attention.q_proj.bias" in state and "embeddings.mask_token" in state
    values = tokens_of(card, tmp_path)
    last = model(seen(card)).last_hidden_state
    assert last.shape == (2, 1 + 4 + GRID**2, 48) and last.std() > 0.3
    close(values["tokens"], last[:, 5:])
    close(values["cls"], last[:, 0])


def test_what_transformers_itself_saves_is_read_too(tmp_path):
    model, _ = dinov3_folder(tmp_path / "hub", gated=False)
    model.save_pretrained(tmp_path / "saved")
    card, _ = small_model("dinov3-b")
    one, other = (tokens_of(card, tmp_path / place) for place in ("hub", "saved"))
    np.testing.assert_array_equal(one["tokens"], other["tokens"])


def authors_dinov3(state: dict) -> dict:
    """A .pth file of DINOv3's authors, with the same numbers."""
    renamed = {
        "storage_tokens": state["embeddings.register_tokens"],
        "cls_token": state["embeddings.cls_token"],
        "mask_token": torch.zeros(1, 48),
        "rope_embed.periods": torch.ones(4),
        "patch_embed.proj.weight": state["embeddings.patch_embeddings.weight"],
        "patch_embed.proj.bias": state["embeddings.patch_embeddings.bias"],
        "norm.weight": state["norm.weight"],
        "norm.bias": state["norm.bias"],
    }
    for i in (0, 1):
        here, there = f"layer.{i}.", f"blocks.{i}."
        query = [state[f"{here}attention.{letter}_proj.weight"] for letter in "qkv"]
        renamed |= {
            f"{there}attn.qkv.weight": torch.cat(query),
            f"{there}attn.qkv.bias": torch.zeros(144),
            f"{there}attn.qkv.bias_mask": torch.ones(144),
        }
        names = {"attention.o_proj": "attn.proj", "norm1": "norm1", "norm2": "norm2"}
        names |= {"mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"}
        for kind in ("weight", "bias"):
            renamed |= {f"{there}{b}.{kind}": state[f"{here}{a}.{kind}"] for a, b in names.items()}
        for k in (1, 2):
            renamed[f"{there}ls{k}.gamma"] = state[f"{here}layer_scale{k}.lambda1"]
    return renamed


def test_the_file_of_dinov3s_authors_gives_the_same_and_prints_nothing(tmp_path, capsys):
    _, state = dinov3_folder(tmp_path / "hub", gated=False)
    torch.save(authors_dinov3(state), tmp_path / "dinov3_vitb16_pretrain_lvd1689m.pth")
    card, _ = small_model("dinov3-b")
    one = tokens_of(card, tmp_path / "hub")
    other = tokens_of(card, tmp_path / "dinov3_vitb16_pretrain_lvd1689m.pth")
    np.testing.assert_array_equal(one["tokens"], other["tokens"])
    assert capsys.readouterr().out == ""


def test_a_bias_that_timms_model_has_no_place_for_is_not_dropped(tmp_path):
    dinov3_folder(tmp_path, gated=False, bias=0.5)
    card, _ = small_model("dinov3-b")
    with pytest.raises(ReedError, match=r"4 unexpected \(blocks.0.attn.q.bias, .*attn.v.bias"):
        tokens_of(card, tmp_path)


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_siglip2_of_the_hub_gives_what_transformers_does(prefix, tmp_path):
    from transformers import SiglipVisionConfig, SiglipVisionModel

    card, _ = small_model("siglip2-b")
    side = 256 // card.patch  # positions of the public file, which are resampled to the grid
    settings = SiglipVisionConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=192,
        image_size=256,
        patch_size=16,
        hidden_act="gelu",  # as timm's model of this size; transformers' public one is "tanh"
    )
    model = scattered(SiglipVisionModel(settings))
    state = {key.removeprefix("vision_model."): value for key, value in model.state_dict().items()}
    file = {prefix + key: value.clone() for key, value in state.items() if "_ids" not in key}
    file |= {"text_model.embeddings.token_embedding.weight": torch.ones(2, 48)} if prefix else {}
    file |= {"logit_scale": torch.ones(1), "logit_bias": torch.ones(1)} if prefix else {}
    save_file(file, tmp_path / "model.safetensors")

    encoder = ENCODERS.get(card.name).func(card, str(tmp_path), grid=side)
    encoder.load("cpu")
    images = np.random.default_rng(7).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    values = encoder.encode([{"image": image} for image in images])
    output = model(card.preprocess(torch.from_numpy(images).permute(0, 3, 1, 2), 256))
    assert output.last_hidden_state.std() > 0.3
    close(values["tokens"], output.last_hidden_state)
    close(values["pooled"], output.pooler_output)


def test_files_of_timm_are_left_as_they_are():
    for convert, name in ((from_dinov3, "dinov3-b"), (from_siglip, "siglip2-b")):
        _, model = small_model(name)
        state = model.state_dict()
        assert convert(state).keys() == state.keys()
        assert all(convert(state)[key] is value for key, value in state.items())


def test_the_public_names_and_widths():
    shapes = {
        name: card.dim for name, card in BY_NAME.items() if name.startswith(("dinov3", "pe-"))
    }
    assert shapes == {
        "dinov3-s": 384,
        "dinov3-b": 768,
        "dinov3-l": 1024,
        "dinov3-s-plus": 384,
        "dinov3-h-plus": 1280,
        "dinov3-7b": 4096,
        "dinov3-convnext-t": 768,
        "dinov3-convnext-s": 768,
        "dinov3-convnext-b": 1024,
        "dinov3-convnext-l": 1536,
        **{f"pe-{kind}-b": 768 for kind in ("core", "spatial")},
        **{f"pe-{kind}-l": 1024 for kind in ("core", "spatial")},
        **{f"pe-{kind}-g": 1536 for kind in ("core", "spatial")},
    }
    assert {n: c.dim for n, c in BY_NAME.items() if n.startswith("siglip2")} == {
        "siglip2-b": 768,
        "siglip2-l": 1024,
        "siglip2-so400m": 1152,
        "siglip2-g": 1536,
    }
