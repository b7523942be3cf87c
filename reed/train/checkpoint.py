"""Checkpoints of a run: safetensors and JSON in a folder that appears whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reed.cache.files import sync
from reed.errors import ReedError
from reed.weights import fill

_NAME = re.compile(r"step-(\d{7,})")
_GROUPS = ("model", "ema", "optim")


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run continues from.

    step: optimizer steps done; model: net and heads; ema: the net's average; optim: per
    parameter "state/parameter"; extra: small plain values.
    """

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optim: dict[str, Tensor]
    extra: dict[str, Any]


def save(run: Path, checkpoint: Checkpoint) -> Path:
    """Write run/step-0001000 under a temp name, sync it, rename it into place."""
    final = run / f"step-{checkpoint.step:07d}"
    temp = run / f".{final.name}.{os.getpid()}.tmp"
    _sweep(run)
    temp.mkdir(parents=True)
    for group in _GROUPS:
        tensors = {k: v.detach().contiguous().cpu() for k, v in getattr(checkpoint, group).items()}
        save_file(tensors, temp / f"{group}.safetensors")
    state = {"step": checkpoint.step, "extra": checkpoint.extra}
    (temp / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    for file in temp.iterdir():
        sync(file)
    sync(temp)
    if final.exists():
        shutil.rmtree(final)
    os.replace(temp, final)
    sync(run)
    return final


def steps(run: Path) -> list[int]:
    """The steps that the run has checkpoints of, in order."""
    names = (path.name for path in run.glob("step-*"))
    return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)


def load(run: Path, step: int | None = None, groups: tuple[str, ...] = _GROUPS) -> Checkpoint:
    """The checkpoint of `step`, by default the latest; groups that are not asked for stay empty.

    Raises ReedError naming the steps there are, or the folder whose files are damaged.
    """
    known = steps(run)
    if not known:
        raise ReedError(f"{run} has no checkpoint yet; train it with reed-train")
    step = known[-1] if step is None else step
    if step not in known:
        raise ReedError(f"{run} has no checkpoint of step {step}; it has {_some(known)}")
    folder = run / f"step-{step:07d}"
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = {
            group: load_file(folder / f"{group}.safetensors") if group in groups else {}
            for group in _GROUPS
        }
    except (OSError, ValueError, SafetensorError) as error:
        raise ReedError(f"{folder} cannot be read: {error}; remove it to use another") from error
    return Checkpoint(state["step"], **tensors, extra=state["extra"])


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict:
    """The optimizer's state as "state/parameter" -> tensor; names: id(parameter) -> name."""
    return {
        f"{key}/{names[id(parameter)]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor]
) -> None:
    """Put saved state back, parameter by parameter; ReedError for a parameter that is not there."""
    for place, value in saved.items():
        key, _, name = place.partition("/")
        if name not in parameters:
            raise ReedError(f"the checkpoint has optimizer state of {name!r}, which this net lacks")
        parameter = parameters[name]
        # AdamW keeps its step counter on the CPU unless it is fused
        on = parameter.device if value.ndim or _is_fused(optimizer) else "cpu"
        optimizer.state[parameter][key] = value.to(on)


def load_strict(module: torch.nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """load_state_dict that must match name for name; ReedError lists what does not."""
    fill(module, state, what)


def _is_fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.param_groups[0].get("fused"))


def _sweep(run: Path) -> None:
    for stale in run.glob(".step-*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)


def _some(known: list[int]) -> str:
    shown = [str(step) for step in known]
    return ", ".join(shown) if len(shown) <= 8 else f"{', '.join(shown[:4])} … {shown[-1]}"
