"""make reproduce-imagenet: both stages, samples and measures of one experiment, beside the paper's.

Runs the commands that a user would, each of which resumes; then prints the table and writes it to
OUT/VARIANT.md. Settings for another scale are words for each command, from a TOML file.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from reed import config
from reed.cli.common import one_line_errors
from reed.pipelines.imagenet import GUIDED, PUBLISHED
from reed.train import checkpoint

GUIDANCE = 1.275  # REED's README, for its FID of 1.80 at a million steps
METRICS = ("fid", "sfid", "is", "precision", "recall")


@dataclass(frozen=True)
class Words:
    """More words for the commands of each stage, behind those of the full scale; num: samples."""

    build: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    sample: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    num: int = 50_000


@dataclass(frozen=True)
class Row:
    """The measures of one checkpoint, and where their record is."""

    step: int
    guidance: float
    record: Path

    def value(self, metric: str) -> float:
        """One number of the record."""
        return json.loads(self.record.read_text(encoding="utf-8"))["metrics"][metric]["value"]


@click.command()
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The images of the training set.",
)
@click.option(
    "--reference",
    required=True,
    type=click.Path(path_type=Path),
    metavar="PLACE",
    help="VIRTUAL_imagenet256_labeled.npz of ADM's suite.",
)
@click.option("--variant", default="reed", show_default=True, help="reed, repa or sit.")
@click.option(
    "--cache",
    default=Path("cache/imagenet"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="The cache to build.",
)
@click.option(
    "--out",
    default=Path("runs/reproduce-imagenet"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="The runs and the table.",
)
@click.option(
    "--settings",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Words for each command, for another scale.",
)
@one_line_errors
def main(
    data: Path, reference: Path, variant: str, cache: Path, out: Path, settings: Path | None
) -> None:
    """Reproduce SiT-XL/2 on ImageNet 256x256 with REED's recipe; rerun to resume.

    \b
    Example:
      python -m reed.experiments.reproduce_image --data /data/imagenet/train \\
          --reference VIRTUAL_imagenet256_labeled.npz
    """
    words = config.build(Words, config.read(settings) if settings else {}, "settings")
    run = out / variant
    seconds = {
        "stage one": command(
            "cache", "build", "imagenet", "--data", data, "--cache", cache, *words.build
        ),
        "training": command(
            "train",
            "--shards",
            cache,
            "--run",
            run,
            *([] if variant == "reed" else ["--variant", variant]),
            *words.train,
        ),
    }
    steps = wanted(run)
    points = [(step, 1.0) for step in steps] + [(steps[-1], GUIDANCE)]
    began = time.monotonic()
    rows = [measured(run, step, scale, reference, words) for step, scale in points]
    seconds["samples and measures"] = time.monotonic() - began
    table = table_of(variant, rows, seconds, words.num)
    (out / f"{variant}.md").write_text(table, encoding="utf-8")
    click.echo(f"\n{table}\ntable: {out / f'{variant}.md'}")


def wanted(run: Path) -> list[int]:
    """The checkpoints that the papers tell of, and the last."""
    steps = checkpoint.steps(run)
    told = {step for curve in PUBLISHED.values() for step in curve}
    return [step for step in steps if step in told or step == steps[-1]]


def measured(run: Path, step: int, guidance: float, reference: Path, words: Words) -> Row:
    """Samples of one checkpoint, by REPA's sampler, and their measures."""
    samples = run / "samples" / f"step-{step:07d}-guidance-{guidance:g}"
    command(
        "sample",
        "--run",
        run,
        "--step",
        step,
        "--num",
        words.num,
        "--sampler",
        "sde",
        "--steps",
        250,
        "--guidance",
        guidance,
        "--rounding",
        "down",
        "--labels",
        "random",
        "--out",
        samples,
        *words.sample,
    )
    record = samples.with_name(f"{samples.name}.eval.json")
    command(
        "evaluate",
        f"{samples}.npz",
        "--reference",
        reference,
        "--num",
        words.num,
        "--metrics",
        "fid,sfid,is,pr",
        "--out",
        record,
        *words.evaluate,
        alone=True,
    )
    return Row(step, guidance, record)


def command(name: str, *words: Any, alone: bool = False) -> float:
    """Run one of our command lines, on every GPU there is unless `alone`; returns its seconds."""
    words = tuple(map(str, words))
    began = time.monotonic()
    click.echo(f"\n$ {shlex.join((f'reed-{name}'.replace('evaluate', 'eval'), *words))}", err=True)
    module = f"reed.cli.{name}"
    start = [sys.executable, "-m", module]
    if not alone and (gpus := _gpus()) > 1:
        launch = ["-m", "torch.distributed.run", f"--nproc-per-node={gpus}", "-m", "--"]
        start = [sys.executable, *launch, module]
    if code := subprocess.run([*start, *words], check=False).returncode:
        sys.exit(code)  # it has said why
    return time.monotonic() - began


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def table_of(variant: str, rows: Sequence[Row], seconds: dict[str, float], num: int) -> str:
    """The measures of every checkpoint beside the published FIDs, as Markdown."""
    head = ["steps", "guidance", *METRICS, *(f"{name}, FID" for name in PUBLISHED)]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        guided = row.guidance != 1
        told = [
            GUIDED.get(name, {}).get(row.step) if guided else curve.get(row.step)
            for name, curve in PUBLISHED.items()
        ]
        ours = [f"{row.value(metric):.4g}" for metric in METRICS]
        lines.append([f"{row.step:,}", f"{row.guidance:g}", *ours, *(f"{v or '-'}" for v in told)])
    spent = ", ".join(f"{name} {value / 3600:.2f} h" for name, value in seconds.items())
    return "\n".join(
        [f"# {variant}: {num:,} samples, SDE, 250 steps unless the settings say otherwise", ""]
        + [f"| {' | '.join(line)} |" for line in lines]
        + [
            "",
            "Ours by reed-eval; the papers' are quoted, see pipelines/imagenet.py.",
            f"This time: {spent}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
