"""Reconstruction of a power-function average of any width from snapshots of two others.

The profile of an average is the weight that it gives to the net of each earlier step. A weighted
sum of snapshots has the weighted sum of their profiles, and its weights are the least-squares fit
of that sum to the wanted profile. Source: EDM2 (arXiv 2312.02696), section 3.2 and appendix C.
Theirs may sum to a little more or less than 1; ours sum to 1, so that what never changes in
training is what it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reed.bytes import check_readable
from reed.cache import files
from reed.errors import ReedError
from reed.train import checkpoint
from reed.train.averages import SIGMA_REL, Average, parsed, snapshots, stored
from reed.train.ema import gamma_of
from reed.train.recipe import TrainConfig

WORST = 0.05  # largest error of a profile that is allowed, as a share of its norm
_RIDGE = 1e-12  # keeps nearly equal profiles apart from the rounding of float64


@dataclass(frozen=True)
class Snapshot:
    """A power-function average as it was at a step.

    Attributes:
        step: The step.
        sigma_rel: Its width.
        file: Its weights.
    """

    step: int
    sigma_rel: float
    file: Path


@dataclass(frozen=True)
class Made:
    """A reconstructed average.

    Attributes:
        name: Its name, for `reed-sample --ema`.
        file: Its file, in the folder of the checkpoint.
        steps: Steps of the snapshots.
        error: Norm of the difference between its profile and the wanted one, as a share of the norm
            of that.
    """

    name: str
    file: Path
    steps: list[int]
    error: float


def fit(steps: Sequence[int], widths: Sequence[float], step: int, width: float) -> np.ndarray:
    """Return the weight of each snapshot, in float64; the weights sum to 1.

    Args:
        steps: Step of each snapshot.
        widths: sigma_rel of each snapshot.
        step: Step of the wanted average.
        width: sigma_rel of the wanted average.
    """
    times, gammas = _profiles(steps, widths, step)
    products = _product(times[:, None], gammas[:, None], times, gammas)
    wanted = _product(times, gammas, np.array(1.0), np.array(gamma_of(width)))

    # The last row and column belong to the Lagrange multiplier of the sum.
    count = len(times)
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = products + _RIDGE * np.diag(np.diag(products))
    system[count, count] = 0
    return np.linalg.solve(system, np.append(wanted, 1))[:count]


def error_of(
    weights: np.ndarray, steps: Sequence[int], widths: Sequence[float], step: int, width: float
) -> float:
    """Return the error of the profile that weighted snapshots have; see `Made` and `fit`."""
    times, gammas = _profiles(steps, widths, step)
    one, gamma = np.array(1.0), np.array(gamma_of(width))
    norm = float(_product(one, gamma, one, gamma))
    inside = weights @ _product(times[:, None], gammas[:, None], times, gammas) @ weights
    across = weights @ _product(times, gammas, one, gamma)
    return float(np.sqrt(max(0.0, (inside - 2 * across + norm) / norm)))


def reconstruct(run: Path, sigma_rel: float, step: int | None = None) -> Made:
    """Write the average of a width into a checkpoint, from the snapshots of a run.

    Args:
        run: Folder of the run.
        sigma_rel: Relative width of the average.
        step: Step of the checkpoint; None for the latest.

    Raises:
        ReedError: The width is out of range or already there, the run has fewer than two
            power-function averages, or its snapshots are too few for this width.
    """
    # What is tracked need not be reconstructed, and is what others are reconstructed from.
    step, folder = checkpoint.find(run, step)
    settings = TrainConfig.of_run(run)
    own = settings.averages()
    wanted = parsed(f"{SIGMA_REL}{sigma_rel}", "--sigma-rel")
    tracked = {name: average for name, average in own.items() if average.sigma_rel}
    if wanted.name in tracked:
        raise ReedError(
            f"{run} has the average {wanted.name} already; draw samples with --ema {wanted.name}"
        )
    if len(tracked) < 2:
        raise ReedError(
            f"{run} has the averages {', '.join(own)}, and a width is reconstructed from two of "
            f'the form {SIGMA_REL}WIDTH; train with ema = ["sigma_rel=0.05", "sigma_rel=0.1"]'
        )

    # The error follows from the steps alone, so the weights are read only if it is small.
    found = _found(run, step, tracked, next(iter(own)), settings.every.average)
    step = max(each.step for each in found)
    steps, widths = [each.step for each in found], [each.sigma_rel for each in found]
    weights = fit(steps, widths, step, sigma_rel)
    error = error_of(weights, steps, widths, step, sigma_rel)
    taken = sorted(set(steps))
    if error > WORST:
        raise ReedError(
            f"{run} has {len(found)} snapshots up to step {step}, which give sigma_rel {sigma_rel} "
            f"with an error of {error:.1%}, at most {WORST:.0%} is allowed; choose a width nearer "
            f"to {' and '.join(str(each.sigma_rel) for each in tracked.values())}, or train with "
            "a smaller every.snapshot"
        )

    tensors = _combined([each.file for each in found], weights.tolist())
    about = {"steps": taken, "sigma_rel": sorted(set(widths)), "error": error}
    file = folder / f"{checkpoint.average_group(wanted.name)}.safetensors"
    with files.new_file(file) as temp:
        save_file(tensors, temp, {"reconstructed": json.dumps(about)})
        files.sync(temp)
    return Made(wanted.name, file, taken, error)


def _found(
    run: Path, step: int, tracked: dict[str, Average], first: str, every: int
) -> list[Snapshot]:
    """Return the snapshots up to a step, also those in checkpoints, each once.

    The step of a snapshot is that of the last update of the averages, which are `every` steps
    apart.
    """
    found: dict[tuple[int, str], Path] = {}
    for at, folder in snapshots(run).items():
        for name in tracked:
            found[at, name] = folder / f"{checkpoint.average_group(name)}.safetensors"
    for at in checkpoint.steps(run):
        held = stored(checkpoint.find(run, at)[1], [first, *tracked])
        if updated := at - at % every:
            found |= {(updated, name): held[name] for name in tracked if name in held}
    return [
        Snapshot(at, tracked[name].sigma_rel, found[at, name])
        for at, name in sorted(found)
        if at <= step
    ]


def _combined(paths: Sequence[Path], weights: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted sum of the tensors in files, one tensor at a time."""
    sums: dict[str, Tensor] = {}
    with ExitStack() as stack:
        opened = [stack.enter_context(_opened(path)) for path in paths]

        # Tensor by tensor, because all snapshots at once may not fit into memory.
        for name in opened[-1].keys():
            values = [file.get_tensor(name) for file in opened]
            # What is the same in all of them, such as a frozen table, stays as it is; what cannot
            # be averaged is that of the last.
            is_float = values[0].is_floating_point()
            if not is_float or all(torch.equal(value, values[0]) for value in values):
                sums[name] = values[-1]
                continue
            total = torch.zeros_like(values[0], dtype=torch.float64)
            for value, weight in zip(values, weights, strict=True):
                total.add_(value, alpha=weight)
            sums[name] = total.to(values[0].dtype)
    return sums


def _opened(path: Path) -> Any:
    """Open a file of weights; ReedError names its folder if that is impossible."""
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        check_readable(path)
        raise ReedError(f"{path} cannot be read: {error}; remove {path.parent}") from error


def _profiles(
    steps: Sequence[int], widths: Sequence[float], step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return times, as shares of the wanted step, and exponents of snapshots."""
    known = {width: gamma_of(width) for width in set(widths)}
    return np.array(steps, float) / step, np.array([known[width] for width in widths])


def _product(
    time: np.ndarray, gamma: np.ndarray, other_time: np.ndarray, other_gamma: np.ndarray
) -> np.ndarray:
    """Return the inner product of two profiles, (gamma + 1) tau^gamma / time^(gamma + 1).

    A profile ends at its time. Source: EDM2, appendix C, equation 129 and the listing after it.
    """
    earlier, later = np.minimum(time, other_time), np.maximum(time, other_time)
    power = np.where(time < other_time, other_gamma, gamma)  # of the profile that ends later
    scale = (gamma + 1) * (other_gamma + 1) / (gamma + other_gamma + 1)
    return scale * (earlier / later) ** power / later
