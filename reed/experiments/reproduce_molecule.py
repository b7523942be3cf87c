"""make reproduce-molecule: REED's molecules, from GEOM to the numbers of three sets of samples.

    make reproduce-molecule DATA=/data/geom
    make reproduce-molecule DATA=... ARGS="--unimol mol_pre_all_h_220816.pt --posebusters"
    make reproduce-molecule SCALE=smoke

The paper (arXiv 2507.08980) trains SemlaFlow on GEOM-DRUGS for 200 epochs on 2 A100, without and
with a Uni-Mol trained anew on the training molecules, and measures 1,000 molecules of 100 steps
three times. The numbers of its molecule tables were not at hand, so none stand beside ours; nor was
that Uni-Mol: the teacher is RDKit's descriptors, or with --unimol the public weights.

DATA is a folder with MiDi's train_data.pickle, whose split the paper's code uses, or SemlaFlow's
train.smol, or GEOM's rdkit_folder, of which the source takes eight tenths of the molecules. As in
SemlaFlow, each has one conformer. What is drawn is novel if it is not among them; no other measure
has a reference, so the other splits are not read.

Hardware: one GPU of 40 GB, trained in float32. Hours, an estimate, unmeasured: stage one about one
on a CPU (243,000 molecules), each of the two runs 40 to 80 for its 400,000 steps, samples and
measures under one each, with --posebusters two more in all. Rerun the command to resume. The smoke
scale goes through every step with molecules that ship with RDKit and a net of a few channels, and
checks no number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import click

from reed.cli.common import one_line_errors
from reed.experiments.command import command
from reed.metrics.posebusters import library

SEEDS = (0, 1, 2)
FULL = ("--set", "source.conformers=1")
SMALL_NET = (
    "{width=16, layers=4, heads=2, sets=4, message=8, hidden=8, edge=8, size_emb=4}"  # tap: 4
)
SMOKE = {
    "build": (
        "--source",
        "molecules-toy",
        "--set",
        "source.samples=16",
        "--codec",
        "rdkit3d/sample=pca:8",
    ),
    "train": (
        "--set",
        "steps=4",
        "--set",
        "tokens=400",
        "--set",
        f"domain.net_settings={SMALL_NET}",
        "--set",
        "align.molecule.hidden=16",
        "--set",
        "optim.schedule=1.0",
        "--set",
        "every.log=2",
    ),
    "sample": ("--num", "5", "--steps", "2"),
}


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="GEOM-DRUGS.")
@click.option(
    "--scale",
    type=click.Choice(["full", "smoke"]),
    default="full",
    show_default=True,
    help="smoke: a few molecules of RDKit, in minutes.",
)
@click.option(
    "--unimol",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Uni-Mol's weights, to align to it; else RDKit's descriptors.",
)
@click.option("--posebusters", is_flag=True, help="Run the checks of PoseBusters, too.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/reproduce-molecule"),
    show_default=True,
    help="The runs, the samples and the table.",
)
@one_line_errors
def main(data: Path | None, scale: str, unimol: Path | None, posebusters: bool, out: Path) -> None:
    """Cache, train without and with alignment, sample three times, print a table.

    \b
    Examples:
      python -m reed.experiments.reproduce_molecule --data /data/geom
      python -m reed.experiments.reproduce_molecule --scale smoke
    """
    smoke = scale == "smoke"
    if (data is None) != smoke:
        raise click.UsageError("give the data (DATA=/data/geom), or SCALE=smoke alone")
    if posebusters:
        library()  # it is missed at once, not after days
    cache = Path("cache") / f"reproduce-molecule-{scale}"
    command(
        "reed.cli.cache",
        "build",
        "geom",
        "--cache",
        str(cache),
        "--set",
        "source.split=train",
        *(SMOKE["build"] if smoke else ("--data", str(data), *FULL)),
        *_encoders(unimol),
    )
    aligned = "unimol" if unimol else "rdkit3d"
    target = ("--set", f'align.molecule.target="{aligned}/sample"')
    words = {"plain": ("--variant", "plain"), aligned: ()}
    records = {}
    for name, variant in words.items():
        run = out / scale / name
        command(
            "reed.cli.train",
            "--shards",
            str(cache),
            "--run",
            str(run),
            *variant,
            *target,
            *(SMOKE["train"] if smoke else ()),
        )
        checks = ("--posebusters",) if posebusters else ()
        records[name] = [measured(run, seed, cache, smoke, checks) for seed in SEEDS]
    table = table_of(records)
    (out / scale / "table.txt").write_text(f"{table}\n", encoding="utf-8")
    click.echo(f"\n{table}\n\ntable: {out / scale / 'table.txt'}")


def _encoders(unimol: Path | None) -> tuple[str, ...]:
    if unimol:
        return ("--encoder", "unimol", "--set", f"unimol.weights={unimol}")
    return ("--encoder", "rdkit3d")


def measured(
    run: Path, seed: int, cache: Path, smoke: bool, checks: tuple[str, ...]
) -> dict[str, float]:
    """Draw one set of samples of a run's last checkpoint and measure it."""
    samples = run / "samples" / f"seed-{seed}"
    words = SMOKE["sample"] if smoke else ("--num", "1000", "--steps", "100")
    command(
        "reed.cli.sample", "--run", str(run), "--seed", str(seed), "--out", str(samples), *words
    )
    record = samples.with_name(f"{samples.name}.eval.json")
    command(
        "reed.cli.evaluate",
        f"{samples}.npz",
        "--reference",
        str(cache),
        "--out",
        str(record),
        *checks,
    )
    metrics = json.loads(record.read_text(encoding="utf-8"))["metrics"]
    return {name: each["value"] for name, each in metrics.items()}


def table_of(records: dict[str, Sequence[dict[str, float]]]) -> str:
    """Mean and standard deviation (of the sample, n - 1) over the sets, measure by measure.

    A measure that some set lacks, because nothing could be averaged, is a dash.
    """
    names = dict.fromkeys(name for sets in records.values() for each in sets for name in each)
    lines = [f"{'':30}" + "".join(f"{run:>24}" for run in records)]
    for name in names:
        cells = []
        for sets in records.values():
            values = [each[name] for each in sets if name in each]
            full = len(values) == len(sets)
            cells.append(f"{mean(values):.4f} +- {stdev(values):.4f}" if full else "-")
        lines.append(f"{name:30}" + "".join(f"{cell:>24}" for cell in cells))
    sets = len(next(iter(records.values())))
    return "\n".join([*lines, "", f"Mean and standard deviation of {sets} sets of samples."])


if __name__ == "__main__":
    main()
