"""make reproduce-molecule: REED's molecules, from GEOM to the numbers of three sets of samples.

    make reproduce-molecule DATA=/data/geom
    make reproduce-molecule DATA=... ARGS="--unimol mol_pre_all_h_220816.pt --posebusters"
    make reproduce-molecule SCALE=smoke

The paper (arXiv 2507.08980) trains SemlaFlow on GEOM-DRUGS for 200 epochs on 2 A100, without and
with a Uni-Mol that was retrained on the training molecules, and measures 1,000 molecules of 100
steps three times. We did not have the numbers of its molecule tables, so that none stand beside
ours. Nor did we have that Uni-Mol: the teacher is RDKit's descriptors, or with --unimol the public
weights.

DATA is a folder with MiDi's train_data.pickle, whose split the paper's code uses, or SemlaFlow's
train.smol, or GEOM's rdkit_folder, of which the source takes eight tenths of the molecules. As in
SemlaFlow, each molecule has one conformer. A drawn molecule is novel if it is not among them; no
other measure has a reference, so that the other splits are not read.

Hardware: one GPU with 40 GB, trained in float32. Hours (an estimate, not measured): about one for
stage one on a CPU (243,000 molecules), 40 to 80 for the 400,000 steps of each of the two runs, less
than one for samples and measures of each, and two more in all with --posebusters. Rerun the command
to resume. The smoke scale runs every step with molecules that ship with RDKit and a net of a few
channels, and checks no number.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from reed.cli.common import one_line_errors
from reed.experiments import reproduce, smoke
from reed.experiments.command import command, sets, train
from reed.experiments.reproduce import Words
from reed.metrics.posebusters import library

SEEDS = (0, 1, 2)
FULL = Words(build=(*sets({"source.conformers": 1}),), sample=("--steps", "100"), num=1000)


@click.command()
@reproduce.options("reproduce-molecule", "GEOM-DRUGS.", "a few molecules of RDKit")
@click.option(
    "--unimol",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Weights of Uni-Mol, to align to it instead of RDKit's descriptors.",
)
@click.option("--posebusters", is_flag=True, help="Also run the checks of PoseBusters.")
@one_line_errors
def main(data: Path | None, scale: str, out: Path, unimol: Path | None, posebusters: bool) -> None:
    r"""Cache, train without and with alignment, sample three times, print a table.

    \b
    Examples:
      python -m reed.experiments.reproduce_molecule --data /data/geom
      python -m reed.experiments.reproduce_molecule --scale smoke
    """
    words = reproduce.words_of(scale, data, FULL, smoke.GEOM, "/data/geom")
    if posebusters:
        library()  # a missing package should stop this now, not after days of training
        words = replace(words, evaluate=("--posebusters",))

    # Stage one: the cache with the column of the teacher.
    aligned = "unimol" if unimol else "rdkit3d"
    weights = sets({"unimol.weights": unimol}) if unimol else ()
    cache = Path("cache") / f"reproduce-molecule-{scale}"
    own = (*sets({"source.split": "train"}), *words.build, "--encoder", aligned, *weights)
    command("reed-cache", "build", "geom", "--cache", cache, *own)

    # Both runs, and three sets of samples of each.
    target = sets({"align.molecule.target": f'"{aligned}/sample"'})
    records = {}
    for name, variant in (("plain", "plain"), (aligned, "reed")):
        run = out / scale / name
        train(cache, run, variant, *target, *words.train)
        records[name] = []
        for seed in SEEDS:
            measures = reproduce.sampled(run, f"seed-{seed}", cache, words, "--seed", seed)
            records[name].append(measures)

    note = f"Mean and standard deviation of {len(SEEDS)} sets of samples."
    table = f"{reproduce.table_of(records)}\n\n{note}"
    reproduce.publish(table, out / scale / "table.txt")


if __name__ == "__main__":
    main()
