"""make reproduce-protein: REED's inverse folding result, from ProteinMPNN's data to the numbers.

    make reproduce-protein DATA=/data/pdb_2021aug02
    make reproduce-protein DATA=/data/pdb_2021aug02 ARGS="--af3 /af3 --accept-af3-terms"
    make reproduce-protein SCALE=smoke

The paper (arXiv 2507.08980) trains 200 epochs on 23,079 chains and recovers 41.2, 41.6 and 41.6 %
without alignment after 100, 150 and 250 epochs, and 41.9 and 42.25 % with it after 100 and 150
(read off its figure). Rerun the command to resume. The smoke scale runs every step with generated
proteins and a net of a few channels, and checks no number.
"""

from __future__ import annotations

from pathlib import Path

import click

from reed.cli.common import one_line_errors
from reed.experiments import reproduce, smoke
from reed.experiments.command import command, sets, train
from reed.experiments.reproduce import PATH, Words

SPLITS = ("train", "test")
FULL = Words(build=(*sets({"source.max_length": 256}),))
ESM2 = ("--encoder", "esm2-650m", "--codec", "esm2-650m/tokens=standard+int8")


@click.command()
@reproduce.options("reproduce-protein", "ProteinMPNN's pdb_2021aug02.", "a few generated proteins")
@click.option(
    "--af3", type=PATH, help="Outputs of AlphaFold 3, the paper's targets, instead of ESM-2."
)
@click.option(
    "--accept-af3-terms",
    "accepted",
    is_flag=True,
    help="Accept that its output may not be used commercially, see docs/proteins.md.",
)
@click.option(
    "--esmfold",
    type=click.Path(path_type=Path, exists=True),  # it is needed only after days of training
    help="Weights of ESMFold, to refold the designs.",
)
@one_line_errors
def main(
    data: Path | None, scale: str, out: Path, af3: Path | None, accepted: bool, esmfold: Path | None
) -> None:
    r"""Cache, train without and with alignment, design for the test set, print a table.

    \b
    Examples:
      python -m reed.experiments.reproduce_protein --data /data/pdb_2021aug02
      python -m reed.experiments.reproduce_protein --scale smoke
    """
    words = reproduce.words_of(scale, data, FULL, smoke.PDB, "/data/pdb_2021aug02")
    targets: list[str] = []
    encoders = _af3(af3, accepted) if af3 else ESM2
    if scale == "smoke":
        encoders, targets = ("--encoder", "toy-structure"), _toy_targets()

    # Stage one: the test set needs no targets.
    caches = {split: Path("cache") / f"reproduce-protein-{scale}-{split}" for split in SPLITS}
    for split, cache in caches.items():
        columns = encoders if split == "train" else ("--encoder", "chain")
        own = (*sets({"source.split": split}), *words.build, *columns)
        command("reed-cache", "build", "pdb", "--cache", cache, *own)

    # Train both runs, and design for the test set with the last checkpoint of each.
    refolded = ("--esmfold", esmfold) if esmfold else ()
    aligned = ("af3", "af3", targets) if af3 else ("esm2", "reed", targets)
    records = {}
    for name, variant, more in (("plain", "plain", ()), aligned):
        run = out / scale / name
        train(caches["train"], run, variant, *words.train, *more)
        command("reed-eval", run, "--reference", caches["test"], *refolded, *words.evaluate)
        records[name] = [reproduce.measures(max(run.glob("step-*.eval.json")))]

    reproduce.publish(reproduce.table_of(records), out / scale / "table.txt")


def _af3(folder: Path, accepted: bool) -> tuple[str, ...]:
    """Return the words that import AlphaFold 3's outputs."""
    terms = str(accepted).lower()
    settings = {"folder": folder, "structure": "true", "accept_terms": terms}
    return ("--encoder", "af3", *sets(settings, "af3"))


def _toy_targets() -> list[str]:
    """Return the settings that align the smoke run to the fields in its cache."""
    settings: dict[str, object] = {}
    for field, weight in (("token", 0.1), ("pair", 0.4)):
        target = {"target": f'"toy-structure/{field}"', "tap": 5, "hidden": 16}
        settings |= {f"align.{field}.{name}": value for name, value in target.items()}
        settings[f"curriculum.{field}"] = weight
    return sets(settings)


if __name__ == "__main__":
    main()
