"""The options that choose among the averages of a run's weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from reed.cli import completion
from reed.cli.common import one_line_errors, one_run, sample_command
from reed.cli.run_options import STEP, naming_run

NO_EMA = click.option("--no-ema", is_flag=True, help="Use the last weights, not an average.")


def ema_option(help: str, *, several: bool = False) -> Callable[[Any], Any]:
    """Return the option --ema NAME, whose value may be left out unless it can be repeated."""
    optional: dict[str, Any] = {"is_flag": False, "flag_value": ""}
    optional = {"multiple": True} if several else optional
    return click.option(
        "--ema",
        default=() if several else None,
        metavar="NAME",
        shell_complete=completion.of_run(completion.averages),
        help=help,
        **optional,
    )


def wanted(ema: str | None, no_ema: bool) -> bool | str:
    """Return what was asked for: False for the last weights, True for the first average, a name."""
    if no_ema and ema is not None:
        raise click.UsageError(
            f"--no-ema takes the last weights and --ema {ema} an average".replace("  ", " ")
            + "; give one of them"
        )
    return not no_ema and (ema or True)


def names(run: Path, step: int | None, ema: tuple[str, ...]) -> list[bool | str]:
    """Return averages of a run's checkpoint; all of them in place of "all".

    Args:
        run: Folder of the run.
        step: Step of the checkpoint; None for the latest.
        ema: Names that were given; none for the first average.
    """
    from reed.train import averages, checkpoint
    from reed.train.recipe import TrainConfig

    if averages.ALL not in ema:
        return [*ema] or [True]
    folder = checkpoint.find(run, step)[1]
    settings = TrainConfig.of_run(run)
    return [*averages.stored(folder, settings.averages())]


@click.command("average")
@naming_run()
@click.option(
    "--sigma-rel",
    type=float,
    required=True,
    metavar="WIDTH",
    help="Width of the average as a share of the run, above 0 and at most 0.2887.",
)
@STEP
@one_line_errors
def reconstruct_average(
    place: Path | None, run: Path | None, sigma_rel: float, step: int | None
) -> None:
    """Reconstruct a power-function average of any width.

    It is made of the snapshots of a run with two such averages, and written into the checkpoint.

    \b
    Example:
      reed-train average runs/imagenet --sigma-rel 0.07
    """
    run = one_run(place, run, "RUN")
    from reed.train.reconstruct import reconstruct

    made = reconstruct(run, sigma_rel, step)
    click.echo(
        f"{made.file}: from snapshots of {len(made.steps)} steps, {made.steps[0]:,} to "
        f"{made.steps[-1]:,}; error of the profile {made.error:.2%}"
    )
    click.echo(f"draw samples with: {sample_command(run)} --ema {made.name}")
