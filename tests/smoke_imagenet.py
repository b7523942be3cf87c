"""make reproduce-imagenet SCALE=smoke: a folder of pictures and small random weights to run it on.

Run as a program: smoke_imagenet.py FOLDER writes FOLDER/photos, weights in the files of the real
ones, FOLDER/reference.npz and FOLDER/settings.json, the words that make every command small.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import torch

PHOTOS, SAMPLES, STEPS = 40, 12, 4
NET = {
    "steps": STEPS,
    "every.save": 2,
    "every.log": 1,
    "preview.every": 0,
    "batch": 8,
    "precision": "fp32",
    "domain.size": '""',
    "domain.classes": 3,
    "domain.net_settings.hidden_size": 32,
    "domain.net_settings.depth": 3,
    "domain.net_settings.num_heads": 2,
    "align.dinov2-b.tap": 1,
    "align.dinov2-b.hidden": 16,
    "align.qwen2-vl-7b.tap": 2,
    "align.qwen2-vl-7b.hidden": 16,
}


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


def write(folder: Path) -> None:
    """Everything that the commands are given; a folder that has it is left as it is."""
    if (folder / "settings.json").is_file():
        return
    tiny = runpy.run_path(str(Path(__file__).with_name("tiny_images.py")))
    weights = tiny["models"](folder / "weights")
    tiny["sound_photos"](folder / "photos", PHOTOS)
    shape = (32, tiny["SIDE"], tiny["SIDE"], 3)
    images = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    np.savez(folder / "reference.npz", arr_0=images)
    build = [
        "--set",
        f"source.resolution={tiny['SIDE']}",
        "--encoder",
        "dinov2-b=dinov2-s",
        "--encoder",
        "captions",
        "--encoder",
        "qwen2-vl-7b",
        *tiny["settings"](weights, "sd-vae", "dinov2-b", "captions", "qwen2-vl-7b"),
    ]
    words = {
        "build": build,
        "train": [word for name, value in NET.items() for word in ("--set", f"{name}={value}")],
        "sample": ["--steps", "4"],
        "evaluate": ["--weights", f"inception={inception(folder / 'inception.pth')}"],
        "num": SAMPLES,
    }
    (folder / "settings.json").write_text(json.dumps(words, indent=1, default=str))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
