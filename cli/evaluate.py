"""reed-eval: measure samples or a run against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reed.cli import typos
from reed.cli.common import (
    CACHES,
    DEVICE,
    RUNS,
    CacheDir,
    importing,
    one_line_errors,
    one_run,
    pick_device,
)
from reed.cli.kinds import SET, KindCommand, Kinds, tables
from reed.extras import DISTRIBUTION


def _kinds() -> Kinds:
    """Return the evaluator of every kind, whose fields are options."""
    with importing():
        from reed.evaluate.base import EVALUATORS

    return {name: (EVALUATORS.get(name),) for name in EVALUATORS.names()}


@click.command(cls=KindCommand, kinds=_kinds, early=typos.check_evaluation, flags=typos.EVALUATION)
@click.argument("samples", required=False, type=click.Path(path_type=Path))
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=RUNS,
    help="Run to measure, where the kind allows it; the same as SAMPLES.",
)
@click.option(
    "--reference",
    required=True,
    type=CacheDir(),
    metavar="PLACE",
    shell_complete=CACHES,
    help="Real data to compare with: a cache; for images also a folder, .tar, .zip, .npz or .npy; "
    "for designs also a structure file.",
)
@click.option(
    "--num", type=click.IntRange(1), help="Fail unless there are exactly N samples.", metavar="N"
)
@click.option(
    "--batch", type=click.IntRange(1), default=64, show_default=True, help="Samples per batch."
)
@DEVICE
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File of the record. Default: NAME.eval.json beside the samples.",
)
@SET
@click.version_option(package_name=DISTRIBUTION, prog_name="reed-eval")
@one_line_errors
def main(
    samples: Path | None,
    run: Path | None,
    reference: Path,
    num: int | None,
    batch: int,
    device: str,
    out: Path | None,
    flags: dict[str, Any],
    assignments: tuple[str, ...],
) -> None:
    """Measure SAMPLES, a file that reed-sample wrote: .npz, .sdf or .fasta.

    Images may also come from an .npy file, a .tar, or a folder of image files or of tars. The
    reference of molecules is a cache, and molecules that it lacks count as novel. For proteins,
    SAMPLES may also be a run, and the reference is then a cache that the run was not trained on.

    The kind of data is read from the file that reed-sample wrote beside the samples, else from
    the samples, else from the reference. Prints a table and writes a record with the numbers, how
    the samples were drawn, what they were compared with, and how.

    \b
    Examples:
      reed-eval runs/digits/samples/final.npz --reference cache/digits
      reed-eval s.npz --reference VIRTUAL_imagenet256_labeled.npz \\
          --metrics fid,sfid,is,pr --num 50000
      reed-eval s.npz --reference real/ --metrics kid --features timm:resnet50
      reed-eval runs/pdb --reference cache/pdb-test --esmfold /models/esmfold_v1
      reed-eval designs.fasta --reference my.pdb
    """
    from reed import config
    from reed.evaluate.base import Task, evaluator_of, kind_of

    samples = one_run(samples, run, "SAMPLES")
    kind = kind_of(samples, reference)
    cls = evaluator_of(kind, samples)
    (given,) = tables(flags, assignments, kind, {**_kinds(), kind: (cls,)}, str(samples))
    evaluator = config.build(cls, given)

    out = out or evaluator.place(samples)
    task = Task(
        kind,
        samples,
        reference,
        out,
        num,
        pick_device(device),
        batch,
        progress=True,
        say=lambda line: click.echo(line, err=True),
    )
    record = evaluator.measure(task)

    # Warnings go to stderr, so that stdout holds results alone.
    for line in record.warnings:
        click.echo(f"Warning: {line}", err=True)
    click.echo(_table(record.metrics))
    about = f"{record.samples['num']} {evaluator.noun} of {samples} against {reference}"
    click.echo(f"\n{about}: {out}")


def _table(metrics: dict[str, dict[str, Any]]) -> str:
    width = max(map(len, metrics), default=0)
    return "\n".join(
        f"{name:{width}}  {metric['value']:10.4f}  {_aside(metric)}".rstrip()
        for name, metric in metrics.items()
    )


def _aside(metric: dict[str, Any]) -> str:
    """Return what stands behind a value: its features, or what the reference scores."""
    if "reference" in metric:
        return f"reference {metric['reference']:.4f} ({metric['reference_num']:,})"
    return metric.get("features", "")


if __name__ == "__main__":
    main()
