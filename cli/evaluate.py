"""reed-eval: measure samples against the data they were learned from."""

from __future__ import annotations

import json
from pathlib import Path

import click

import reed
from reed.cli.common import one_line_errors


@click.command(context_settings={"max_content_width": 80})
@click.argument("samples", type=click.Path(path_type=Path))
@click.option("--reference", required=True, type=click.Path(path_type=Path), metavar="CACHE",
              help="The cache whose data the samples are compared with.")  # fmt: skip
@click.option("--features", default="digits-mlp", show_default=True,
              help="The feature space to compare in.")  # fmt: skip
@click.version_option(reed.__version__)
@one_line_errors
def main(samples: Path, reference: Path, features: str) -> None:
    """Measure SAMPLES (the .npz of reed-sample) against a cache; prints JSON.

    \b
    Example:
      reed-eval runs/digits/samples/step-0000800-euler50-fp64.npz --reference cache/digits
    """
    from reed.evaluate import Reference

    click.echo(json.dumps(Reference(reference, features).measure(samples), indent=1))


if __name__ == "__main__":
    main()
