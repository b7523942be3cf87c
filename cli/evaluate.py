"""reed-eval: measure samples or a run against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reed.cli import scored, typos
from reed.cli.averages import ema_option
from reed.cli.common import (
    CACHES,
    DEVICE,
    RUNS,
    CacheDir,
    importing,
    one_line_errors,
    pick_device,
)
from reed.cli.kinds import SET, KindCommand, Kinds, tables
from reed.extras import DISTRIBUTION

if TYPE_CHECKING:
    from reed.evaluate.record import Record


def _kinds() -> Kinds:
    """Return the evaluator of every kind, whose fields are options."""
    with importing():
        from reed.evaluate.base import EVALUATORS

    return {name: (EVALUATORS.get(name),) for name in EVALUATORS.names()}


@click.command(cls=KindCommand, kinds=_kinds, early=typos.check_evaluation, flags=typos.EVALUATION)
@click.argument("samples", nargs=-1, type=click.Path(path_type=Path))
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
@ema_option(
    "Average of a run, by its name in the recipe, such as 0.999; all for each; may be repeated. "
    "Default: the first.",
    several=True,
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
    samples: tuple[Path, ...],
    run: Path | None,
    reference: Path,
    ema: tuple[str, ...],
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
    the samples were drawn, what they were compared with, and how. Several SAMPLES, or several
    averages of a run, are measured one after another and shown in one table. The processes of
    torchrun or accelerate launch divide the images; the numbers stay the same.

    \b
    Examples:
      reed-eval runs/digits/samples/final.npz --reference cache/digits
      reed-eval s.npz --reference VIRTUAL_imagenet256_labeled.npz \\
          --metrics fid,sfid,is,pr --num 50000
      reed-eval s.npz --reference real/ --metrics kid --features timm:resnet50
      reed-eval runs/pdb --reference cache/pdb-test --esmfold /models/esmfold_v1
      reed-eval runs/digits/samples/*.npz --reference cache/digits
      reed-eval designs.fasta --reference my.pdb
      torchrun --nproc-per-node 8 -m -- reed.cli.evaluate s.npz --reference real/
    """
    measured = scored.asked(samples, run, ema)
    if out is not None and len(measured) > 1:
        raise click.UsageError(
            f"--out {out} is one record, and {len(measured)} sets are measured; leave it out"
        )

    # Warnings go to stderr, so that stdout holds results alone.
    metrics, abouts = [], []
    for each in measured:
        done = _measure(each, reference, out, num, batch, device, flags, assignments)
        if done is None:
            continue
        record, noun, path = done
        for line in record.warnings:
            said = line if len(measured) == 1 else f"{each.label}: {line}"
            click.echo(f"Warning: {said}", err=True)
        metrics.append(record.metrics)
        of = each.place if len(measured) == 1 else each.label
        abouts.append(f"{record.samples['num']} {noun} of {of} against {reference}: {path}")
    if not abouts:
        return
    shown = _table(*metrics) if len(measured) == 1 else scored.table(measured, metrics)
    click.echo("\n".join([shown, "", *abouts]))


def _measure(
    measured: scored.Measured,
    reference: Path,
    out: Path | None,
    num: int | None,
    batch: int,
    device: str,
    flags: dict[str, Any],
    assignments: tuple[str, ...],
) -> tuple[Record, str, Path] | None:
    """Measure one set of samples or a run; return its record, what it counts, and the file.

    Only the first process of a launch returns them.
    """
    from reed import config
    from reed.build.engines import launched_share
    from reed.evaluate.base import Task, evaluator_of, kind_of, place_of

    # Only the samples tell which options there are.
    samples = measured.place
    kind = kind_of(samples, reference)
    cls = evaluator_of(kind, samples)
    (given,) = tables(flags, assignments, kind, {**_kinds(), kind: (cls,)}, str(samples))
    evaluator = config.build(cls, given)

    # Process 0 of a launch writes the record and prints; the others compute for it.
    share = launched_share()
    if share.rank and not cls.shared:
        return None
    task = Task(
        kind,
        samples,
        reference,
        out or place_of(evaluator, samples, measured.average),
        num,
        pick_device(device),
        batch,
        progress=not share.rank,
        say=lambda line: None if share.rank else click.echo(line, err=True),
        average=measured.average,
        share=share,
    )
    record = evaluator.measure(task)
    return None if share.rank else (record, evaluator.noun, task.out)


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
