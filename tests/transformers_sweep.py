"""Image models of the installed transformers as encoders: equal to its own, or refused in one line.

Test modules run this file with runpy. `python tests/transformers_sweep.py [FAMILY ...]` prints what
becomes of each family, by default of all.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, AutoModel, ViTImageProcessor
from transformers.models.auto import image_processing_auto, modeling_auto

from reed import config as settings
from reed.encoders import ENCODERS
from reed.errors import ReedError

LARGEST = 40_000_000  # parameters of the models that really run

# What makes a model small, under the names that the families use.
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "projection_dim": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "image_size": 32,
    "patch_size": 8,
    "vocab_size": 99,
    "max_position_embeddings": 64,
}
HIERARCHY = {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]}
HIERARCHY |= {"patch_size": 2, "window_size": 4}
CONVOLUTIONS = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
# Settings of families that need others. An empty value leaves a setting as it is.
OWN: dict[str, dict[str, Any]] = {
    "bit": {**CONVOLUTIONS, "embedding_size": 8, "hidden_sizes": [32, 32, 64, 64]},
    "convnext": CONVOLUTIONS,
    "convnextv2": CONVOLUTIONS,
    "dinov3_convnext": CONVOLUTIONS | {"image_size": 64},
    "donut-swin": HIERARCHY,
    "focalnet": {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1], "patch_size": 2},
    "efficientnet": {
        "hidden_dim": 320,
        "image_size": 64,
        "width_coefficient": 0.25,
        "depth_coefficient": 0.25,
    },
    "hiera": dict.fromkeys(SMALL) | {"embed_dim": 16, "num_heads": [1, 2, 4, 8]},
    "align_vision_model": {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.25},
    "maskformer-swin": HIERARCHY,
    "pvt": dict.fromkeys(SMALL),
    "regnet": {**CONVOLUTIONS, "embedding_size": 8, "groups_width": 8},
    "resnet": {**CONVOLUTIONS, "embedding_size": 8},
    "swin": HIERARCHY,
    "swinv2": HIERARCHY,
}
# Class and register tokens of each family, as its authors describe it.
PREFIX = dict.fromkeys(
    "beit blip blip-2 altclip chinese_clip chinese_clip_vision_model clip clip_vision_model clipseg"
    " data2vec-vision dinov2 dpt internvl_vision metaclip_2 mlcd mlcd_vision_model pvt"
    " qianfan_ocr_vision vision-text-dual-encoder vit vit_mae vit_msn".split(),
    1,
)
PREFIX |= {"deit": 2, "dinov2_with_registers": 5, "dinov3_vit": 1, "dinov3_convnext": 1}
PREFIX |= {"pixio": 8, "sapiens2": 9, "tipsv2": 2, "tipsv2_vision_model": 2}
WITHOUT_CLASS = {"dinov3_convnext", "pixio"}  # the first token is an average, or one of several
CHANNELS_LAST = {"sam2_vision_model"}


def families() -> list[str]:
    """Families of AutoModel that transformers calls models of images, or names after vision."""
    auto, kinds = modeling_auto, ("IMAGE", "BACKBONE", "IMAGE_CLASSIFICATION")
    kinds += ("MASKED_IMAGE_MODELING", "ZERO_SHOT_IMAGE_CLASSIFICATION")
    names = {n for kind in kinds for n in getattr(auto, f"MODEL_FOR_{kind}_MAPPING_NAMES")}
    base = {*auto.MODEL_MAPPING_NAMES} & set(CONFIG_MAPPING)
    return sorted(base & (names | {name for name in base if "vision" in name}))


def small(family: str, usual: Any) -> dict[str, Any]:
    """Settings that make a configuration small, and those inside it."""
    made = {}
    for name, value in (SMALL | OWN.get(family, {})).items():
        own = getattr(usual, name, None)
        if value is not None and own is not None and isinstance(own, int) == isinstance(value, int):
            made[name] = value
    for name in usual.sub_configs:
        if (part := getattr(usual, name, None)) is not None:
            made[name] = small(part.model_type, part) | {"model_type": part.model_type}
    return made


def small_config(family: str) -> Any:
    """A small configuration of a family; its usual one if that makes no model."""
    kind = CONFIG_MAPPING[family]
    try:
        config = kind(**small(family, kind()))
    except Exception:  # each family has its own checks of its settings
        return kind()
    return config if parameters(config) else kind()


def parameters(config: Any) -> int:
    """How many parameters a model has; 0 if the settings make none."""
    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config)
            x = torch.zeros(1, 3, side_of(config), side_of(config))
            with torch.no_grad():
                tower(model)(pixel_values=x)
    except Exception:  # each family has its own checks of its settings
        return 0
    return sum(p.numel() for p in model.parameters())


def side_of(config: Any) -> int:
    """Pixels per side that a configuration states; 64 if it states none."""
    side = getattr(getattr(config, "vision_config", config), "image_size", None)
    return (side if isinstance(side, int) else side[-1]) if side else 64


def tower(model: Any) -> Any:
    """What reads the images."""
    names = ("vision_model", "vision_tower", "visual", "vision_encoder")
    parts = [getattr(model, name) for name in names if hasattr(model, name)]
    return parts[0] if parts else model


def processor_of(family: str, side: int) -> Any:
    """The image processor of a family, for images of so many pixels."""
    known = image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(family, {})
    kind = getattr(transformers, known.get("torchvision") or "", ViTImageProcessor)
    made = kind()
    for name in ("size", "crop_size"):
        if said := getattr(made, name, None):
            setattr(made, name, dict.fromkeys((k for k, v in dict(said).items() if v), side))
    return made


def written(family: str, folder: Path) -> int:
    """Write a family without its weights, as the hub has it; returns its number of parameters."""
    config = small_config(family)
    config.save_pretrained(folder)
    processor_of(family, side_of(config)).save_pretrained(folder)
    save_file({}, folder / "model.safetensors")
    return parameters(config)


def fill(folder: Path) -> None:
    """Write random weights."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(folder)
    model = AutoModel.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():  # also those that start at zero
        parameter.data.add_(torch.randn_like(parameter) * 0.02)
    save(model, folder)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """The folder of a small ViT of 32 pixels and 4×4 patches."""
    folder = tmp_path_factory.mktemp("vit") / "vit"
    written("vit", folder)
    fill(folder)
    return folder


@pytest.fixture
def copy(vit, tmp_path):
    """A folder of one's own with the same files."""
    for path in vit.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def save(model: Any, folder: Path, **more: Any) -> None:
    """Write a model without a progress bar."""
    transformers.logging.disable_progress_bar()
    model.save_pretrained(folder, **more)
    transformers.logging.enable_progress_bar()


def photograph(side: int) -> np.ndarray:
    """The left upper corner of a photograph, uint8 [side, side, 3]."""
    path = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return np.asarray(Image.open(path).convert("RGB"))[:side, :side].copy()


def loaded(folder: Path, **options: Any) -> Any:
    encoder = encoder_of(folder, **options)
    encoder.load("cpu")
    return encoder


def encoder_of(folder: Path, **options: Any) -> Any:
    made = ENCODERS.get(f"transformers:{folder}")
    return settings.build(made.func, {**made.keywords, **options}, "transformers")


def outcome(family: str, folder: Path) -> str | None:
    """Compare a family with transformers.

    Returns:
        Nothing if they are equal; the line that refuses it; None for a model that is too large.
    """
    count = written(family, folder)
    try:
        layout = encoder_of(folder)._of_files[0]
    except ReedError as error:
        assert "\n" not in str(error), error
        return str(error)
    if count > LARGEST:
        return None
    fill(folder)
    own = layout.own // layout.patch if layout.patch else layout.grid
    encoder = loaded(folder, grid=own)
    side = encoder._of_files[0].size
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    compare(family, folder, encoder, image)
    return ""


def compare(family: str, folder: Path, encoder: Any, image: np.ndarray) -> None:
    """Tokens and vector must be those of the model itself."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    off = {n: False for n in ("do_resize", "do_center_crop", "do_pad") if hasattr(processor, n)}
    x = processor(images=[image], return_tensors="pt", **off)["pixel_values"]
    model = tower(AutoModel.from_pretrained(folder).eval())
    more = {}
    if family == "vit_mae":  # nothing is masked, and the order stays
        model.config.mask_ratio = 0.0
        more["noise"] = torch.arange((len(image) // model.config.patch_size) ** 2)[None]
    with torch.no_grad():
        output = model(pixel_values=x, **more)
    last, prefix = output.last_hidden_state, PREFIX.get(family, 0)
    if last.ndim == 4:
        want = last.reshape(1, -1, last.shape[-1])
        if family not in CHANNELS_LAST:
            want = last.permute(0, 2, 3, 1).reshape(1, -1, last.shape[1])
    else:
        want = last[:, prefix:]
    values = encoder.encode([{"image": image}])
    close(values["tokens"], want)

    pooled = output.get("pooler_output")
    if prefix and family not in WITHOUT_CLASS:
        close(values["cls"], last[:, 0])
    elif (
        pooled is not None
        and pooled.shape[0] == 1
        and pooled.flatten(1).shape[1] == pooled.shape[1]
    ):
        close(values["pooled"], pooled.flatten(1))
    else:
        close(values["pooled"], want.mean(1))


def close(have: np.ndarray, want: torch.Tensor) -> None:
    want = want.numpy()
    assert have.shape == want.shape, (have.shape, want.shape)
    assert np.isfinite(want).all() and want.std() > 0, "these numbers prove nothing"
    np.testing.assert_allclose(have, want, rtol=0, atol=1e-4 * np.abs(want).max())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in sys.argv[1:] or families():
        with tempfile.TemporaryDirectory() as place:
            try:
                found = outcome(name, Path(place) / name)
            except Exception as error:
                found = f"ERROR {type(error).__name__}: {error}"[:600]
        print(json.dumps([name, found]), flush=True)
