"""A run's weights in the layout of the public REPA and REED checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from reed import config
from reed.cache import files
from reed.domains.base import Published
from reed.errors import ReedError
from reed.train import checkpoint
from reed.train.align import slot
from reed.train.recipe import TrainConfig
from reed.train.run_data import RunData

PICKLES, SAFETENSORS = (".pt", ".pth", ".ckpt"), ".safetensors"
SAID = ("args", "steps")  # what our .safetensors files say in their metadata, as JSON


def layout(net: Mapping[str, Tensor], heads: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The state dict of REPA and REED: the net's keys, and projectors.<i> for each head."""
    numbered = enumerate(heads)
    return dict(net) | {f"projectors.{i}.{k}": v for i, head in numbered for k, v in head.items()}


def run_table(run: Path, step: int | None = None) -> dict[str, Any]:
    """A run's checkpoint as REPA's trainer writes one: model, ema and steps.

    The projectors are in the order of the recipe's targets; as they have no average, those of ema
    are the model's.
    """
    saved = checkpoint.load(run, step, groups=("model", "ema"))
    settings = config.build(TrainConfig, config.read(run / "config.json"))
    net = under("net.", saved.model)
    heads = [under(f"heads.{slot(name)}.", saved.model) for name in settings.align]
    heads = [head for head in heads if head]  # a target that is off has none
    ema = layout(saved.ema, heads)
    return {"model": layout(net, heads), "ema": ema, "steps": saved.step}


def write(run: Path, out: Path, step: int | None = None, ema: bool = True) -> int:
    """Write a run's weights for the public code; returns the step.

    A .pt or .pth holds model, steps, args (what the weights do not show) and, with `ema`, ema; a
    .safetensors only the average, or without `ema` only the model. The file appears whole or not
    at all. Raises ReedError for a run whose domain has no public layout.
    """
    if out.suffix not in (*PICKLES, SAFETENSORS):
        raise ReedError(f"--out {out} must end in .pt, .pth or .safetensors")
    table = run_table(run, step)
    settings = config.build(TrainConfig, config.read(run / "config.json"))
    data = RunData.of_run(run, settings.shards, settings.data)
    domain = data.make_domain(settings.domain)
    if not isinstance(domain, Published):
        raise ReedError(
            f"{run} cannot be exported: nets of {type(domain).__name__} have no public layout; "
            f"start another run from it with reed-train --init {run}"
        )
    table["args"] = domain.published()

    with files.new_file(out) as temp:
        if out.suffix == SAFETENSORS:
            said = {name: json.dumps(table[name]) for name in SAID}
            save_file(table["ema" if ema else "model"], temp, said)
        else:
            torch.save(table if ema else {k: v for k, v in table.items() if k != "ema"}, temp)
        files.sync(temp)
    return table["steps"]


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a state dict whose names begin with a prefix, without it."""
    own = {name: value for name, value in state.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): value for name, value in own.items()}
