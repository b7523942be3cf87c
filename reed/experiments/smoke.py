"""The smallest scale at which every step still runs, for SCALE=smoke and for tests of the docs.

It has a net of a few channels and a few steps; its numbers mean nothing.
"""

from __future__ import annotations

from typing import Any

from reed.experiments.command import sets
from reed.experiments.reproduce import Words

STEPS = 4
EVERY = {"steps": STEPS, "every.log": 2}
SEMLA = "{width=16, layers=5, heads=2, sets=4, message=8, hidden=8, edge=8, size_emb=4}"

# Pipeline -> settings that make its recipe small, for any targets.
RECIPES: dict[str, dict[str, Any]] = {
    "imagenet": {
        "every.save": 2,
        "preview.every": 0,
        "batch": 8,
        "precision": "fp32",
        "domain.size": '""',
        "domain.net_settings.hidden_size": 32,
        "domain.net_settings.depth": 3,
        "domain.net_settings.num_heads": 2,
        "align.dinov2-b.tap": 1,
        "align.dinov2-b.hidden": 16,
        "align.qwen2-vl-7b.tap": 2,
        "align.qwen2-vl-7b.hidden": 16,
    },
    "pdb": {"tokens": 400, "domain.net_settings": "{hidden=16, neighbours=8}"},
    "geom": {"tokens": 400, "domain.net_settings": SEMLA},
}

# Generated data that replace the real ones, and the settings that a recipe needs to train on them.
PDB = Words(
    build=("--source", "proteins-toy", *sets({"source.samples": 16})),
    train=(*sets(RECIPES["pdb"] | EVERY | {"one_per": "", "curriculum.esm2-650m": 0.0}),),
    evaluate=("--steps", "10"),
)
GEOM = Words(
    build=(
        *("--source", "molecules-toy", "--codec", "rdkit3d/sample=pca:8"),
        *sets({"source.samples": 16}),
    ),
    train=(*sets(RECIPES["geom"] | EVERY | {"optim.schedule": 1.0}),),
    sample=("--steps", "2"),
    num=5,
)
