"""make reproduce-imagenet: both stages, samples and measures, beside the numbers of the papers.

It runs the commands that a user would, each of which resumes. Then it prints the table and writes
it to OUT/VARIANT.md. Settings for another scale are further arguments of each command, from a TOML
or JSON file.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from reed import config, pipelines
from reed.cli.common import one_line_errors
from reed.errors import ReedError
from reed.experiments.command import command, train
from reed.experiments.reproduce import PATH, Words, publish, sampled
from reed.train import checkpoint

OUT = Path("runs/reproduce-imagenet")
GUIDANCE = 1.275  # from REED's README, for its FID of 1.80 at a million steps
METRICS = ("fid", "sfid", "is", "precision", "recall")
SDE = ("--sampler", "sde", "--steps", "250", "--rounding", "down", "--labels", "random")
FULL = Words(sample=SDE, evaluate=("--metrics", "fid,sfid,is,pr"), num=50_000)

# Step -> FID-50K of papers: the recipe has the values without guidance, with their sources; GUIDED
# is with guidance over the whole interval. REED's guided samples at a million steps (200 epochs)
# have IS 267.5, precision 0.81 and recall 0.61; REPA's own 1.80 takes 800 epochs.
PUBLISHED = {
    name: {int(step): value for step, value in known["points"].items()}
    for name, known in pipelines.recipe("imagenet")["reference"].items()
}
GUIDED = {"REED": {1_000_000: 1.80}, "REPA": {1_000_000: 1.96}}


@dataclass(frozen=True)
class Row:
    """The measures of one checkpoint.

    Attributes:
        step: Optimizer step of the checkpoint.
        guidance: Scale of classifier-free guidance; 1 is none.
        measures: Measures by name.
    """

    step: int
    guidance: float
    measures: Mapping[str, float]


@click.command()
@click.option("--data", required=True, type=PATH, metavar="DIR", help="Images to train on.")
@click.option(
    "--reference", required=True, type=PATH, help="VIRTUAL_imagenet256_labeled.npz of ADM's suite."
)
@click.option("--variant", default="reed", show_default=True, help="reed, repa or sit.")
@click.option(
    "--cache", default="cache/imagenet", show_default=True, type=PATH, help="The cache to build."
)
@click.option("--out", default=OUT, show_default=True, type=PATH, help="Folder of runs and table.")
@click.option("--settings", type=PATH, help="File of arguments for each command (another scale).")
@one_line_errors
def main(
    data: Path, reference: Path, variant: str, cache: Path, out: Path, settings: Path | None
) -> None:
    r"""Reproduce SiT-XL/2 on ImageNet 256x256 with REED's recipe; rerun to resume.

    \b
    Example:
      python -m reed.experiments.reproduce_image --data /data/imagenet/train \
          --reference VIRTUAL_imagenet256_labeled.npz
    """
    words = _words(settings) if settings else FULL
    if not reference.exists():  # it is needed only after days of training
        raise ReedError(
            f"{reference} does not exist; name ADM's file with --reference (REFERENCE=)"
        )
    run = out / variant
    where = ("--data", data, "--cache", cache)
    built = command("reed-cache", "build", "imagenet", *where, *words.build, every_gpu=True)
    trained = train(cache, run, variant, *words.train, every_gpu=True)

    steps = wanted(run)
    points = [(step, 1.0) for step in steps] + [(steps[-1], GUIDANCE)]
    began = time.monotonic()

    # The paper guides its last checkpoint only.
    rows = [Row(*point, _measured(run, *point, reference, words)) for point in points]
    drawn = time.monotonic() - began
    seconds = {"stage one": built, "training": trained, "samples and measures": drawn}
    publish(table_of(variant, rows, seconds, words.num), out / f"{variant}.md")


def _words(settings: Path) -> Words:
    """Return the words of the full scale, followed by those of a file."""
    more = config.build(Words, {"num": FULL.num} | config.read(settings), "settings")
    sample, evaluate = FULL.sample + more.sample, FULL.evaluate + more.evaluate
    return replace(more, sample=sample, evaluate=evaluate)


def wanted(run: Path) -> list[int]:
    """Return the checkpoints for which the papers give numbers, and the last one."""
    steps = checkpoint.steps(run)
    published = {step for curve in PUBLISHED.values() for step in curve}
    return [step for step in steps if step in published or step == steps[-1]]


def _measured(
    run: Path, step: int, guidance: float, reference: Path, words: Words
) -> Mapping[str, float]:
    """Draw samples from one checkpoint and return their measures."""
    name, own = f"step-{step:07d}-guidance-{guidance:g}", ("--step", step, "--guidance", guidance)
    return sampled(run, name, reference, words, *own, every_gpu=True)


def table_of(variant: str, rows: Sequence[Row], seconds: dict[str, float], num: int) -> str:
    """Return the measures of every checkpoint beside the published FIDs, as Markdown."""
    head = ["steps", "guidance", *METRICS, *(f"{name}, FID" for name in PUBLISHED)]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        curves = PUBLISHED if row.guidance == 1 else GUIDED
        published = [f"{curves.get(name, {}).get(row.step) or '-'}" for name in PUBLISHED]
        measured = [f"{row.measures[metric]:.4g}" for metric in METRICS]
        lines.append([f"{row.step:,}", f"{row.guidance:g}", *measured, *published])

    # A stage that had finished before takes seconds: the durations are those of this invocation.
    spent = ", ".join(f"{name} {value / 3600:.2f} h" for name, value in seconds.items())
    return "\n".join(
        [f"# {variant}: {num:,} samples, SDE, 250 steps unless the settings say otherwise", ""]
        + [f"| {' | '.join(line)} |" for line in lines]
        + [
            "",
            "Ours by reed-eval; the papers' are quoted, see reed/experiments/reproduce_image.py.",
            f"This time: {spent}.",
        ]
    )


if __name__ == "__main__":
    main()
