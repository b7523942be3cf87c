"""reed-train: train a model from a feature cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from reed import config, pipelines
from reed.build.engines import launched_share
from reed.cache import schema
from reed.cli.common import CACHES, RUNS, one_line_errors
from reed.extras import DISTRIBUTION


@click.group(invoke_without_command=True)
@click.option(
    "--shards",
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=CACHES,
    help="The cache to train from.",
)
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=RUNS,
    help="Where the run goes. Default: runs/PIPELINE[-VARIANT].",
)
@click.option(
    "--variant",
    default="",
    metavar="NAME",
    help="A named variant of the pipeline's recipe, such as sit or repa.",
)
@click.option(
    "--config",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings to lay over the recipe (.toml or .json).",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="One setting, such as optim.lr=2e-4.",
)
@click.option(
    "--init",
    metavar="FILE",
    help="Weights to start from: a public checkpoint of REPA, REED, SiT or DiT, or a run.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check and print the configuration, sketch the curriculum, stop.",
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
    init: str | None,
    dry_run: bool,
) -> None:
    """Train from a cache, by its pipeline's recipe; rerun the same command to resume.

    \b
    Examples:
      reed-train --shards cache/digits
      reed-train --shards cache/digits --variant sit --set steps=400
      reed-train --config runs/digits/config.json --dry-run
    """
    if context.invoked_subcommand:
        return
    table = _settings(shards, run, variant, files, assignments, init)
    from reed.train import curriculum, loop, recipe

    settings = config.build(recipe.TrainConfig, table)
    if dry_run:
        setup = recipe.check(settings)
        for line in loop.untrained(setup)[1] if settings.init else []:
            click.echo(line, err=True)
        click.echo(f"weights over {settings.steps} steps:", err=True)
        schedules = setup.schedules | {"lr": setup.lr}
        click.echo(curriculum.sketch(schedules, settings.steps), err=True)
        click.echo(json.dumps(config.plain(settings), indent=1))
        return
    step = loop.train(settings)
    if launched_share().rank:
        return
    if step < settings.steps:
        click.echo(f"{settings.run}: stopped at step {step} of {settings.steps}; rerun to go on")
    else:
        click.echo(f"{settings.run}: trained; draw samples with: reed-sample --run {settings.run}")


@main.command("export")
@click.argument("run", type=click.Path(path_type=Path), shell_complete=RUNS)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A .pt with model and average, or a .safetensors of the average.",
)
@click.option("--step", type=int, help="The run's checkpoint. Default: the latest.")
@click.option(
    "--ema/--no-ema", default=True, show_default=True, help="With the averaged weights, or without."
)
@one_line_errors
def export_run(run: Path, out: Path, step: int | None, ema: bool) -> None:
    """Write a run's weights as REPA and REED name them.

    \b
    Example:
      reed-train export runs/digits --out digits.pt
    """
    from reed.train import export

    step = export.write(run, out, step, ema)
    click.echo(f"{out}: step {step} of {run}")


@main.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the page goes. Default: report.html in the run.",
)
@one_line_errors
def report_runs(runs: tuple[Path, ...], out: Path | None) -> None:
    """Show a run as one page of HTML, or compare several.

    \b
    Examples:
      reed-train report runs/digits
      reed-train report runs/digits-sit runs/digits --out compared.html
    """
    from reed.view.pages import run

    if out is None and len(runs) > 1:
        raise click.UsageError("several runs make one page: name it with --out FILE")
    out = out or runs[0] / "report.html"
    run.write(runs, out)
    click.echo(out)


def _settings(
    shards: Path | None,
    run: Path | None,
    variant: str,
    files: tuple[Path, ...],
    assignments: tuple[str, ...],
    init: str | None,
) -> dict[str, Any]:
    """The recipe of the cache's pipeline < its variant < --config < flags < --set."""
    over: dict[str, Any] = {}
    for file in files:
        over = config.merge(over, config.read(file))
    if shards:
        over["shards"] = str(shards)
    if run:
        over["run"] = str(run)
    if init:
        over["init"] = init
    for assignment in assignments:
        over = config.merge(over, config.assignment(assignment))
    if "shards" not in over:
        raise click.UsageError("name the cache to train from with --shards DIR")
    manifest = schema.load_manifest(Path(str(over["shards"])))
    name = pipelines.label(manifest.pipeline) + (f"-{variant}" if variant else "")
    base = {"run": f"runs/{name}"} | pipelines.recipe(manifest.pipeline, variant)
    return config.merge(base, over)


if __name__ == "__main__":
    main()
