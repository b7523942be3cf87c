"""make demo: both stages on the embedded digits, without alignment, with one teacher, with two.

It runs the same commands that a user would. Then it samples and measures every checkpoint, prints a
table and draws runs/demo/demo.png. A second run reuses all results of the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from reed.cache import files
from reed.cli.common import one_line_errors
from reed.domains.image import SampleOptions
from reed.evaluate.reference import Reference
from reed.experiments import demo
from reed.experiments.command import command
from reed.experiments.demo import Demo, Point, Rows
from reed.metrics.frechet import frechet_distance
from reed.picture import grid, to_uint8
from reed.sample.sampler import Sampler

DEMO = Demo(
    cache=Path("cache/digits"),
    out=Path("runs/demo"),
    variants={"sit": "no alignment", "repa": "image", "reed": "image + caption, curriculum"},
    caveat="One seed, and 8x8 digits are learned within a few hundred steps with or without a "
    "teacher:\nthis only shows that all parts work together. make bench-speedup measures what "
    "alignment saves.",
)
SAMPLES = 1000
OPTIONS = SampleOptions(sampler="heun", steps=10)
FEATURE_SPACE = "digits-mlp"


@click.command()
@demo.option("--steps", 800, "Optimizer steps of each run.")
@demo.option("--points", 4, "Checkpoints to measure in each run.")
@one_line_errors
def main(steps: int, points: int) -> None:
    """Build the digits cache, train three variants, compare them.

    Example: python -m reed.experiments.demo_image --steps 40
    """
    command("reed-cache", "build", "digits", "--cache", DEMO.cache)
    saved = DEMO.train(steps, points)
    real = Reference(DEMO.cache, FEATURE_SPACE)

    def measured(run: Path, step: int) -> Point:
        return {"frechet": real.measure(_samples(run, step))["frechet_distance"]}

    rows = DEMO.measure(saved, measured)
    floor = _floor(real)
    results = {"floor": floor, "runs": rows}
    DEMO.report(results, demo.by_step(rows, _columns(rows)), _notes(floor), _figure(rows, floor))


def _samples(run: Path, step: int) -> Path:
    """Draw images from a checkpoint, and keep them in the run."""
    path = run / "samples" / f"step-{step:07d}.npz"
    if not path.is_file():
        sampler = Sampler.of_run(run, step)
        drawn = sampler.draw(SAMPLES, OPTIONS, progress=False)
        images = to_uint8(drawn["x"], sampler.fields["x"])
        with files.open_new(path) as file:
            np.savez(file, arr_0=images, arr_1=drawn["label"])
    return path


def _floor(real: Reference) -> float:
    """Return the distance between two halves of the real images, in the same space."""
    images = real.images
    halves = np.array_split(np.random.default_rng(0).permutation(len(images)), 2)
    return frechet_distance(*(real.gaussian(images[half]) for half in halves))


def _columns(rows: Rows) -> list[tuple[str, str, str, str]]:
    distances = [(f"FD {run}", run, "frechet", ".2f") for run in rows]
    cosines = [
        (f"{run} {name}", run, name, ".3f")
        for run, points in rows.items()
        for name in sorted(points[-1])
        if name.startswith("cos/")
    ]
    return distances + cosines


def _notes(floor: float) -> str:
    return (
        f"FD: Fréchet distance of {SAMPLES} samples to the 1,797 real images, in the\n"
        "hidden layer of a classifier that no run was aligned to; the real images' two halves\n"
        f"are {floor:.2f} apart. cos: mean cosine to the teacher over the last logged steps."
    )


def _figure(rows: Rows, floor: float) -> Any:
    """Draw distances and cosines over the steps, and the first samples of each last checkpoint."""
    figure = demo.figure(11, 7.5)
    spaces = figure.add_gridspec(2 + len(rows), 2, height_ratios=[3, 0.02, *[0.62] * len(rows)])
    distance, cosine = figure.add_subplot(spaces[0, 0]), figure.add_subplot(spaces[0, 1])
    DEMO.plot(distance, rows, "frechet", "Fréchet distance, classifier features")
    distance.set(yscale="log")
    distance.axhline(floor, color="grey", linestyle=":", label="real halves")
    DEMO.plot_logged(cosine, "cos/", "{run}: {name}", demo.COSINES)
    demo.legends((distance, cosine), 8)

    # Below the curves, after a row of space for their labels, a row of samples per run.
    for i, (variant, points) in enumerate(rows.items()):
        axes = figure.add_subplot(spaces[2 + i, :])
        with np.load(_samples(DEMO.out / variant, points[-1]["step"])) as arrays:
            axes.imshow(grid(arrays["arr_0"][:20], 20), cmap="gray", vmin=0, vmax=255)
        axes.set_ylabel(variant, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
    return figure


if __name__ == "__main__":
    main()
