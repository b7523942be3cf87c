"""What a run says when it starts, and what it records of the machine that it runs on."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from accelerate import Accelerator

from reed import __version__
from reed.train.align import AlignedNet
from reed.train.curriculum import Schedule
from reed.train.recipe import Setup
from reed.train.targets import Target
from reed.wording import counted

NAME = "environment.jsonl"
LIBRARIES = ("accelerate", "numpy")


def machine(accelerator: Accelerator) -> dict[str, Any]:
    """Return the device, the precision, the number of processes, and the versions."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)

    # What the numbers and the speed of a run depend on besides its recipe.
    return {
        "device": device.type,
        "device_name": name,
        "precision": precision,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "versions": {
            "reed": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # with its build, such as +cu130
            **{library: version(library) for library in LIBRARIES},
        },
    }


def begin(
    setup: Setup, model: AlignedNet, accelerator: Accelerator, step: int, *, progress: bool
) -> None:
    """Print `lines` or, without progress, only what is left out; record the machine."""
    shown = lines(setup, model, accelerator, step) if progress else [setup.data.said]
    for line in filter(None, shown):
        print(line, file=sys.stderr)
    record(setup, accelerator, step)


def record(setup: Setup, accelerator: Accelerator, step: int) -> None:
    """Append a line on the machine to environment.jsonl, with the step that the run starts at.

    A line that only repeats the last one, but for the step, is not written.
    """
    path, found = setup.config.run / NAME, machine(accelerator)
    written = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []

    # Lines only matter where something changed, such as the device or a version.
    if not written or json.loads(written[-1]) != {"step": json.loads(written[-1])["step"], **found}:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **found}) + "\n")


def lines(setup: Setup, model: AlignedNet, accelerator: Accelerator, step: int) -> list[str]:
    """Describe a run in short lines.

    Args:
        setup: The checked recipe.
        model: The net and its heads.
        accelerator: Device, precision and processes.
        step: Step that the run starts at; above 0, it is resumed.
    """
    settings, stream, found = setup.config, setup.stream, machine(accelerator)
    resumed = f", resumed at step {step:,}" if step else ""
    threads = counted(found["threads"], "thread")
    where = found["device_name"] if found["device"] == "cuda" else f"cpu, {threads}"
    if found["processes"] > 1:
        where = f"{found['processes']} x {where}"
    net, heads = (sum(p.numel() for p in part.parameters()) for part in (model.net, model.heads))

    # A batch of tokens holds more or fewer samples.
    epoch = stream.samples / stream.batch
    size = f"{settings.tokens:,} tokens, about {stream.batch:.1f} samples"
    batch = size if settings.tokens else f"{settings.batch:,} samples"
    table = {
        "run": f"{settings.run}, {counted(settings.steps, 'step')}{resumed}",
        "device": f"{where}, {found['precision']}",
        "parameters": f"{net:,} of the net, {heads:,} of heads",
        "samples": f"{stream.samples:,}",
        "batch": f"{batch}; {epoch:.1f} steps per epoch",
    }
    said = [f"{name.ljust(10)}  {text}" for name, text in table.items()]
    said += [setup.data.said] if setup.data.said else []
    return said + of_targets(setup) + _of_guides(setup)


def progress(line: Mapping[str, Any], losses: tuple[str, ...]) -> str:
    """Return what the bar shows of a line of the log: the losses of the domain, the cosines."""
    shown = {name: line[name] for name in losses if name in line}
    shown |= {name: value for name, value in line.items() if name.startswith(("cos/", "gram/"))}
    return ", ".join(f"{name} {value:.3f}" for name, value in shown.items())


def of_targets(setup: Setup) -> list[str]:
    """Return a line on each alignment target."""
    lines = []
    for name, target in setup.targets.items():
        parts = [f"weight {_over(setup.schedules[name], setup.config.steps)}", *_set(target)]
        if (release := setup.releases.get(name)) is not None:
            when = f"at step {release.at:,}" if release.at else f"on a plateau ({release.below:g})"
            parts.append(f"released {when}")
        where = f"{target.config.target} at tap {target.config.tap}"
        lines.append(f"align       {name}: {where}, {', '.join(parts)}")
    return lines


def _set(target: Target) -> list[str]:
    """Return what is set of a target besides its tap and its weight."""
    config = target.config
    parts = {
        "probe": config.probe,
        f"{config.head} head": config.head != "mlp",
        f"{config.resize} {target.resized_from}x{target.resized_from} to "
        f"{target.grid}x{target.grid}": target.resized_from,
        f"spatial norm {config.normalize.gamma:g}": config.normalize.kind != "none",
        f"{config.loss} loss": config.loss != "cosine",
        "token weights": config.token_weight,
    }
    return [text for text, is_set in parts.items() if is_set]


def _of_guides(setup: Setup) -> list[str]:
    """Return a line on each guide."""
    return [
        f"guide       {name}: {guide.config.target}, when {guide.config.when}, read "
        f"{guide.config.read}, enter {guide.config.enter}"
        for name, guide in setup.guides.items()
    ]


def _over(schedule: Schedule, steps: int) -> str:
    """Return the weight at the beginning and at the end, or once if it is the same."""
    first, last = (f"{schedule(step):.4g}" for step in (0, steps))
    return first if first == last else f"{first} to {last}"
