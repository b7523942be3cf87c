"""reed-train: train a model from a feature cache, export it, report on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from reed import config, pipelines
from reed.build.engines import launched_share
from reed.cache import schema
from reed.cli import typos
from reed.cli.common import CACHES, RUNS, one_line_errors, one_run
from reed.extras import DISTRIBUTION


class _Train(click.Group):
    """A group whose first word may be a run to go on with."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read a first word that is the folder of a run as --run."""
        if args and args[0] not in self.commands and Path(args[0], "config.json").is_file():
            args = ["--run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Train, invoke_without_command=True)
@click.option(
    "--shards",
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=CACHES,
    help="Cache to train from.",
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
    "--init",
    metavar="FILE",
    help="Initial weights: a public checkpoint of REPA, REED, SiT, DiT, SemlaFlow or ProteinMPNN, "
    "or a run.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check and print the configuration and the curriculum, without training.",
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
    """Train with the recipe of the cache's pipeline; rerun to resume.

    \b
    Examples:
      reed-train --shards cache/digits
      reed-train --shards cache/digits --variant sit --set steps=400
      reed-train --config runs/digits/config.json --dry-run
      reed-train runs/digits --set steps=2000
    """
    if context.invoked_subcommand:
        return
    # A run that is named alone goes on with its own settings.
    if run and not shards and not files and (run / "config.json").is_file():
        files = (run / "config.json",)
    table = _settings(shards, run, variant, files, assignments, init)
    typos.check_recipe(table)
    from reed.train import curriculum, loop, recipe
    from reed.train import dry_run as dry_run_texts

    settings = config.build(recipe.TrainConfig, table)
    # Only the configuration goes to stdout, so that it can be used as a file for --config.
    if dry_run:
        setup = recipe.check(settings)
        settings = setup.config
        setup.data.check(settings.run)
        for line in loop.untrained(setup)[1] if settings.init else []:
            click.echo(line, err=True)
        click.echo(f"weights over {settings.steps} steps:", err=True)
        schedules = setup.schedules | {"lr": setup.lr}
        click.echo(curriculum.sketch(schedules, settings.steps), err=True)
        if setup.guides:
            click.echo("share of the samples with z, A(t), from noise to data:", err=True)
            click.echo(dry_run_texts.sketch_guides(setup.guides), err=True)
        click.echo(json.dumps(config.plain(settings), indent=1))
        return

    step = loop.train(settings)
    if launched_share().rank:
        return
    if step < settings.steps:
        click.echo(f"{settings.run}: stopped at step {step} of {settings.steps}; rerun to go on")
    else:
        click.echo(f"{settings.run}: trained; draw samples with: reed-sample --run {settings.run}")


_RUN = click.option(
    "--run",
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=RUNS,
    help="The same as RUN.",
)


@main.command("export")
@click.argument(
    "place", metavar="RUN", required=False, type=click.Path(path_type=Path), shell_complete=RUNS
)
@_RUN
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write: .pt (the model and its average) or .safetensors (one of them).",
)
@click.option(
    "--step", type=int, metavar="N", help="Step of the run's checkpoint. Default: the latest."
)
@click.option(
    "--ema/--no-ema",
    default=True,
    show_default=True,
    help="With --ema, a .pt also holds the averaged weights, and a .safetensors holds only these; "
    "with --no-ema, both hold only the last weights.",
)
@one_line_errors
def export_run(
    place: Path | None, run: Path | None, out: Path, step: int | None, ema: bool
) -> None:
    """Export a run's weights in the layout of REPA and REED.

    \b
    Example:
      reed-train export runs/digits --out digits.pt
    """
    run = one_run(place, run, "RUN")
    from reed.train import export

    step = export.write(run, out, step, ema)
    click.echo(f"{out}: step {step} of {run}")
    if line := export.left_out(run):
        click.echo(f"{out}: {line}")


@main.command("report")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--run",
    "more",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=RUNS,
    help="Run; the same as RUNS.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File of the page. Default: report.html in the run.",
)
@one_line_errors
def report_runs(runs: tuple[Path, ...], more: tuple[Path, ...], out: Path | None) -> None:
    """Write an HTML page about a run, or a comparison of several.

    \b
    Examples:
      reed-train report runs/digits
      reed-train report runs/digits-sit runs/digits --out compared.html
    """
    from reed.view.pages import run

    runs = (*runs, *more)
    if not runs:
        raise click.UsageError("Missing argument 'RUNS'.")
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
    """Merge the settings: recipe < its variant < what --init states < --config < flags < --set."""
    given: dict[str, Any] = {}
    for file in files:
        given = config.merge(given, config.read(file))
    flags = {"shards": shards, "run": run, "init": init}
    given |= {name: str(value) for name, value in flags.items() if value}
    for assignment in assignments:
        given = config.merge(given, config.assignment(assignment))
    if "shards" not in given:
        raise click.UsageError("name the cache to train from with --shards DIR")

    # The recipe comes last, because only the cache tells which pipeline's recipe it is.
    cache = Path(str(given["shards"]))
    manifest = schema.load_manifest(cache)
    base = pipelines.recipe(manifest.pipeline, variant, schema.columns(cache))
    if "run" not in given:
        default = _default_run(cache, pipelines.label(manifest.pipeline), variant)
        base = {"run": str(default)} | base
    whole = config.merge(base, given)
    if not whole.get("init"):
        return whole

    from reed.train import stated  # it imports torch

    return config.merge(config.merge(base, stated.of_init(whole, manifest.domain)), given)


def _default_run(cache: Path, pipeline: str, variant: str) -> Path:
    """Return runs/CACHE[-VARIANT]; the name of an earlier version if the cache's run has it."""
    name, older = cache.absolute().name, Path("runs", "-".join(filter(None, (pipeline, variant))))
    if variant and not name.endswith(f"-{variant}"):
        name = f"{name}-{variant}"

    # Runs were named after the pipeline; such a run of this cache is resumed.
    run = Path("runs", name)
    config_file = older / "config.json"
    if run != older and not run.exists() and config_file.is_file():
        shards = Path(str(config.read(config_file).get("shards", "")))
        return older if shards.absolute() == cache.absolute() else run
    return run


if __name__ == "__main__":
    main()
