"""reed-eval: measure samples against real images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from reed.cli.common import CACHES, one_line_errors, pick_device
from reed.errors import ReedError
from reed.extras import DISTRIBUTION
from reed.precision import PRECISIONS


@click.command()
@click.argument("samples", type=click.Path(path_type=Path))
@click.option(
    "--reference",
    required=True,
    type=click.Path(path_type=Path),
    metavar="PLACE",
    shell_complete=CACHES,
    help="The real images: a cache, a folder, or an ADM .npz.",
)
@click.option(
    "--metrics",
    default="fd",
    show_default=True,
    metavar="LIST",
    help="fd, fid, sfid, is, pr, fd-dinov2, kid, cmmd, with commas.",
)
@click.option(
    "--features",
    metavar="SPACE",
    help="Where fd, pr, kid and cmmd are taken in place of their own "
    "space: digits-mlp, inception, dinov2-l, clip-l-336 or "
    "timm:NAME.",
)
@click.option(
    "--weights",
    multiple=True,
    metavar="SPACE=FILE",
    help="The weights of a space, where they are not to be fetched.",
)
@click.option("--num", type=click.IntRange(2), help="How many samples there must be.")
@click.option(
    "--batch", type=click.IntRange(1), default=64, show_default=True, help="Images at a time."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Of the networks.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the record goes. Default: NAME.eval.json beside them.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=500,
    show_default=True,
    help="Of a run on proteins: of the sampler of its designs.",
)
@click.option(
    "--esmfold",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Of a run on proteins: refold its designs by the ESMFold there.",
)
@click.option("--posebusters", is_flag=True, help="Of molecules: the checks of PoseBusters, too.")
@click.version_option(package_name=DISTRIBUTION, prog_name="reed-eval")
@one_line_errors
def main(
    samples: Path,
    reference: Path,
    metrics: str,
    features: str | None,
    weights: tuple[str, ...],
    num: int | None,
    batch: int,
    device: str,
    precision: str,
    out: Path | None,
    steps: int,
    esmfold: Path | None,
    posebusters: bool,
) -> None:
    """Measure SAMPLES (the .npz of reed-sample, or a folder of images).

    Of a run on proteins, SAMPLES is the run and the reference a cache that it
    was not trained on; see the last example.

    Molecules have measures of their own; what is not in the reference, a
    cache, is novel.

    Prints a table and writes a record: the numbers, how the samples were
    drawn, what they were compared with and in which feature space.

    \b
    Examples:
      reed-eval runs/digits/samples/step-0000800-euler50-fp64.npz \\
          --reference cache/digits
      reed-eval s.npz --reference VIRTUAL_imagenet256_labeled.npz \\
          --metrics fid,sfid,is,pr --num 50000
      reed-eval s.npz --reference real/ --metrics kid --features timm:resnet50
      reed-eval runs/pdb --reference cache/pdb-test --esmfold /models/esmfold_v1
    """
    from reed.chem import molecule_set
    from reed.evaluate import image

    if posebusters and not molecule_set.is_set(samples):
        raise click.UsageError(f"--posebusters is for molecules, {samples} has none")
    if (samples / "config.json").is_file():
        _proteins(samples, reference, esmfold, steps, pick_device(device), batch, out)
        return
    out = out or image.beside(samples, ".eval.json")
    if molecule_set.is_set(samples):
        _molecules(samples, reference, num, posebusters, out)
        return
    files = dict(map(_pair, weights))
    how = image.Computing(pick_device(device), precision, batch, progress=True)
    names = image.parse_metrics(metrics)
    found = image.evaluate(
        samples, reference, names, features, weights=files, num=num, how=how, out=out
    )
    for line in found["warnings"]:
        click.echo(f"Warning: {line}", err=True)
    click.echo(_table(found["metrics"]))
    click.echo(f"\n{found['samples']['num']} samples of {samples} against {reference}: {out}")


def _proteins(
    run: Path,
    reference: Path,
    esmfold: Path | None,
    steps: int,
    device: str,
    batch: int,
    out: Path | None,
) -> None:
    """Recovery, perplexity and, with ESMFold, refolding of a run's designs; RUN/eval.json."""
    from reed.cache import files
    from reed.evaluate import protein
    from reed.metrics.folding import EsmFold

    fold = EsmFold(esmfold, device) if esmfold else None
    found = protein.measure(
        run, reference, device=device, fold=fold, batch=batch, steps=steps, progress=True
    )
    out = out or run / f"step-{found['step']:07d}.eval.json"
    files.write_atomic(out, (json.dumps(found, indent=1) + "\n").encode())
    for name, value in found.items():
        click.echo(f"{name:24}{value:10.4f}" if isinstance(value, float) else f"{name:24}{value}")
    click.echo(f"\n{out}")


def _molecules(
    samples: Path, reference: Path, num: int | None, posebusters: bool, out: Path
) -> None:
    """Measure generated molecules."""
    from reed.evaluate import molecule

    found = molecule.evaluate(samples, reference, out, num=num, posebusters=posebusters)
    for line in found["warnings"]:
        click.echo(f"Warning: {line}", err=True)
    click.echo(_table(found["metrics"]))
    click.echo(f"\n{found['samples']['num']} molecules of {samples} against {reference}: {out}")


def _pair(text: str) -> tuple[str, str]:
    space, equals, file = text.rpartition("=")
    if not (space and equals and file):
        raise ReedError(f"--weights {text!r} must be SPACE=FILE")
    return space, file


def _table(metrics: dict[str, dict[str, Any]]) -> str:
    width = max(map(len, metrics))
    return "\n".join(
        f"{name:{width}}  {each['value']:10.4f}  {each.get('features', '')}".rstrip()
        for name, each in metrics.items()
    )


if __name__ == "__main__":
    main()
