"""make reproduce-protein: REED's inverse folding result, from ProteinMPNN's data to the numbers.

    make reproduce-protein DATA=/data/pdb_2021aug02
    make reproduce-protein DATA=/data/pdb_2021aug02 ARGS="--af3 /af3 --accept-af3-terms"
    make reproduce-protein SCALE=smoke

The paper (arXiv 2507.08980) trains 200 epochs on 23,079 chains and recovers 41.2, 41.6 and 41.6 %
without alignment after 100, 150 and 250 epochs, and 41.9 and 42.25 % with it after 100 and 150
(read off its figure). Rerun the command to resume. The smoke scale goes through every step with
generated proteins and a net of a few channels, and checks no number.
"""

from __future__ import annotations

from pathlib import Path

import click

from reed.cli.common import one_line_errors
from reed.evaluate.record import Record
from reed.experiments.command import command

SPLITS = ("train", "test")
FULL = ("--set", "source.max_length=256")
SMOKE = {
    "build": ("--source", "proteins-toy", "--set", "source.samples=16"),
    "train": (
        "--set",
        "steps=4",
        "--set",
        "tokens=400",
        "--set",
        "one_per=",
        "--set",
        "domain.net_settings={hidden=16, neighbours=8}",
        "--set",
        "curriculum.esm2-650m=0.0",
        "--set",
        "every.log=2",
    ),
    "taps": {"token": (5, "0.1"), "pair": (5, "0.4")},
}


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="ProteinMPNN's pdb_2021aug02.")
@click.option(
    "--scale",
    type=click.Choice(["full", "smoke"]),
    default="full",
    show_default=True,
    help="smoke: a few generated proteins, in minutes.",
)
@click.option(
    "--af3",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="AlphaFold 3's outputs, for the paper's own targets; else ESM-2.",
)
@click.option(
    "--accept-af3-terms",
    "accepted",
    is_flag=True,
    help="Its output may not be used commercially, see docs/proteins.md.",
)
@click.option(
    "--esmfold",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="ESMFold's weights, to refold the designs.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/reproduce-protein"),
    show_default=True,
    help="The runs and their measures.",
)
@one_line_errors
def main(
    data: Path | None, scale: str, af3: Path | None, accepted: bool, esmfold: Path | None, out: Path
) -> None:
    """Cache, train without and with alignment, design for the test set, print a table.

    \b
    Examples:
      python -m reed.experiments.reproduce_protein --data /data/pdb_2021aug02
      python -m reed.experiments.reproduce_protein --scale smoke
    """
    smoke = scale == "smoke"
    if (data is None) != smoke:
        raise click.UsageError("give the data (DATA=/data/pdb_2021aug02), or SCALE=smoke without")
    caches = {split: Path("cache") / f"reproduce-protein-{scale}-{split}" for split in SPLITS}
    for split, cache in caches.items():
        where = SMOKE["build"] if smoke else ("--data", str(data), *FULL)
        command(
            "reed.cli.cache",
            "build",
            "pdb",
            "--cache",
            str(cache),
            "--set",
            f"source.split={split}",
            *where,
            *(_encoders(smoke, af3, accepted) if split == "train" else ("--encoder", "chain")),
        )
    aligned = "af3" if af3 else ""
    runs = {"plain": out / scale / "plain", "reed": out / scale / (aligned or "esm2")}
    for name, run in runs.items():
        variant = "plain" if name == "plain" else aligned
        command(
            "reed.cli.train",
            "--shards",
            str(caches["train"]),
            "--run",
            str(run),
            *(("--variant", variant) if variant else ()),
            *((*SMOKE["train"], *(_targets() if name == "reed" else ())) if smoke else ()),
        )
        command(
            "reed.cli.evaluate",
            str(run),
            "--reference",
            str(caches["test"]),
            *(("--esmfold", str(esmfold)) if esmfold else ()),
            *(("--steps", "10") if smoke else ()),
        )
    click.echo(_table(runs))


def _encoders(smoke: bool, af3: Path | None, accepted: bool) -> tuple[str, ...]:
    if smoke:
        return ("--encoder", "toy-structure")
    if af3:
        terms = f"af3.accept_terms={str(accepted).lower()}"
        more = (f"af3.folder={af3}", "af3.structure=true", terms)
        return ("--encoder", "af3", *(word for each in more for word in ("--set", each)))
    return ("--encoder", "esm2-650m", "--codec", "esm2-650m/tokens=standard+int8")


def _targets() -> tuple[str, ...]:
    """The settings that align the smoke run to what its cache has."""
    words: list[str] = []
    for field, (tap, weight) in SMOKE["taps"].items():
        words += ["--set", f'align.{field}.target="toy-structure/{field}"']
        words += ["--set", f"align.{field}.tap={tap}", "--set", f"align.{field}.hidden=16"]
        words += ["--set", f"curriculum.{field}={weight}"]
    return tuple(words)


def _table(runs: dict[str, Path]) -> str:
    """What reed-eval measured of each run, number by number."""
    found = {
        name: Record.read(max(run.glob("step-*.eval.json"))).metrics for name, run in runs.items()
    }
    lines = [f"{'':24}" + "".join(f"{run:>10}" for run in found)]
    for name in found["plain"]:
        numbers = (f"{each[name]['value']:10.4f}" for each in found.values())
        lines.append(f"{name:24}" + "".join(numbers))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
