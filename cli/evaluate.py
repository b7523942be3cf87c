"""reed-eval: measure samples, or a run, against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reed.cli.common import CACHES, one_line_errors, pick_device
from reed.cli.kinds import SET, KindCommand, Kinds, tables
from reed.extras import DISTRIBUTION


def _kinds() -> Kinds:
    """Of every kind the options of what measures it."""
    from reed.evaluate.base import EVALUATORS

    return {name: (EVALUATORS.get(name),) for name in EVALUATORS.names()}


@click.command(cls=KindCommand, kinds=_kinds)
@click.argument("samples", type=click.Path(path_type=Path))
@click.option(
    "--reference",
    required=True,
    type=click.Path(path_type=Path),
    metavar="PLACE",
    shell_complete=CACHES,
    help="What is real: a cache; of images also a folder or an .npz, of designs a structure file.",
)
@click.option("--num", type=click.IntRange(1), help="Fail unless there are so many samples.")
@click.option(
    "--batch", type=click.IntRange(1), default=64, show_default=True, help="Samples at a time."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the record goes. Default: NAME.eval.json beside them.",
)
@SET
@click.version_option(package_name=DISTRIBUTION, prog_name="reed-eval")
@one_line_errors
def main(
    samples: Path,
    reference: Path,
    num: int | None,
    batch: int,
    device: str,
    out: Path | None,
    flags: dict[str, Any],
    assignments: tuple[str, ...],
) -> None:
    """Measure SAMPLES, what reed-sample wrote: an .npz, .sdf or .fasta.

    Images may also be an .npy or a folder. Of a run on proteins, SAMPLES can be the run itself and
    the reference a cache that it was not trained on. What molecules the reference, a cache, does
    not have are novel. The kind of data is the one that reed-sample wrote beside the samples, or
    is told by their content, or else by the reference.

    Prints a table and writes a record: the numbers, how the samples were drawn, what they were
    compared with and how.

    \b
    Examples:
      reed-eval runs/digits/samples/step-0000800-euler50-fp64.npz \\
          --reference cache/digits
      reed-eval s.npz --reference VIRTUAL_imagenet256_labeled.npz \\
          --metrics fid,sfid,is,pr --num 50000
      reed-eval s.npz --reference real/ --metrics kid --features timm:resnet50
      reed-eval runs/pdb --reference cache/pdb-test --esmfold /models/esmfold_v1
      reed-eval designs.fasta --reference my.pdb
    """
    from reed import config
    from reed.evaluate.base import Task, evaluator_of, kind_of

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
    for line in record.warnings:
        click.echo(f"Warning: {line}", err=True)
    click.echo(_table(record.metrics))
    about = f"{record.samples['num']} {evaluator.noun} of {samples} against {reference}"
    click.echo(f"\n{about}: {out}")


def _table(metrics: dict[str, dict[str, Any]]) -> str:
    width = max(map(len, metrics), default=0)
    return "\n".join(
        f"{name:{width}}  {each['value']:10.4f}  {each.get('features', '')}".rstrip()
        for name, each in metrics.items()
    )


if __name__ == "__main__":
    main()
