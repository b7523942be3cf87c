"""The averages of a run's weights: their names, their decays, and where checkpoints hold them.

A run has one average or several. The first is the file ema.safetensors of a checkpoint, and is
meant where none is named; each other one is ema.NAME.safetensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file
from torch import nn

from reed.cache import files
from reed.errors import ReedError
from reed.train import checkpoint
from reed.train.checkpoint import Checkpoint
from reed.train.ema import Decay, Ema, constant_decay, power_decay

if TYPE_CHECKING:
    from reed.train.settings import TrainConfig

SIGMA_REL = "sigma_rel="  # what the name of a power-function average begins with
ALL = "all"  # stands for every average of a run
SNAPSHOTS = "snapshots"  # folder of a run


@dataclass(frozen=True)
class Average:
    """One average of the weights.

    Attributes:
        name: The decay, such as "0.9999", or "sigma_rel=0.05".
        decay: Decay as a function of the step.
        sigma_rel: Relative width of a power-function average; 0 if the decay is constant.
    """

    name: str
    decay: Decay
    sigma_rel: float = 0.0


def parsed(entry: float | str, where: str = "ema") -> Average:
    """Return the average that a number, or a text such as "0.999" or "sigma_rel=0.05", names.

    Raises:
        ReedError: It names none, or its number is out of range; the message begins with `where`.
    """
    text = str(entry).strip()
    is_power = text.startswith(SIGMA_REL)
    try:
        value = float(text.removeprefix(SIGMA_REL))
    except ValueError:
        raise ReedError(
            f"{where}: {entry!r} is no average; give a decay such as 0.999, or a width such as "
            f'"{SIGMA_REL}0.05"'
        ) from None

    # The number is written in one way, so that 0.10 and 0.1 are one average.
    if is_power:
        return Average(f"{SIGMA_REL}{value}", power_decay(value), value)
    return Average(str(value), constant_decay(value))


def of_settings(
    entries: Iterable[float | str], decay: float, sigma_rel: float
) -> dict[str, Average]:
    """Return the averages of a recipe by name: its `ema` or, if that is empty, the one average.

    Args:
        entries: `ema` of the recipe.
        decay: `ema_decay`.
        sigma_rel: `ema_sigma_rel`.

    Raises:
        ReedError: An average is named twice, a number is out of range, or `ema_sigma_rel` is given
            besides `ema`.
    """
    entries = tuple(entries)
    if not entries:
        one = parsed(f"{SIGMA_REL}{sigma_rel}" if sigma_rel else decay)
        return {one.name: one}
    if sigma_rel:
        raise ReedError(
            f"ema is {list(entries)} and ema_sigma_rel is {sigma_rel}, which ema replaces; add "
            f'"{SIGMA_REL}{sigma_rel}" to ema and leave out ema_sigma_rel'
        )

    # Names are compared, because 0.10 and 0.1 are one average.
    found: dict[str, Average] = {}
    for entry in entries:
        average = parsed(entry)
        if average.name in found:
            raise ReedError(f"ema is {list(entries)}, which has {average.name} twice; remove one")
        found[average.name] = average
    return found


def stored(folder: Path, averages: Iterable[str]) -> dict[str, Path]:
    """Return the averages that a checkpoint holds: name -> file, the first one first.

    Args:
        folder: Folder of the checkpoint.
        averages: Names of those of the run's recipe. Others may have been reconstructed.
    """
    first, *others = dict.fromkeys(averages)
    prefix, ending = checkpoint.average_group(""), ".safetensors"
    paths = {p.name[len(prefix) : -len(ending)]: p for p in folder.glob(f"{prefix}*{ending}")}
    order = [*(name for name in others if name in paths), *sorted(paths.keys() - {*others})]
    return {first: folder / f"ema{ending}"} | {name: paths[name] for name in order}


@dataclass(frozen=True)
class Chosen:
    """An average in a checkpoint.

    Attributes:
        name: Its name.
        file: Its file.
        is_first: Whether it is the one that is meant where none is named.
    """

    name: str
    file: Path
    is_first: bool


def chosen(
    run: Path, step: int | None, averages: Mapping[str, Average], wanted: str = ""
) -> Chosen:
    """Find an average of a run's checkpoint.

    Args:
        run: Folder of the run.
        step: Step of the checkpoint; None for the latest.
        averages: Averages of the run's recipe.
        wanted: Name of the average; empty for the first.

    Raises:
        ReedError: The run has no such checkpoint, or that has no such average.
    """
    step, folder = checkpoint.find(run, step)
    found = stored(folder, averages)
    first = next(iter(found))
    name = parsed(wanted, "--ema").name if wanted else first
    if name not in found:
        width = name.removeprefix(SIGMA_REL)
        made = f", or make it with reed-train average {run} --sigma-rel {width}"
        raise ReedError(
            f"{folder} has no average {name}; it has {', '.join(found)}: choose one of them"
            + (made if name != width else "")
        )
    return Chosen(name, found[name], name == first)


def load(
    run: Path,
    step: int | None,
    averages: Mapping[str, Average],
    wanted: str = "",
    groups: tuple[str, ...] = (),
) -> tuple[Checkpoint, Chosen]:
    """Read a checkpoint whose `ema` is the average of a name; see `chosen`.

    Args:
        run: See `chosen`.
        step: See `chosen`.
        averages: See `chosen`.
        wanted: See `chosen`.
        groups: Other state dicts to read, of "model" and "optim".
    """
    average = chosen(run, step, averages, wanted)
    if average.is_first:
        return checkpoint.load(run, step, (*groups, "ema")), average
    saved = checkpoint.load(run, step, groups, averages=(average.name,))
    return replace(saved, ema=saved.averages[average.name], averages={}), average


def of_net(net: nn.Module, settings: TrainConfig) -> Ema:
    """Return the averages of a net that its recipe asks for."""
    first, *others = settings.averages().values()
    decays = {each.name: each.decay for each in others}
    return Ema(net, first.decay, decays, every=settings.every.average)


def snapshot(settings: TrainConfig, step: int, ema: Ema) -> None:
    """Write the power-function averages of a step, whole or not at all, for a reconstruction.

    Args:
        settings: Settings of the run.
        step: Optimizer steps done.
        ema: The averages.
    """
    states = [ema.state_dict(), *ema.others().values()]
    with files.new_folder(settings.run / SNAPSHOTS / f"step-{step:07d}") as temp:
        for average, state in zip(settings.averages().values(), states, strict=True):
            if average.sigma_rel:
                tensors = {name: value.detach().contiguous().cpu() for name, value in state.items()}
                group = checkpoint.average_group(average.name)
                save_file(tensors, temp / f"{group}.safetensors")


def snapshots(run: Path) -> dict[int, Path]:
    """Return the folders of a run's snapshots by step, in order."""
    folder = run / SNAPSHOTS
    return {step: folder / f"step-{step:07d}" for step in checkpoint.steps(folder)}
