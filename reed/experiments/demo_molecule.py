"""make demo-molecule: both stages on molecules that ship with RDKit, with and without alignment.

The molecules are the small ones of a list of the NCI, because a net needs more than minutes to draw
whole molecules of the size of drugs. If RDKit does not ship the list, they are those of
molecules-toy. The demo runs the same commands that a user would. Then it draws molecules from every
checkpoint, measures them, prints a table and makes two pictures in runs/demo-molecule: curves, and
a grid of molecules. A second run reuses all results of the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from reed.chem.molecule import Molecule
from reed.chem.molecule_set import known, load, of_cache, write
from reed.chem.rdkit import library, planar, sanitised
from reed.cli.common import one_line_errors
from reed.domains.molecule import MoleculeOptions
from reed.experiments import demo
from reed.experiments.command import command, sets
from reed.experiments.demo import Demo, Point, Rows
from reed.metrics.molecule import measure
from reed.sample.outputs.molecule import unpadded
from reed.sample.sampler import Sampler

DEMO = Demo(
    cache=Path("cache/demo-molecule"),
    out=Path("runs/demo-molecule"),
    variants={"plain": "no alignment", "reed": "molecule and atoms, curriculum"},
    caveat="One seed, a small net, small molecules and few steps: this only shows that all parts "
    "work together.",
)
SHOWN = {
    "atom_stability_semlaflow": "atoms (semlaflow)",
    "atom_stability_strict": "atoms (strict)",
    "molecule_stability_semlaflow": "molecules (semlaflow)",
    "molecule_stability_strict": "molecules (strict)",
    "validity": "valid",
    "connected_validity": "in one piece",
    "uniqueness": "unique",
    "strain_median": "strain",
}
LIST = Path("NCI/first_5K.smi")  # in the data folder of RDKit


@click.command()
@demo.option("--steps", 900, "Optimizer steps of each run.")
@demo.option("--points", 3, "Checkpoints to measure in each run.")
@demo.option("--atoms", 20, "Atoms of the largest molecule, with hydrogens.")
@demo.option("--drawn", 64, "Molecules to draw and measure.")
@one_line_errors
def main(steps: int, points: int, atoms: int, drawn: int) -> None:
    """Build the cache, train with and without alignment, compare what is drawn.

    Example: python -m reed.experiments.demo_molecule --steps 40
    """
    _build(atoms)
    saved = DEMO.train(steps, points)
    seen, examples = known(DEMO.cache), of_cache(DEMO.cache, drawn)

    # Every checkpoint, and for comparison as many real molecules.
    def measured(run: Path, step: int) -> Point:
        return measure(_drawn(run, step, drawn), seen)

    rows = DEMO.measure(saved, measured, f"measured-{drawn}")
    real = measure(examples, seen)

    last = {name: _drawn(DEMO.out / name, steps, drawn) for name in rows}
    grid = DEMO.out / "molecules.png"
    _draw_grid(last | {"real": examples}, grid)
    lines, notes = _lines(rows, real), _notes(drawn)
    DEMO.report({"real": real, "runs": rows}, lines, notes, _figure(rows), f", {grid}")


def _build(atoms: int) -> None:
    """Build the cache of the molecules with at most ``atoms`` atoms in RDKit's list, if shipped."""
    listed = Path(library("RDConfig").RDDataDir) / LIST
    small = ["--source", "molecules", "--data", listed, *sets({"source.max_atoms": atoms})]
    if not listed.is_file():
        click.echo(f"{listed} does not exist: the demo uses the larger molecules of molecules-toy")
        small = []
    command("reed-cache", "build", "molecules-toy", "--cache", DEMO.cache, *small)


def _drawn(run: Path, step: int, count: int) -> list[Molecule]:
    """Draw molecules from a checkpoint, and keep them in the run."""
    path = run / f"drawn-{step:07d}-{count}.npz"
    if not path.is_file():
        sampler, options = Sampler.of_run(run, step), MoleculeOptions(steps=50)
        samples = sampler.draw(count, options, batch=min(count, 16), progress=False)
        write(path, unpadded(samples))
    return load(path)


def _lines(rows: Rows, real: Point) -> list[list[str]]:
    """Return the table: a line per checkpoint, and one for the real molecules."""
    lines = [["run", "step", *SHOWN.values()]]
    measured = [(run, str(p["step"]), p) for run, points in rows.items() for p in points]
    for run, step, point in [*measured, ("real", "", real)]:
        lines.append([run, step, *(_cell(point[name]) for name in SHOWN)])
    return lines


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"


def _notes(drawn: int) -> str:
    return (
        f"{drawn} molecules in 50 steps; atoms, molecules: with valences that a table "
        "allows\n(strict: none of a molecule whose aromatic bonds have no Kekule form); strain: "
        "median,\nkcal/mol, of those that can be minimised"
    )


def _figure(rows: Rows) -> Any:
    """Draw stable atoms, the loss of bonds and cosines over the steps."""
    figure = demo.figure(13, 4)
    left, middle, right = axes = figure.subplots(1, 3)
    DEMO.plot(left, rows, "atom_stability_semlaflow", "Stable atoms, as SemlaFlow counts")
    left.set(ylim=(0, 1))
    DEMO.plot_logged(middle, "bond", "{run} ({what})", "Cross-entropy of bonds")
    DEMO.plot_logged(right, "cos/", "{name}", demo.COSINES)
    demo.legends(axes, 7)
    return figure


def _draw_grid(rows: Mapping[str, Sequence[Molecule]], path: Path, across: int = 6) -> None:
    """Draw the first molecules of each row in two dimensions, unselected and without hydrogens."""
    first = [(name, i, m) for name, kept in rows.items() for i, m in enumerate(kept[:across])]
    legends = [f"{name} {i}" + ("" if sanitised(m) else ", not valid") for name, i, m in first]
    draw, options = library("Chem.Draw"), library("Chem.Draw.rdMolDraw2D").MolDrawOptions()
    options.prepareMolsBeforeDrawing = False
    mols = [planar(molecule) for _, _, molecule in first]
    picture = draw.MolsToGridImage(
        mols, molsPerRow=across, subImgSize=(200, 180), legends=legends, drawOptions=options
    )
    picture.save(path)


if __name__ == "__main__":
    main()
