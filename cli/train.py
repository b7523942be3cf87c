"""reed-train: train a model from a feature cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

import reed
from reed import config, pipelines
from reed.cache import schema
from reed.cache.engines import launched_share
from reed.cli.common import one_line_errors


@click.command(context_settings={"max_content_width": 80})
@click.option("--shards", type=click.Path(path_type=Path), metavar="DIR",
              help="The cache to train from.")  # fmt: skip
@click.option("--run", type=click.Path(path_type=Path), metavar="DIR",
              help="Where the run goes. Default: runs/PIPELINE[-VARIANT].")  # fmt: skip
@click.option("--variant", default="", metavar="NAME",
              help="A named variant of the pipeline's recipe, such as sit or repa.")  # fmt: skip
@click.option("--config", "files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="Settings to lay over the recipe (.toml or .json).")  # fmt: skip
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE",
              help="One setting, such as optim.lr=2e-4.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check and print the configuration, then stop.")
@click.version_option(reed.__version__)
@one_line_errors
def main(
    shards: Path | None, run: Path | None, variant: str, files: tuple[Path, ...],
    assignments: tuple[str, ...], dry_run: bool,
) -> None:  # fmt: skip
    """Train from a cache, by its pipeline's recipe; rerun the same command to resume.

    \b
    Examples:
      reed-train --shards cache/digits
      reed-train --shards cache/digits --variant sit --set steps=400
      reed-train --config runs/digits/config.json --dry-run
    """
    table = _settings(shards, run, variant, files, assignments)
    from reed import recipe, train

    settings = config.build(recipe.TrainConfig, table)
    if dry_run:
        recipe.check(settings)
        click.echo(json.dumps(config.plain(settings), indent=1))
        return
    step = train.train(settings)
    if launched_share().rank:
        return
    if step < settings.steps:
        click.echo(f"{settings.run}: stopped at step {step} of {settings.steps}; rerun to go on")
    else:
        click.echo(f"{settings.run}: trained; draw samples with: reed-sample --run {settings.run}")


def _settings(
    shards: Path | None, run: Path | None, variant: str, files: tuple[Path, ...],
    assignments: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    """The recipe of the cache's pipeline < its variant < --config < flags < --set."""
    over: dict[str, Any] = {}
    for file in files:
        over = config.merge(over, config.read(file))
    if shards:
        over["shards"] = str(shards)
    if run:
        over["run"] = str(run)
    for assignment in assignments:
        over = config.merge(over, config.assignment(assignment))
    if "shards" not in over:
        raise click.UsageError("name the cache to train from with --shards DIR")
    manifest = schema.load_manifest(Path(str(over["shards"])))
    name = f"{manifest.pipeline}-{variant}" if variant else manifest.pipeline
    base = {"run": f"runs/{name}"} | pipelines.recipe(manifest.pipeline, variant)
    return config.merge(base, over)


if __name__ == "__main__":
    main()
