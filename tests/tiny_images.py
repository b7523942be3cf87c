"""A folder of photographs, some of them nasty, and small random models that encode them.

Test modules run this file with runpy. The models are files of the real forms.
"""

from __future__ import annotations

import io
import json
import runpy
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

SIDE = 32  # of the images in the cache: latents of 4 x 4, so a net of patch 2 has 4 tokens
COUNT = 300  # of which 3 may fail
BROKEN = {
    "n02/broken.JPEG": "cannot be decoded",
    "n02/empty.JPEG": "the file is empty",
    "n03/text.JPEG": "not one of the formats",
}
# Column -> timm's model and the preprocessing that it was trained with.
VISION = {
    "dinov2-b": "vit_small_patch14_dinov2.lvd142m",
    "convnext": "test_convnext.r160_in1k",
}
ENCODERS = ("dinov2-b=dinov2-s", f"convnext=timm:{VISION['convnext']}", "captions", "qwen2-vl-7b")


def noise(draws: np.random.Generator, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Coarse squares under fine noise: uint8 [height, width, channels]."""
    coarse = draws.integers(0, 200, (height // 8 + 1, width // 8 + 1, channels))
    coarse = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    return (coarse + draws.integers(0, 56, coarse.shape)).astype(np.uint8)


def encoded(array: np.ndarray, form: str = "JPEG", mode: str | None = None) -> bytes:
    """An image file, converted to a mode of Pillow's first."""
    file, image = io.BytesIO(), Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, form)
    return file.getvalue()


def photos(root: Path, count: int = COUNT) -> Path:
    """`count` files in three class folders, of which those in BROKEN cannot be read."""
    draws = np.random.default_rng(11)
    nasty = {
        "n01/cmyk.JPEG": encoded(noise(draws, 50, 70), "JPEG", "CMYK"),
        "n01/grey.JPEG": encoded(noise(draws, 70, 50), "JPEG", "L"),
        "n01/large.JPEG": encoded(noise(draws, 300, 420)),
        "n01/wide.PNG": encoded(noise(draws, 40, 60)[:, :, 0].astype(np.uint16) * 257, "PNG"),
        "n02/palette.png": encoded(noise(draws, 40, 40), "PNG", "P"),
        "n02/alpha.png": encoded(noise(draws, 45, 40, 4), "PNG"),
        "n02/broken.JPEG": encoded(noise(draws, 60, 60))[:900],
        "n02/empty.JPEG": b"",
        "n03/text.JPEG": b"an image, by its name alone",
    }
    for name in ("n01", "n02", "n03"):
        (root / name).mkdir(parents=True)
    for name, content in nasty.items():
        (root / name).write_bytes(content)
    for i in range(count - len(nasty)):
        height, width = draws.integers(33, 60, 2)
        form = ("JPEG", "PNG")[i % 2]
        content = encoded(noise(draws, height, width), form)
        (root / f"n0{1 + i % 3}" / f"{i:04}.{form}").write_bytes(content)
    return root


def sound_photos(root: Path, count: int) -> Path:
    """The same without those that cannot be read, too large a share of a few."""
    photos(root, count)
    for name in BROKEN:
        (root / name).unlink()
    return root


def repa(root: Path, count: int = 24) -> Path:
    """A folder of images, latents and labels as REPA's tools write it."""
    draws, labels = np.random.default_rng(5), []
    for i in range(count):
        latent = f"00000/img-mean-std-{i:08}.npy"
        for place in ("images", "vae-sd"):
            (root / place / "00000").mkdir(parents=True, exist_ok=True)
        image = root / "images" / "00000" / f"img{i:08}.png"
        image.write_bytes(encoded(noise(draws, SIDE, SIDE), "PNG"))
        moments = draws.random((8, SIDE // 8, SIDE // 8), np.float32)
        np.save(root / "vae-sd" / latent, moments)
        labels.append([latent, i % 3])
    (root / "vae-sd" / "dataset.json").write_text(json.dumps({"labels": labels}))
    return root


def mar(root: Path, count: int = 12) -> Path:
    """Moments of images of three classes as MAR caches them."""
    draws = np.random.default_rng(6)
    for i in range(count):
        path = root / f"n0{i % 3}" / f"{i:08}.JPEG.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        plain, flipped = draws.standard_normal((2, 32, 4, 4), np.float32)
        np.savez(path, moments=plain, moments_flip=flipped)
    return root


def timm_model(name: str):
    """A random model of timm's, no parameter of which is zero or one."""
    torch.manual_seed(1)
    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.requires_grad_(False)


def vae(folder: Path):
    """A random autoencoder of 8 pixels per latent, as diffusers writes it."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    )
    model.save_pretrained(folder)
    return model.eval()


def models(root: Path) -> dict[str, Path]:
    """Column -> file or folder of its weights."""
    language = runpy.run_path(str(Path(__file__).with_name("tiny_language.py")))
    vae(root / "vae")
    found = {"sd-vae": root / "vae", "qwen2-vl-7b": language["qwen2_vl"](root / "qwen")}
    for column, name in VISION.items():
        found[column] = root / f"{column}.safetensors"
        save_file(timm_model(name).state_dict(), found[column])
    return found | {"captions": found["qwen2-vl-7b"]}


def settings(weights: dict[str, Path], *columns: str) -> list[str]:
    """--set of everything that makes a build of these columns (default: all) small and exact."""
    small = {
        "sd-vae": {"resolution": SIDE},
        "dinov2-b": {"grid": 2},
        "convnext": {"grid": 2},
        "captions": {"max_new_tokens": 4, "precision": "fp32"},
        "qwen2-vl-7b": {"dim": 32, "layer": 2, "precision": "fp32"},
    }
    words = []
    for column in columns or small:
        for name, value in (small[column] | {"weights": weights[column]}).items():
            words += ["--set", f"{column}.{name}={value}"]
    return words
