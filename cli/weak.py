"""Options of a weak run, which guides a net in sampling (AutoGuidance)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from reed.cli.common import RUNS


def weak_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    step = click.option(
        "--weak-step",
        type=int,
        metavar="N",
        help="Step of the weak run's checkpoint. Default: the latest.",
    )
    run = click.option(
        "--weak-run",
        type=click.Path(path_type=Path),
        metavar="DIR",
        shell_complete=RUNS,
        help="Guide by this weaker run in place of dropped labels (AutoGuidance), with the scale "
        "--guidance. It may be the same run, at an earlier step.",
    )
    return run(step(command))


def with_weak(sampler: Any, ema: Any, requested: Mapping[str, Any]) -> Any:
    """Return the sampler, guided by the weak run if one is named.

    Raises:
        click.UsageError: A step is given without a run.
    """
    run, step = requested["weak_run"], requested["weak_step"]
    if run is None:
        if step is not None:
            raise click.UsageError("--weak-step belongs to --weak-run")
        return sampler

    # Imported here, because they import torch.
    from reed.sample.sampler import Sampler
    from reed.sample.weak import guided_by

    device = str(next(sampler.net.parameters()).device)
    weak = Sampler.of_run(run, step, device, ema=bool(ema), precision=sampler.precision)
    return guided_by(sampler, weak)
