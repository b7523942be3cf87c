"""The options that choose among the averages of a run's weights."""

from __future__ import annotations

from pathlib import Path

import click

from reed import config
from reed.cli import completion

NO_EMA = click.option("--no-ema", is_flag=True, help="Use the last weights, not an average.")


def ema_option(help: str, *, several: bool = False) -> object:
    """Return the option --ema NAME, whose value may be left out unless it can be repeated."""
    optional = {"multiple": True} if several else {"is_flag": False, "flag_value": ""}
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
    settings = config.build(TrainConfig, config.read(run / "config.json"))
    return [*averages.stored(folder, settings.averages())]
