"""Export of a run's weights in the layout of the public REPA and REED checkpoints."""

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
from reed.guides.when import NEVER
from reed.nets import later_public
from reed.state_dict import slot
from reed.train import averages, checkpoint
from reed.train.recipe import TrainConfig
from reed.train.run_data import RunData

PICKLES, SAFETENSORS = (".pt", ".pth", ".ckpt"), ".safetensors"
WRITTEN = (".pt", ".pth", SAFETENSORS)  # .ckpt is Lightning's, which has another layout
SAID = ("args", "steps")  # metadata of the .safetensors files that we write, as JSON


def layout(net: Mapping[str, Tensor], heads: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return a state dict of REPA's and REED's layout: the net's keys, and projectors.<i>.

    Args:
        net: State dict of the net.
        heads: State dict of each head, in the order of the recipe's targets.
    """
    numbered = enumerate(heads)
    return dict(net) | {f"projectors.{i}.{k}": v for i, head in numbered for k, v in head.items()}


def run_table(
    run: Path, step: int | None = None, guides: bool = False, average: str = ""
) -> dict[str, Any]:
    """Return a run's checkpoint as REPA's trainer writes one: model, ema and steps.

    The projectors are in the order of the recipe's targets. They are not averaged, so ema gets
    those of the model.

    Args:
        run: Folder of the run.
        step: Step of the checkpoint; by default the latest.
        guides: Whether to keep the modules of guides, which have no place in that layout.
        average: Name of the average; empty for the first.
    """
    checkpoint.find(run, step)
    settings = TrainConfig.of_run(run)
    saved, _ = averages.load(run, step, settings.averages(), average, groups=("model",))
    chosen = dict if guides else without_guides
    net = chosen(under("net.", saved.model))
    heads = [under(f"heads.{slot(name)}.", saved.model) for name in settings.align]
    heads = [head for head in heads if head]  # a target whose weight is always 0 has no head
    ema = layout(chosen(saved.ema), heads)
    return {"model": layout(net, heads), "ema": ema, "steps": saved.step}


def write(run: Path, out: Path, step: int | None = None, ema: bool | str = True) -> int:
    """Write a run's weights for the public code, and return their step.

    A .pt or .pth file holds model, steps, args (fields, and settings that the weights do not show)
    and, with `ema`, ema. A .safetensors file holds the average alone or, without `ema`, the model
    alone. The file appears whole or not at all.

    Args:
        run: Folder of the run.
        out: File to write.
        step: Step of the checkpoint; by default the latest.
        ema: Whether to write the averaged weights, the first ones; a name for those of that name.

    Raises:
        ReedError: The file name has another ending, the run's domain has no public layout, or the
            run has no such checkpoint or average.
    """
    if out.suffix not in WRITTEN:
        known = " or ".join((", ".join(WRITTEN[:-1]), WRITTEN[-1]))
        raise ReedError(f"--out {out} must end in {known}, not in {out.suffix or 'nothing'!r}")
    table = run_table(run, step, average=ema if isinstance(ema, str) else "")
    settings = TrainConfig.of_run(run)
    data = RunData.of_run(run, settings.shards, settings.data)
    domain = data.make_domain(settings.domain)
    if not isinstance(domain, Published):
        raise ReedError(
            f"{run} cannot be exported: nets of {type(domain).__name__} have no public layout; "
            f"start another run from it with reed-train --init {run}"
        )
    table["args"] = said = domain.published() | {"fields": config.plain(data.fields)}
    groups = ("model", "ema") if ema else ("model",)
    if later := said.get("layout", ""):  # projectors have no place there
        for group in groups:
            state = {k: v for k, v in table[group].items() if not k.startswith("projectors.")}
            shape = (said["num_heads"], said["mlp_ratio"])
            table[group] = later_public.theirs(state, later, *shape)

    with files.new_file(out) as temp:
        # safetensors allows no nesting, so its file holds one state dict and the rest as metadata.
        if out.suffix == SAFETENSORS:
            metadata = {name: json.dumps(table[name]) for name in SAID}
            save_file(table[groups[-1]], temp, metadata)
        else:
            kept = {k: v for k, v in table.items() if k != "ema" or ema}
            torch.save(later_public.file_of(kept, later) if later else kept, temp)
        files.sync(temp)
    return table["steps"]


def left_out(run: Path) -> str | None:
    """Return one line about what the public layout cannot hold of a run; None if it holds all."""
    settings = TrainConfig.of_run(run)
    names = [name for name, guide in settings.guide.items() if guide.when != NEVER]
    if not names:
        return None
    return (
        f"the public layout has no place for guides, so {', '.join(names)} "
        f"{'is' if len(names) == 1 else 'are'} left out; the net was trained with what enters "
        "there, so draw samples from the run itself"
    )


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of a state dict whose names begin with a prefix, and remove the prefix."""
    entries = {name: value for name, value in state.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): value for name, value in entries.items()}


def without_guides(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a net without the modules of its guides."""
    return {name: value for name, value in state.items() if not name.startswith("guides.")}
