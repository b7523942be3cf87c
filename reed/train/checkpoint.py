"""Checkpoints of a run: folders of safetensors and JSON that appear whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reed.bytes import check_readable
from reed.cache import files
from reed.errors import ReedError
from reed.state_dict import fill

_NAME = re.compile(r"step-(\d{7,})")
_GROUPS = ("model", "ema", "optim")


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run continues from.

    Attributes:
        step: Optimizer steps done.
        model: State dict of the net and its heads.
        ema: Averaged state dict of the net.
        optim: State of the optimizer, by "state/parameter".
        extra: Small values that fit in JSON.
        averages: Further averaged state dicts by name (see reed.train.averages).
    """

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optim: dict[str, Tensor]
    extra: dict[str, Any]
    averages: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def save(run: Path, checkpoint: Checkpoint) -> Path:
    """Write run/step-0001000, whole or not at all, and return its path."""
    final = run / f"step-{checkpoint.step:07d}"
    # A run has one writer at a time, so a temporary folder is left over from a killed process.
    for stale in run.glob(".step-*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)

    with files.new_folder(final) as temp:
        groups = {group: getattr(checkpoint, group) for group in _GROUPS}
        groups |= {average_group(name): state for name, state in checkpoint.averages.items()}
        for group, state in groups.items():
            tensors = {name: value.detach().contiguous().cpu() for name, value in state.items()}
            save_file(tensors, temp / f"{group}.safetensors")
        state = {"step": checkpoint.step, "extra": checkpoint.extra}
        (temp / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    return final


def prune(run: Path, keep: int, interval: int) -> None:
    """Remove checkpoints, of which a run keeps the latest and one per interval.

    Args:
        run: Folder of the run.
        keep: Number of the latest checkpoints to keep; 0 keeps all.
        interval: Checkpoints of multiples of this step are kept, too; 0 for none.
    """
    for step in steps(run)[:-keep] if keep else ():
        if interval and step % interval == 0:
            continue
        # A renamed folder is no checkpoint, so that a killed process leaves none that lacks files.
        folder = run / f"step-{step:07d}"
        removed = folder.with_name(f".{folder.name}.tmp")
        folder.rename(removed)
        shutil.rmtree(removed)


def steps(run: Path) -> list[int]:
    """Return the steps of the run's checkpoints, in order."""
    names = (path.name for path in run.glob("step-*"))
    return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)


def average_group(name: str) -> str:
    """Return the name, without its ending, of the file of a further average."""
    return f"ema.{name}"


def find(run: Path, step: int | None = None) -> tuple[int, Path]:
    """Return the step and the folder of a checkpoint, by default of the latest; see `load`."""
    known = steps(run)
    if not known:
        raise ReedError(f"{run} has no checkpoint yet; train it with reed-train")
    step = known[-1] if step is None else step
    if step not in known:
        raise ReedError(f"{run} has no checkpoint of step {step}; it has {_listed(known)}")
    return step, run / f"step-{step:07d}"


def load(
    run: Path,
    step: int | None = None,
    groups: tuple[str, ...] = _GROUPS,
    averages: Iterable[str] = (),
) -> Checkpoint:
    """Read a checkpoint.

    Args:
        run: Folder of the run.
        step: Step of the checkpoint; by default the latest.
        groups: State dicts to read, of "model", "ema" and "optim"; the others stay empty.
        averages: Names of the further averages to read.

    Raises:
        ReedError: The run has no such checkpoint, or its files are damaged.
    """
    step, folder = find(run, step)

    # A damaged file is reported with its folder: without the folder, an older checkpoint is used.
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = {
            group: load_file(folder / f"{group}.safetensors") if group in groups else {}
            for group in _GROUPS
        }
        more = {name: load_file(folder / f"{average_group(name)}.safetensors") for name in averages}
    except (OSError, ValueError, SafetensorError) as error:
        for file in folder.iterdir():
            check_readable(file)
        raise ReedError(f"{folder} cannot be read: {error}; remove it to use another") from error
    return Checkpoint(state["step"], **tensors, extra=state["extra"], averages=more)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict:
    """Return the optimizer's state as "state/parameter" -> tensor.

    Args:
        optimizer: The optimizer.
        names: id(parameter) -> name of the parameter.
    """
    return {
        f"{key}/{names[id(parameter)]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor]
) -> None:
    """Put saved state back into an optimizer.

    Args:
        optimizer: The optimizer.
        parameters: Parameters by name.
        saved: State as `optimizer_tensors` returned it.

    Raises:
        ReedError: The state is of a parameter that the net lacks.
    """
    for path, value in saved.items():
        key, _, name = path.partition("/")
        if name not in parameters:
            raise ReedError(f"the checkpoint has optimizer state of {name!r}, which this net lacks")
        parameter = parameters[name]
        # AdamW keeps its step counter on the CPU unless it is fused
        device = parameter.device if value.ndim or _is_fused(optimizer) else "cpu"
        optimizer.state[parameter][key] = value.to(device)


def load_strict(module: torch.nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict that must match name for name and shape for shape.

    Raises:
        ReedError: Names or shapes differ; the message begins with `what` and lists them.
    """
    fill(module, state, what)


def _is_fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.param_groups[0].get("fused"))


def _listed(known: list[int]) -> str:
    """Return the steps as text, shortened if there are many."""
    shown = [str(step) for step in known]
    return ", ".join(shown) if len(shown) <= 8 else f"{', '.join(shown[:4])} … {shown[-1]}"
