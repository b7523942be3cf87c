"""The words that name a run, by position or with --run, and a checkpoint of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from reed.cli import completion
from reed.cli.common import RUNS

STEP = click.option(
    "--step",
    type=int,
    metavar="N",
    shell_complete=completion.of_run(completion.steps),
    help="Step of the run's checkpoint. Default: the latest.",
)


def naming_run(
    help: str = "The same as RUN.", metavar: str = "RUN"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what adds RUN and --run to a command, as its parameters ``place`` and ``run``."""
    kind: dict[str, Any] = {"type": click.Path(path_type=Path), "shell_complete": RUNS}

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        named = click.option("--run", metavar="DIR", help=help, **kind)(command)
        return click.argument("place", metavar=metavar, required=False, **kind)(named)

    return add
