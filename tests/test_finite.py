"""Weights that are not finite are refused in one line, whatever file they are in."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from reed import weights
from reed.encoders import pretrained as pre
from reed.encoders.molecule import ani_files
from reed.errors import ReedError
from reed.finite import check_finite
from reed.weights import Found

SWEEP = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("transformers_sweep.py"))))
SOUND = {"a.weight": torch.ones(3), "a.step": torch.tensor(4), "attn_mask": torch.tensor([-np.inf])}


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_a_number_that_is_not_finite_is_named(number, kind, tmp_path):
    values = torch.ones(2, 3, dtype=kind)
    values[1, 2] = number
    save_file(SOUND | {"b.weight": values}, tmp_path / "w.safetensors")
    text = r"w.safetensors: the weights 'b.weight' are not finite; download the file again"
    with pytest.raises(ReedError, match=text):
        weights.read(tmp_path / "w.safetensors")
    assert weights.read(tmp_path / "w.safetensors", finite=False).keys() >= {"b.weight"}


def test_a_pickle_of_nested_tables_is_searched(tmp_path):
    torch.save({"model": [SOUND, {"c": torch.tensor([np.nan])}], "lr": 1.0}, tmp_path / "w.pt")
    with pytest.raises(ReedError, match="the weights 'model.1.c' are not finite"):
        weights.content(tmp_path / "w.pt")
    torch.save({"model": [SOUND], "names": ("x", "y"), "none": torch.ones(0)}, tmp_path / "w.pt")
    assert weights.content(tmp_path / "w.pt")["names"] == ("x", "y")


@pytest.mark.parametrize("name", ["attn_mask", "mask_decoder.weight", "w"])
def test_nan_is_found_in_masks_and_in_eight_bits(name):
    """Masks may hold infinity, but not NaN; nor may whole parts that are named after masks."""
    for kind in (torch.float32, torch.float8_e4m3fn, torch.float8_e5m2):
        values = torch.tensor([1.0, np.nan]).to(kind)
        with pytest.raises(ReedError, match=f"x: the weights '{name}' are not finite"):
            check_finite({name: values}, "x")
    check_finite({"attn_mask": torch.tensor([0.0, -np.inf]).to(torch.float8_e5m2)}, "x")


def test_what_has_no_numbers_is_passed_over():
    check_finite({"eight": torch.ones(4).to(torch.float8_e4m3fn)}, "x")
    check_finite({"meta": torch.ones(4, device="meta")}, "x")


@pytest.fixture
def vit(tmp_path):
    """The folder of a small ViT."""
    SWEEP.written("vit", tmp_path)
    SWEEP.fill(tmp_path)
    return tmp_path


def test_a_folder_of_transformers_is_searched(vit):
    state = load_file(vit / "model.safetensors")
    state["layernorm.weight"][3] = np.nan
    save_file(state, vit / "model.safetensors", {"format": "pt"})
    with pytest.raises(ReedError, match="the weights 'layernorm.weight' are not finite"):
        pre.open_model("AutoModel", Found(vit, (vit / "model.safetensors",)), "bf16")


def test_the_floats_of_neurochem_are_searched(tmp_path):
    np.array([1, np.nan], "<f4").tofile(tmp_path / "ANN.wparam")
    with pytest.raises(ReedError, match="ANN.wparam has numbers that are not finite"):
        ani_files._floats(tmp_path / "ANN.wparam", [2])


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (
            {"intermediate_size": 48},
            "config.json and the weights beside it are of different models",
        ),
        ({"hidden_size": "x"}, "'hidden_size': TypeError: Field 'hidden_size' expected int"),
        ({"num_hidden_layers": 3}, "lacks 16 weights of ViTModel"),
        ({"num_hidden_layers": 1}, "fewer layers than the weights .* have, such as 'layers.1.att"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_one_line(setting, text, vit):
    config = json.loads((vit / "config.json").read_text())
    (vit / "config.json").write_text(json.dumps(config | setting))
    with pytest.raises(ReedError, match=text) as error:
        pre.open_model("AutoModel", Found(vit, (vit / "model.safetensors",)), "fp32")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_settings_of_fewer_layers_are_told_below_a_head_too(tmp_path):
    """Names of a model with a head begin with that of its base, which is left in the surplus."""
    config = transformers.ViTConfig(**SWEEP.small("vit", transformers.ViTConfig()))
    SWEEP.save(transformers.ViTForImageClassification(config), tmp_path)
    found = Found(tmp_path, (tmp_path / "model.safetensors",))
    assert len(pre.open_model("AutoModel", found, "fp32").layers) == 2
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(said | {"num_hidden_layers": 1}))
    with pytest.raises(ReedError, match="config.json states fewer layers than the weights"):
        pre.open_model("AutoModel", found, "fp32")


@pytest.mark.parametrize(
    ("file", "setting"),
    [
        ("config.json", {"layer_norm_eps": np.nan}),
        ("preprocessor_config.json", {"image_std": [0.0] * 3}),
    ],
)
def test_settings_that_give_no_finite_tokens_are_one_line(file, setting, vit):
    said = json.loads((vit / file).read_text())
    (vit / file).write_text(json.dumps(said | setting))
    with pytest.raises(ReedError, match="a black image gives tokens that are not finite; check"):
        SWEEP.loaded(vit, grid=4)
