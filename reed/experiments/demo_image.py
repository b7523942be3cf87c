"""make demo: both stages on the embedded digits, without alignment, with one teacher, with two.

Runs the same commands that a user would, then samples every checkpoint, measures it, prints a
table and draws runs/demo/demo.png. A second run reuses what is there.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from reed.cache import files
from reed.cli.common import one_line_errors
from reed.domains.image import SampleOptions
from reed.evaluate.reference import Reference
from reed.experiments.command import command
from reed.metrics.frechet import frechet_distance
from reed.picture import grid, to_uint8
from reed.sample.sampler import Sampler
from reed.train import checkpoint, log

CACHE = Path("cache/digits")
OUT = Path("runs/demo")
VARIANTS = {"sit": "no alignment", "repa": "image", "reed": "image + caption, curriculum"}
SAMPLES = 1000
OPTIONS = SampleOptions(sampler="heun", steps=10)
FEATURE_SPACE = "digits-mlp"
HONEST = (
    "One seed, and 8x8 digits are learned within a few hundred steps with or without a teacher:\n"
    "this shows the machinery. make bench-speedup measures what alignment saves."
)


@click.command()
@click.option("--steps", default=800, show_default=True, help="Optimizer steps of each run.")
@click.option("--points", default=4, show_default=True, help="Checkpoints to measure in each run.")
@one_line_errors
def main(steps: int, points: int) -> None:
    """Build the digits cache, train three variants, compare them.

    Example: python -m reed.experiments.demo_image --steps 40
    """
    command("reed.cli.cache", "build", "digits", "--cache", str(CACHE))
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
    real = Reference(CACHE, FEATURE_SPACE)
    rows = {
        variant: [_measure(variant, step, real) for step in checkpoint.steps(OUT / variant)]
        for variant in VARIANTS
    }
    floor = _floor(real)
    (OUT / "demo.json").write_text(json.dumps({"floor": floor, "runs": rows}, indent=1) + "\n")
    click.echo(_table(rows, floor))
    _draw(rows, floor)
    click.echo(f"\n{HONEST}\n\npicture: {OUT / 'demo.png'}")


def _measure(variant: str, step: int, real: Reference) -> dict[str, float]:
    """One checkpoint: its Fréchet distance, and the cosines that the run logged by then."""
    samples = OUT / variant / "samples" / f"step-{step:07d}.npz"
    if not samples.is_file():
        sampler = Sampler.of_run(OUT / variant, step)
        drawn = sampler.draw(SAMPLES, OPTIONS)
        images = to_uint8(drawn["x"], sampler.fields["x"])
        with files.open_new(samples) as file:
            np.savez(file, arr_0=images, arr_1=drawn["label"])
    distance = real.measure(samples)["frechet_distance"]
    line = [entry for entry in log.read(OUT / variant) if entry["step"] <= step][-1]
    cosines = {name: value for name, value in line.items() if name.startswith("cos/")}
    return {"step": step, "frechet": distance, **cosines}


def _floor(real: Reference) -> float:
    """The distance between two halves of the real images, in the same space."""
    images = real.images
    halves = np.array_split(np.random.default_rng(0).permutation(len(images)), 2)
    return frechet_distance(*(real.gaussian(images[half]) for half in halves))


def _table(rows: dict[str, list[dict[str, float]]], floor: float) -> str:
    cosines = sorted({name for run in rows.values() for row in run for name in row if "/" in name})
    columns = [
        (variant, name)
        for variant in rows
        for name in cosines
        if any(name in row for row in rows[variant])
    ]
    head = ["step", *(f"FD {v}" for v in rows), *(f"{v} {n}" for v, n in columns)]
    lines = []
    for i, row in enumerate(rows["sit"]):
        cells = [str(row["step"]), *(f"{rows[v][i]['frechet']:.2f}" for v in rows)]
        lines.append(cells + [f"{rows[v][i].get(n, float('nan')):.3f}" for v, n in columns])
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    text = "\n".join(
        "  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in [head, *lines]
    )
    return (
        f"\n{text}\n\nFD: Fréchet distance of {SAMPLES} samples to the 1,797 real images, in the\n"
        f"hidden layer of a classifier that no run was aligned to; the real images' two halves\n"
        f"are {floor:.2f} apart. cos: mean cosine to the teacher over the last logged steps.\n"
        + "\n".join(f"{variant}: {what}" for variant, what in VARIANTS.items())
    )


def _draw(rows: dict[str, list[dict[str, float]]], floor: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(11, 7.5), layout="constrained")
    spaces = figure.add_gridspec(2 + len(rows), 2, height_ratios=[3, 0.02, *[0.62] * len(rows)])
    distance, cosine = figure.add_subplot(spaces[0, 0]), figure.add_subplot(spaces[0, 1])
    for variant, run in rows.items():
        label = f"{variant} ({VARIANTS[variant]})"
        distance.plot([r["step"] for r in run], [r["frechet"] for r in run], "o-", label=label)
        logged = log.read(OUT / variant)
        for name in sorted(key for key in logged[-1] if key.startswith("cos/")):
            points = [(line["step"], line[name]) for line in logged]
            cosine.plot(*zip(*points, strict=True), label=f"{variant}: {name[4:]}")
    distance.axhline(floor, color="grey", linestyle=":", label="real halves")
    distance.set(title="Fréchet distance, classifier features", xlabel="step", yscale="log")
    cosine.set(title="Alignment: mean cosine to the teacher", xlabel="step")
    for axes in (distance, cosine):
        axes.legend(fontsize=8)
    for i, variant in enumerate(rows):
        axes = figure.add_subplot(spaces[2 + i, :])
        last = OUT / variant / "samples" / f"step-{int(rows[variant][-1]['step']):07d}.npz"
        with np.load(last, allow_pickle=False) as arrays:
            axes.imshow(grid(arrays["arr_0"][:20], 20), cmap="gray", vmin=0, vmax=255)
        axes.set_ylabel(variant, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
    figure.savefig(OUT / "demo.png", dpi=110)


if __name__ == "__main__":
    main()
