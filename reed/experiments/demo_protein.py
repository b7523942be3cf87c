"""make demo-protein: both stages on generated proteins, without alignment and with it.

It runs the same commands that a user would, on proteins whose best possible recovery is known
exactly. Then it measures every checkpoint on proteins that no run was trained on, prints a table
and draws runs/demo-protein/demo.png. A second run reuses all results of the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from reed import pipelines
from reed.cache.opened import open_cache
from reed.cli.common import one_line_errors
from reed.domains.protein import DesignOptions, Structure
from reed.evaluate import protein
from reed.experiments import demo
from reed.experiments.command import command, sets
from reed.experiments.demo import Demo, Point, Rows
from reed.nets.mpnn import MPNN
from reed.sample.sampler import Sampler

DEMO = Demo(
    cache=Path("cache/demo-protein"),
    out=Path("runs/demo-protein"),
    variants={"plain": "no alignment", "reed": "tokens, pairs and the whole structure, curriculum"},
    caveat="One seed and a small net. The letters are drawn from a distribution that the backbone\n"
    "determines, so no net can recover more than the Bayes guess does, however it is trained.",
)
TEST = Path("cache/demo-protein-test")
SAMPLES = {"train": 512, "test": 64}


@click.command()
@demo.option("--steps", 160, "Optimizer steps of each run.")
@demo.option("--points", 4, "Checkpoints to measure in each run.")
@one_line_errors
def main(steps: int, points: int) -> None:
    """Build the caches of generated proteins, train with and without alignment, compare.

    Example: python -m reed.experiments.demo_protein --steps 40
    """
    for cache, split in ((DEMO.cache, "train"), (TEST, "test")):
        settings = sets({"split": split, "samples": SAMPLES[split]}, "source")
        command("reed-cache", "build", "proteins-toy", "--cache", cache, *settings)

    # The checkpoints are measured on the test set, whose bounds are known.
    saved = DEMO.train(steps, points)
    test = protein.structures_of(TEST, pipelines.recipe("proteins-toy")["data"])
    bounds = _bounds(test)

    def measured(run: Path, step: int) -> Point:
        net = Sampler.of_run(run, step).net
        assert isinstance(net, MPNN)
        measures = protein.perplexity(net, test)
        return measures | {"of_bayes": measures["one_shot_recovery"] / bounds["bayes"]}

    rows = DEMO.measure(saved, measured)
    sampled = {variant: _sampled(DEMO.out / variant, steps, test) for variant in rows}
    columns = [
        (f"{head} {run}", run, name, form)
        for head, name, form in (
            ("recovery", "one_shot_recovery", ".3f"),
            ("of Bayes", "of_bayes", ".2f"),
            ("perplexity", "perplexity", ".2f"),
        )
        for run in rows
    ]
    results = {"bounds": bounds, "runs": rows, "sampled": sampled}
    notes = _notes(bounds, sampled)
    DEMO.report(results, demo.by_step(rows, columns), notes, _figure(rows, bounds))


def _bounds(test: Sequence[Structure]) -> dict[str, float]:
    """Return the recovery of a guess without any input, and of one that knows the generator."""
    odds = np.concatenate(_values(TEST, "toy-bayes", "distribution"))
    letters = np.concatenate([structure.residue for structure in test])
    frequent = np.bincount(np.concatenate(_values(DEMO.cache, "chain", "residue"))).argmax()
    chances = odds[np.arange(len(letters)), letters]
    return {
        "frequent": float((letters == frequent).mean()),
        "bayes": float(odds.max(1).mean()),
        "bayes_perplexity": float(np.exp(-np.log(chances).mean())),
    }


def _values(cache: Path, column: str, field: str) -> list[np.ndarray]:
    """Return a field of every record of a cache, in its order."""
    with open_cache(cache) as opened:
        return [value for _, value in opened.records(f"{column}/{field}")]


def _sampled(run: Path, step: int, test: Sequence[Structure]) -> float:
    """Return the recovery of sequences drawn from a checkpoint."""
    by_length = tuple(sorted(test, key=lambda structure: len(structure.residue)))
    options = DesignOptions(by_length, steps=20)
    drawn = Sampler.of_run(run, step).draw(len(by_length), options, batch=16)
    return protein.recovery(drawn["sequence"].tolist(), by_length)["recovery"]


def _notes(bounds: Mapping[str, float], sampled: Mapping[str, float]) -> str:
    drawn = ", ".join(f"{variant} {share:.3f}" for variant, share in sampled.items())
    return (
        f"On {SAMPLES['test']} proteins not trained on. Recovery of the most frequent "
        f"letter: {bounds['frequent']:.3f};\nof the Bayes guess: {bounds['bayes']:.3f} (perplexity "
        f"{bounds['bayes_perplexity']:.2f}). recovery: of the likeliest letters where\nall are "
        "masked. Sequences drawn from the last checkpoints (temperature 0.1,\npurity order) "
        f"recover: {drawn}."
    )


def _figure(rows: Rows, bounds: Mapping[str, float]) -> Any:
    """Draw recovery, perplexity and cosines over the steps."""
    figure = demo.figure(13, 4)
    left, middle, right = axes = figure.subplots(1, 3)
    DEMO.plot(left, rows, "one_shot_recovery", "Recovery, all masked")
    DEMO.plot(middle, rows, "perplexity", "Perplexity of masked letters")
    DEMO.plot_logged(right, "cos/", "{name}", demo.COSINES)
    left.axhline(bounds["bayes"], color="black", linestyle=":", label="Bayes")
    left.axhline(0.8 * bounds["bayes"], color="grey", linestyle=":", label="0.8 of Bayes")
    left.axhline(bounds["frequent"], color="grey", linestyle="--", label="most frequent letter")
    left.set(ylim=(0, None))
    middle.axhline(bounds["bayes_perplexity"], color="black", linestyle=":", label="Bayes")
    demo.legends(axes, 7)
    return figure


if __name__ == "__main__":
    main()
