"""How a documented command is run at smoke scale; for runpy.

A command runs as it is written, with words added behind that make it small. The tables below are
all that is added or replaced, and why; the sizes of recipes are those of reed.experiments.smoke.

Run as a program: smoke_scale.py FOLDER writes what make reproduce-imagenet SCALE=smoke is given:
FOLDER/photos, FOLDER/reference.npz, small random weights, and FOLDER/settings.json, the words that
make every command small.
"""

from __future__ import annotations

import json
import re
import runpy
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from reed import config, stage_one
from reed.cache import schema
from reed.cli import cache_build
from reed.encoders.image.cards import CARDS
from reed.experiments import smoke
from reed.experiments.command import sets
from reed.stage_one import Request
from reed.store import mirror

WORLD = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_world.py"))))
STEPS, NUM = 2, WORLD.COUNT  # of training; samples to draw

# What a source makes or reads: the whole would take minutes.
SOURCES = {
    "images": {"resolution": WORLD.SIDE},
    "scenes": {"samples": 300},
    "proteins-toy": {"samples": 24},
    "molecules-toy": {"samples": 80},
}

# Encoders with public weights, which are not at hand: (pattern, stand-in where even the card is
# that of a large model, settings that fit the small weights, the small weights).
SHORT = {"precision": "fp32"}
VISION = "|".join(re.escape(card.name) for card in CARDS)
ENCODERS = (
    ("sd-vae", "", {"resolution": WORLD.SIDE}, "/models/sd-vae-ft-mse"),
    ("sd-vae-import", "", {"resolution": WORLD.SIDE}, ""),
    ("gradients", "", {"grid": 4}, ""),
    (VISION, "dinov2-s", {"grid": 2}, "/models/dinov2-b.safetensors"),
    (
        "timm:.*",
        f"timm:{WORLD.IMAGES.VISION['convnext']}",
        {"grid": 2},
        "/models/convnext.safetensors",
    ),
    ("captions", "", SHORT | {"max_new_tokens": 4}, "/models/Qwen2-VL-2B-Instruct"),
    ("qwen2-vl-7b", "", SHORT | {"dim": 32, "layer": 2}, "/models/Qwen2-VL-7B-Instruct"),
    ("esm2-.*", "esm2-8m", {}, "/models/esm2"),
    ("esm-if1", "", {"dim": WORLD.WEIGHTS.IF1_DIM}, "/models/esm_if1.pt"),
    ("esmfold", "", WORLD.WEIGHTS.FOLD_SIZES, "/models/esmfold_v1"),
    ("unimol", "", {"dim": WORLD.WEIGHTS.UNIMOL.width}, "mol_pre_all_h_220816.pt"),
)

# Recipes: two steps; large nets and batches are small ones.
TRAIN: dict[str, dict[str, Any]] = {
    "digits": {},
    "scenes": {},
    "proteins-toy": {},
    "molecules-toy": smoke.RECIPES["geom"],
    "images": {
        "preview.every": 0,
        "domain.grid": 4,  # as gradients: of latents of small images, too
        "domain.net_settings": "{hidden_size=32, depth=3, num_heads=2}",
    },
    "proteins": {"tokens": 400},
    "molecules": smoke.RECIPES["geom"],
    "geom": smoke.RECIPES["geom"],
    "imagenet": smoke.RECIPES["imagenet"],
    "pdb": {"tokens": smoke.RECIPES["pdb"]["tokens"]},  # its net, which public weights have to fit
}

# Options whose value is cut down, or added where a command leaves a large default; a reduced run
# has a checkpoint of both its steps.
CUT = {"--num": NUM, "--batch": NUM, "--step": STEPS, "--weak-step": STEPS - 1}
DEFAULTS = {"reed-sample": {"--num": NUM}}
DESIGN = ["--steps", "4"]  # a net of the true size takes minutes for the 500 of a documented one

# The demos of the Makefile, which a slow test runs; its other targets are run by test_bench,
# test_reproduce* and .ci/run, and here it is only looked at whether they exist and parse.
DEMOS = {
    "reed.experiments.demo_image": ["--steps", 2, "--points", 1],
    "reed.experiments.demo_protein": ["--steps", 2, "--points", 1],
    "reed.experiments.demo_molecule": ["--steps", 2, "--points", 1, "--drawn", 4],
}

# Feature spaces of reed-eval: (pattern, the small weights); their nets are stood in for as well.
SPACES = {
    "inception": "weights-inception-2015-12-05-6726825d.pth",
    "dinov2-l": "/models/convnext.safetensors",
    "clip-l-336": "/models/convnext.safetensors",
    f"timm:{WORLD.IMAGES.VISION['convnext']}": "/models/convnext.safetensors",
}

# Two processes on one machine in place of many: the value of an option.
LAUNCHERS = {"torchrun": "torch.distributed.run", "accelerate launch": "accelerate.commands.launch"}
LAUNCH = {
    "--nproc-per-node": 2,
    "--nnodes": 1,
    "--node-rank": 0,
    "--num_processes": 2,
    "--num_machines": 1,
    "--machine_rank": 0,
    "--main_process_ip": "127.0.0.1",
    "--main_process_port": 0,
}
RAY, NO_RAY = {"--engine", "ray"}, ["--engine", "local"]  # Ray needs a process of its own
OUTPUT = {"reed-cache": "--cache", "reed-train": "--run", "reed-sample": "--out"}

# What a page takes for granted: file or folder -> the command that makes it.
DATA = {
    "imagenet": " --data /data/imagenet/train",
    "geom": " --data /data/geom",
    "images": " --data photos",
    "proteins": " --data structures",
    "molecules": " --data molecules.sdf",
    "pdb": " --data /data/pdb_2021aug02",
}
NEEDS = {
    "last.pt": "reed-train export runs/imagenet --out last.pt",
    "cache/pdb-test": "reed-cache build pdb --cache cache/pdb-test --data /data/pdb_2021aug02 "
    "--encoder chain --set source.split=test",
    **{f"cache/{name}": f"reed-cache build {name}{DATA.get(name, '')}" for name in TRAIN},
    **{f"runs/{name}": f"reed-train --shards cache/{name}" for name in TRAIN},
    **{f"runs/{name}/samples": f"reed-sample --run runs/{name}" for name in TRAIN},
}
OUTPUTS = ("--cache", "--out", "--json")  # options whose value need not exist


def inputs(program: str, words: list[str]) -> list[str]:
    """The words that may name what must exist."""
    outputs = (*OUTPUTS, *(["--run"] if program == "reed-train" else []))
    pairs = zip(["", *words], words, strict=False)
    return [word for before, word in pairs if before not in outputs]


def launch(words: list[str]) -> list[str]:
    """The words of a launcher with those values."""
    pairs = zip(["", *words], words, strict=False)
    return [str(LAUNCH.get(before, word)) for before, word in pairs]


def cut(words: list[str]) -> list[str]:
    """The values of some options, at most those of CUT."""
    pairs = zip(["", *words], words, strict=False)
    return [str(min(int(w), CUT[before])) if before in CUT else w for before, w in pairs]


def asked(command: click.Command, words: list[str]) -> dict[str, Any]:
    """What click makes of a command's words; its usage errors are raised."""
    return command.make_context(command.name, list(words)).params


def build(words: list[str], place) -> list[str]:
    """What makes build, plan and prefetch small: settings of the source and of every column."""
    wanted = asked(getattr(cache_build, words[0]), words[1:])
    names = {field.name for field in fields(Request)}
    request = cache_build._request(**{k: v for k, v in wanted.items() if k in names})
    more, jobs = [], stage_one.chosen(request)
    small = {job: of for job in jobs for of in ENCODERS if re.fullmatch(of[0], job.encoder)}
    if any(stand_in for _, stand_in, _, _ in small.values()):
        for job in jobs:  # naming one means naming all
            more += ["--encoder", f"{job.column}={small.get(job, ('', ''))[1] or job.encoder}"]
    for job, (_, _, settings, weights) in small.items():
        given = "weights" in json.loads(job.options)
        own = {} if given or not weights else {"weights": place(weights)}
        more += sets(settings | own, job.column)
    return [*more, *sets(SOURCES.get(jobs[0].source, {}), "source")]


def train(wanted: dict[str, Any]) -> list[str]:
    """The recipe of the cache's pipeline at smoke scale."""
    shards = wanted["shards"] or config.read(wanted["files"][0])["shards"]
    pipeline = schema.load_manifest(mirror.local(shards)).pipeline
    return sets(TRAIN.get(pipeline, {}) | {"steps": STEPS, "every.log": 1, "every.save": 1})


def evaluate(wanted: dict[str, Any], place) -> list[str]:
    """The small weights of every feature space that is needed and has none yet; a run's steps."""
    from reed.evaluate.image_metrics import parse_metrics, spaces_of

    places = [wanted["run"] or wanted["samples"][0], *wanted["samples"]]
    if (places[-1] / "config.json").is_file():  # of a run, which designs
        return DESIGN
    features, more = wanted["features"], []
    if (features or "").startswith("timm:"):
        features = f"timm:{WORLD.IMAGES.VISION['convnext']}"
        more += ["--features", features]
    names = parse_metrics(wanted["metrics"] or "fd")
    given = {text.rpartition("=")[0] for text in wanted["weights"]}
    for space in spaces_of(names, features or ""):
        if space in SPACES and space not in given:
            more += ["--weights", f"{space}={place(SPACES[space])}"]
    return more


def reproduction(folder: Path) -> None:
    """What the reproduction of ImageNet is given; a folder that has it is left as it is."""
    if (folder / "settings.json").is_file():
        return
    place, photos = partial(WORLD.place, folder), folder / "photos"
    WORLD.IMAGES.sound_photos(photos, WORLD.PHOTOS)
    WORLD.arrays(folder / "reference.npz", 32)
    words = {
        "build": build(["build", "imagenet", "--data", str(photos)], place),
        "train": sets(smoke.RECIPES["imagenet"] | smoke.EVERY),
        "sample": ["--steps", "4"],
        "evaluate": ["--weights", f"inception={place(SPACES['inception'])}"],
        "num": 12,
    }
    (folder / "settings.json").write_text(json.dumps(words, indent=1))


if __name__ == "__main__":
    reproduction(Path(sys.argv[1]))
