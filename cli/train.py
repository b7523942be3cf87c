"""reed-train: train a model from a feature cache, export it, report on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reed import config
from reed.build.engines import launched_share
from reed.bytes import is_closed
from reed.cli import completion, typos
from reed.cli.averages import ema_option, reconstruct_average, wanted
from reed.cli.common import CACHES, RUNS, importing, one_line_errors, one_run, sample_command
from reed.cli.report import report_runs
from reed.cli.run_options import STEP, naming_run
from reed.extras import DISTRIBUTION
from reed.train import sweep
from reed.train.request import Request

if TYPE_CHECKING:
    from reed.train import recipe


class _Train(click.Group):
    """A group whose first word may be a run to go on with."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read a first word that is the folder of a run as --run."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            run = Path(args[0])
            if not is_closed(run) and not (run / "config.json").is_file():
                known = ", ".join(sorted(self.commands))
                raise click.UsageError(f"{run} is neither a run (no config.json) nor {known}")
            args = ["--run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Train, invoke_without_command=True)
@click.option(
    "--shards",
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=CACHES,
    help="Cache to train from: its folder, or its URL, such as s3://bucket/imagenet.",
)
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=RUNS,
    help="Folder of the run. Default: runs/CACHE[-VARIANT], after the folder of the cache. Named "
    "alone, also as the first word, a run goes on with its settings.",
)
@click.option(
    "--variant",
    default="",
    metavar="NAME",
    shell_complete=completion.of_run(completion.variants),
    help="Variant of the pipeline's recipe, such as sit or repa.",
)
@click.option(
    "--config",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File of settings (.toml or .json) that override the recipe; may be repeated.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="One setting, such as optim.lr=2e-4; overrides all others; may be repeated.",
)
@click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="NAME=VALUES",
    help="Train a run for each value of a setting, such as optim.lr=1e-4,2e-4 or seed=0..4, or of "
    "the variant; repeated: for all combinations. --run is then the folder of all these runs. "
    "Default: runs/CACHE[-VARIANT]-sweep.",
)
@click.option(
    "--init",
    metavar="FILE",
    help="Initial weights: a public checkpoint of REPA, REED, SiT, DiT, LightningDiT, RiT, "
    "ProteinMPNN or SemlaFlow, or a run.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check and print the configuration and the curriculum, or the runs of a sweep, without "
    "training.",
)
@click.version_option(package_name=DISTRIBUTION, prog_name="reed-train")
@click.pass_context
@one_line_errors
def main(
    context: click.Context,
    shards: Path | None,
    run: Path | None,
    variant: str,
    files: tuple[Path, ...],
    assignments: tuple[str, ...],
    sweeps: tuple[str, ...],
    init: str | None,
    dry_run: bool,
) -> None:
    """Train with the recipe of the cache's pipeline; rerun to resume.

    \b
    Examples:
      reed-train --shards cache/digits
      reed-train --shards cache/digits --variant sit --set steps=400
      reed-train --config runs/digits/config.json --dry-run
      reed-train runs/digits --set steps=2000
      reed-train runs/digits --sweep optim.lr=1e-4,2e-4 --sweep seed=0..4
    """
    if context.invoked_subcommand:
        return
    request = Request(shards, run, variant, files, assignments, init)
    if sweeps:
        _sweep(request, sweeps, dry_run)
        return

    # What is mistyped is told before torch is imported.
    table = request.table()
    typos.check_recipe(table)
    with importing():
        from reed.train import loop, recipe

    settings = config.build(recipe.TrainConfig, table)
    if dry_run:
        _show(settings)
        return

    step = loop.train(settings)
    if launched_share().rank:
        return
    if step < settings.steps:
        click.echo(f"{settings.run}: stopped at step {step} of {settings.steps}; rerun to go on")
    else:
        click.echo(f"{settings.run}: trained; draw samples with: {sample_command(settings.run)}")


def _sweep(request: Request, texts: tuple[str, ...], dry_run: bool) -> None:
    """Train the runs of a sweep, or list them."""
    sweep.refuse_launch()
    planned = sweep.of(request, texts)
    for each in planned.runs:
        typos.check_recipe(each.table)
    with importing():
        from reed.train import sweep_runs

    members = sweep_runs.check(planned)
    if dry_run:
        click.echo("\n".join(sweep_runs.lines(planned, members)))
    else:
        sweep_runs.train(planned, members, click.echo)


def _show(settings: recipe.TrainConfig) -> None:
    """Check and print a configuration.

    Only the configuration goes to stdout, so that it can be used as a file for --config.
    """
    with importing():
        from reed.train import dry_run, loop, recipe, summary

    setup = recipe.check(settings)
    settings = setup.config
    setup.data.check(settings.run)
    for line in loop.untrained(setup)[1] if settings.init else []:
        click.echo(line, err=True)

    # What is aligned, and what the numbers mean over the run and over the times of a sample.
    for line in summary.of_targets(setup):
        click.echo(line, err=True)
    click.echo(f"weights over {settings.steps} steps:", err=True)
    click.echo(dry_run.sketch_weights(setup.schedules, setup.lr, settings.steps), err=True)
    if setup.guides:
        click.echo("share of the samples with z, A(t), from noise to data:", err=True)
        click.echo(dry_run.sketch_guides(setup.guides), err=True)
    click.echo(dry_run.disk(setup), err=True)
    click.echo(json.dumps(config.plain(settings), indent=1))


@main.command("export")
@naming_run()
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write: .pt (the model and its average) or .safetensors (one of them).",
)
@STEP
@ema_option(
    "Average of the weights, by its name in the recipe, such as 0.999. A .pt holds it besides the "
    "last weights, a .safetensors alone. Default: the first."
)
@click.option("--no-ema", is_flag=True, help="Export only the last weights, and no average.")
@one_line_errors
def export_run(
    place: Path | None,
    run: Path | None,
    out: Path,
    step: int | None,
    ema: str | None,
    no_ema: bool,
) -> None:
    """Export a run's weights in the layout of REPA and REED.

    \b
    Example:
      reed-train export runs/digits --out digits.pt
      reed-train export runs/digits --ema 0.999 --out digits.safetensors
    """
    run, average = one_run(place, run, "RUN"), wanted(ema, no_ema)
    from reed.train import export

    step = export.write(run, out, step, average)
    click.echo(f"{out}: step {step} of {run}")
    if line := export.left_out(run):
        click.echo(f"{out}: {line}: {sample_command(run)}")


main.add_command(reconstruct_average)
main.add_command(report_runs)


if __name__ == "__main__":
    main()
