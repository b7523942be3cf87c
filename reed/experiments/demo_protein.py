"""make demo-protein: both stages on generated proteins, without alignment and with it.

Runs the same commands that a user would, on proteins whose best possible recovery is known
exactly; then measures every checkpoint on proteins that were never trained on, prints a table and
draws runs/demo-protein/demo.png. A second run reuses what is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from reed.cache import plan, reader, schema
from reed.cli.common import one_line_errors
from reed.domains.protein import DesignOptions, Structure
from reed.evaluate import protein
from reed.experiments.command import command
from reed.sample.sampler import Sampler
from reed.train import checkpoint, log

TRAIN, TEST = Path("cache/demo-protein"), Path("cache/demo-protein-test")
OUT = Path("runs/demo-protein")
VARIANTS = {"plain": "no alignment", "reed": "tokens, pairs and the whole structure, curriculum"}
SAMPLES = {TRAIN: 512, TEST: 64}
HONEST = (
    "One seed and a small net. The letters are drawn from a distribution that the backbone\n"
    "determines, so no net can recover more than the Bayes guess does, however it is trained."
)


@click.command()
@click.option("--steps", default=160, show_default=True, help="Optimizer steps of each run.")
@click.option("--points", default=4, show_default=True, help="Checkpoints to measure in each run.")
@one_line_errors
def main(steps: int, points: int) -> None:
    """Build the caches of generated proteins, train with and without alignment, compare.

    Example: python -m reed.experiments.demo_protein --steps 40
    """
    for cache, split in ((TRAIN, "train"), (TEST, "test")):
        command(
            "reed.cli.cache",
            "build",
            "proteins-toy",
            "--cache",
            str(cache),
            "--set",
            f"source.split={split}",
            "--set",
            f"source.samples={SAMPLES[cache]}",
        )
    for variant in VARIANTS:
        command(
            "reed.cli.train",
            "--shards",
            str(TRAIN),
            "--run",
            str(OUT / variant),
            *([] if variant == "reed" else ["--variant", variant]),
            "--set",
            f"steps={steps}",
            "--set",
            f"every.save={max(1, steps // points)}",
        )
    data = schema_of(OUT / "reed")
    test = protein.structures_of(TEST, data)
    bounds = _bounds(test)
    rows = {
        variant: [_measure(variant, step, test) for step in checkpoint.steps(OUT / variant)]
        for variant in VARIANTS
    }
    sampled = {variant: _sampled(variant, test) for variant in VARIANTS}
    found = {"bounds": bounds, "runs": rows, "sampled": sampled}
    (OUT / "demo.json").write_text(json.dumps(found, indent=1) + "\n")
    click.echo(_table(rows, bounds, sampled))
    _draw(rows, bounds)
    click.echo(f"\n{HONEST}\n\npicture: {OUT / 'demo.png'}")


def schema_of(run: Path) -> dict[str, str]:
    """Where a run's recipe finds its data: role -> column/field."""
    return json.loads((run / "config.json").read_text())["data"]


def _bounds(test: list[Structure]) -> dict[str, float]:
    """What a guess reaches that sees nothing, and one that knows the generator."""
    odds = np.concatenate([record["distribution"] for record in _records(TEST, "toy-bayes")])
    letters = np.concatenate([each.residue for each in test])
    frequent = np.bincount(
        np.concatenate([record["residue"] for record in _records(TRAIN, "chain")])
    ).argmax()
    told = odds[np.arange(len(letters)), letters]
    return {
        "frequent": float((letters == frequent).mean()),
        "bayes": float(odds.max(1).mean()),
        "bayes_perplexity": float(np.exp(-np.log(told).mean())),
    }


def _records(cache: Path, name: str) -> list[dict[str, Any]]:
    """Every record of a column, in cache order."""
    column = schema.load_column(cache, name)
    state, fields = reader.load_state(cache, column), list(column.fields)
    return [
        record
        for shard in range(plan.load(cache).shards)
        for _, record in reader.records(cache, column, shard, fields, state)
    ]


def _measure(variant: str, step: int, test: list[Structure]) -> dict[str, Any]:
    """One checkpoint on the test proteins, and the cosines that the run logged by then."""
    kept = OUT / variant / f"measured-{step:07d}.json"
    if not kept.is_file():
        sampler = Sampler.of_run(OUT / variant, step)
        found = protein.perplexity(sampler.net, test)
        kept.write_text(json.dumps(found, indent=1) + "\n")
    found = json.loads(kept.read_text())
    found |= {"one_shot": found.pop("one_shot_recovery")}
    line = [entry for entry in log.read(OUT / variant) if entry["step"] <= step][-1]
    cosines = {name: value for name, value in line.items() if name.startswith("cos/")}
    return {"step": step, **found, **cosines}


def _sampled(variant: str, test: list[Structure]) -> float:
    """The recovery of sequences drawn from the last checkpoint."""
    some = tuple(sorted(test, key=lambda each: len(each.residue)))
    drawn = Sampler.of_run(OUT / variant).draw(len(some), DesignOptions(some, steps=20), batch=16)
    return protein.recovery(drawn["sequence"].tolist(), some)["recovery"]


def _table(
    rows: dict[str, list[dict[str, Any]]], bounds: dict[str, float], sampled: dict[str, float]
) -> str:
    head = [
        "step",
        *(
            f"{what} {variant}"
            for what in ("recovery", "of Bayes", "perplexity")
            for variant in rows
        ),
    ]
    lines = []
    for points in zip(*rows.values(), strict=True):
        cells = [str(points[0]["step"]), *(f"{point['one_shot']:.3f}" for point in points)]
        cells += [f"{point['one_shot'] / bounds['bayes']:.2f}" for point in points]
        lines.append(cells + [f"{point['perplexity']:.2f}" for point in points])
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    text = "\n".join(
        "  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in [head, *lines]
    )
    drawn = ", ".join(f"{variant} {share:.3f}" for variant, share in sampled.items())
    return (
        f"\n{text}\n\nOn {SAMPLES[TEST]} proteins not trained on. Recovery of the most frequent "
        f"letter: {bounds['frequent']:.3f};\nof the Bayes guess: {bounds['bayes']:.3f} (perplexity "
        f"{bounds['bayes_perplexity']:.2f}). recovery: of the likeliest letters where\nall are "
        "masked. Sequences drawn from the last checkpoints (temperature 0.1,\npurity order) "
        f"recover: {drawn}.\n"
        + "\n".join(f"{variant}: {what}" for variant, what in VARIANTS.items())
    )


def _draw(rows: dict[str, list[dict[str, Any]]], bounds: dict[str, float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for variant, run in rows.items():
        steps, label = [point["step"] for point in run], f"{variant} ({VARIANTS[variant]})"
        left.plot(steps, [point["one_shot"] for point in run], "o-", label=label)
        middle.plot(steps, [point["perplexity"] for point in run], "o-", label=label)
        logged = log.read(OUT / variant)
        for name in sorted(key for key in logged[-1] if key.startswith("cos/")):
            points = [(line["step"], line[name]) for line in logged]
            right.plot(*zip(*points, strict=True), label=name[4:])
    left.axhline(bounds["bayes"], color="black", linestyle=":", label="Bayes")
    left.axhline(0.8 * bounds["bayes"], color="grey", linestyle=":", label="0.8 of Bayes")
    left.axhline(bounds["frequent"], color="grey", linestyle="--", label="most frequent letter")
    middle.axhline(bounds["bayes_perplexity"], color="black", linestyle=":", label="Bayes")
    left.set(title="Recovery, all masked", xlabel="step", ylim=(0, None))
    middle.set(title="Perplexity of masked letters", xlabel="step")
    right.set(title="Alignment: mean cosine to the teacher", xlabel="step")
    for axes in (left, middle, right):
        axes.legend(fontsize=7)
    figure.savefig(OUT / "demo.png", dpi=110)


if __name__ == "__main__":
    main()
