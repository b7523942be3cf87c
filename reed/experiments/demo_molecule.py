"""make demo-molecule: both stages on molecules that ship with RDKit, with and without alignment.

These are the small ones of a list of the NCI, since molecules of drugs' size take more than minutes
to come out whole; where RDKit ships none, those of molecules-toy. Runs the same commands that a
user would, then draws molecules from every checkpoint, measures them, prints a table and makes two
pictures in runs/demo-molecule: curves, and a grid of molecules. A second run reuses what is there.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from reed.chem.molecule import Molecule
from reed.chem.molecule_set import known, load, of_cache, write
from reed.chem.rdkit import library, planar, sanitised
from reed.cli.common import one_line_errors
from reed.domains.molecule import MoleculeOptions
from reed.experiments.command import command
from reed.metrics.molecule import measure
from reed.sample.outputs.molecule import unpadded
from reed.sample.sampler import Sampler
from reed.train import checkpoint, log

CACHE, OUT = Path("cache/demo-molecule"), Path("runs/demo-molecule")
VARIANTS = {"plain": "no alignment", "reed": "molecule and atoms, curriculum"}
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
LIST = Path("NCI/first_5K.smi")  # among RDKit's data
HONEST = "One seed, a small net, small molecules and few steps: this shows the machinery."


@click.command()
@click.option("--steps", default=900, show_default=True, help="Optimizer steps of each run.")
@click.option("--points", default=3, show_default=True, help="Checkpoints to measure in each run.")
@click.option("--atoms", default=20, show_default=True, help="Of the largest, with hydrogens.")
@click.option("--drawn", default=64, show_default=True, help="Molecules to draw and measure.")
@one_line_errors
def main(steps: int, points: int, atoms: int, drawn: int) -> None:
    """Build the cache, train with and without alignment, compare what is drawn.

    Example: python -m reed.experiments.demo_molecule --steps 40
    """
    listed = Path(library("RDConfig").RDDataDir) / LIST
    small = ("--source", "molecules", "--data", str(listed), "--set", f"source.max_atoms={atoms}")
    if not listed.is_file():
        click.echo(f"there is no {listed}: the molecules are larger ones")
        small = ()
    command("reed.cli.cache", "build", "molecules-toy", "--cache", str(CACHE), *small)
    for variant in VARIANTS:
        command(
            "reed.cli.train",
            "--shards",
            str(CACHE),
            "--run",
            str(OUT / variant),
            *([] if variant == "reed" else ["--variant", variant]),
            "--set",
            f"steps={steps}",
            "--set",
            f"every.save={max(1, steps // points)}",
        )
    seen = known(CACHE)
    real = measure(of_cache(CACHE, drawn), seen)
    rows = {
        variant: [_measure(variant, step, drawn, seen) for step in checkpoint.steps(OUT / variant)]
        for variant in VARIANTS
    }
    (OUT / "demo.json").write_text(json.dumps({"real": real, "runs": rows}, indent=1) + "\n")
    click.echo(_table(rows, real, drawn))
    _draw(rows)
    last = {name: _drawn(name, checkpoint.steps(OUT / name)[-1], drawn) for name in VARIANTS}
    _grid(last | {"real": of_cache(CACHE, drawn)})
    click.echo(f"\n{HONEST}\n\npictures: {OUT / 'demo.png'}, {OUT / 'molecules.png'}")


def _drawn(variant: str, step: int, count: int) -> list[Molecule]:
    """What a checkpoint draws, kept beside it."""
    kept = OUT / variant / f"drawn-{step:07d}-{count}.npz"
    if not kept.is_file():
        sampler, options = Sampler.of_run(OUT / variant, step), MoleculeOptions(steps=50)
        samples = sampler.draw(count, options, batch=min(count, 16), progress=True)
        write(kept, unpadded(samples))
    return load(kept)


def _measure(variant: str, step: int, drawn: int, seen: frozenset[str]) -> dict[str, float | None]:
    """One checkpoint: measures of what it draws, and what the run logged by then."""
    kept = OUT / variant / f"measured-{step:07d}-{drawn}.json"
    if not kept.is_file():
        found = measure(_drawn(variant, step, drawn), seen)
        kept.write_text(json.dumps(found, indent=1) + "\n")
    line = [entry for entry in log.read(OUT / variant) if entry["step"] <= step][-1]
    return json.loads(kept.read_text()) | line


def _table(
    rows: dict[str, list[dict[str, float | None]]], real: dict[str, float | None], drawn: int
) -> str:
    lines = [["run", "step", *SHOWN.values()]]
    for variant, points in rows.items():
        for point in points:
            lines.append([variant, f"{point['step']:.0f}", *(_cell(point[name]) for name in SHOWN)])
    lines.append(["real", "", *(_cell(real[name]) for name in SHOWN)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = "\n".join(
        "  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines
    )
    return (
        f"\n{text}\n\n{drawn} molecules in 50 steps; atoms, molecules: with valences that a table "
        "allows\n(strict: none of a molecule whose aromatic bonds have no Kekule form); strain: "
        "median,\nkcal/mol, of those that can be minimised\n"
        + "\n".join(f"{variant}: {what}" for variant, what in VARIANTS.items())
    )


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"


def _draw(rows: dict[str, list[dict[str, float | None]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for variant, run in rows.items():
        label = f"{variant} ({VARIANTS[variant]})"
        shares = [point["atom_stability_semlaflow"] for point in run]
        left.plot([point["step"] for point in run], shares, "o-", label=label)
        logged = log.read(OUT / variant)
        steps = [line["step"] for line in logged]
        middle.plot(steps, [line["bond"] for line in logged], label=label)
        for name in sorted(key for key in logged[-1] if key.startswith("cos/")):
            right.plot(steps, [line[name] for line in logged], label=name[4:])
    left.set(title="Stable atoms, as SemlaFlow counts", xlabel="step", ylim=(0, 1))
    middle.set(title="Cross-entropy of bonds", xlabel="step")
    right.set(title="Alignment: mean cosine to the teacher", xlabel="step")
    for axes in (left, middle, right):
        if axes.has_data():
            axes.legend(fontsize=7)
    figure.savefig(OUT / "demo.png", dpi=110)


def _grid(rows: dict[str, list[Molecule]], across: int = 6) -> None:
    """The first molecules of each row in two dimensions, whatever they are; hydrogens left out."""
    first = [(name, i, m) for name, kept in rows.items() for i, m in enumerate(kept[:across])]
    legends = [f"{name} {i}" + ("" if sanitised(m) else ", not valid") for name, i, m in first]
    draw, options = library("Chem.Draw"), library("Chem.Draw.rdMolDraw2D").MolDrawOptions()
    options.prepareMolsBeforeDrawing = False
    mols = [planar(molecule) for _, _, molecule in first]
    picture = draw.MolsToGridImage(
        mols, molsPerRow=across, subImgSize=(200, 180), legends=legends, drawOptions=options
    )
    picture.save(OUT / "molecules.png")


if __name__ == "__main__":
    main()
