"""What the reproductions share: options, words for each stage, samples and their table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import click

from reed.cache.files import write_atomic
from reed.experiments.command import command

Main = Callable[..., None]
PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Words:
    """More words for the commands of each stage; num: samples to draw."""

    build: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    sample: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    num: int = 0


def options(name: str, data: str, smoke: str) -> Callable[[Main], Main]:
    """The options --data, --scale and --out; data, smoke: what they are here, for the help."""

    def wrap(main: Main) -> Main:
        out = Path("runs") / name
        text = "The runs, what they drew and the table."
        main = click.option("--out", type=PATH, default=out, show_default=True, help=text)(main)
        scale = click.option(
            "--scale",
            type=click.Choice(["full", "smoke"]),
            default="full",
            show_default=True,
            help=f"smoke: {smoke}, in minutes.",
        )
        main = scale(main)
        return click.option("--data", type=PATH, help=data)(main)

    return wrap


def words_of(scale: str, data: Path | None, full: Words, smoke: Words, example: str) -> Words:
    """The words of a scale; UsageError unless exactly the full one is given data."""
    if (data is None) != (scale == "smoke"):
        raise click.UsageError(f"give the data (DATA={example}), or SCALE=smoke alone")
    if scale == "smoke":
        return smoke
    return replace(full, build=("--data", str(data), *full.build))


def sampled(
    run: Path, name: str, reference: Path, words: Words, *own: object, every_gpu: bool = False
) -> dict[str, float]:
    """Draw samples from a run into RUN/samples/NAME and return their measures; own: of reed-sample.

    Words of `own` come before those of the scale, which can so replace them.
    """
    samples, num = run / "samples" / name, ("--num", words.num)
    where = ("--run", run, "--out", samples)
    command("reed-sample", *where, *own, *num, *words.sample, every_gpu=every_gpu)
    record = samples.with_name(f"{name}.eval.json")
    compared = ("--reference", reference, "--out", record)
    command("reed-eval", f"{samples}.npz", *compared, *num, *words.evaluate)
    return measures(record)


def measures(record: Path) -> dict[str, float]:
    """The numbers in a record of reed-eval."""
    found = json.loads(record.read_text(encoding="utf-8"))
    if "metrics" in found:
        return {name: each["value"] for name, each in found["metrics"].items()}
    return {name: value for name, value in found.items() if isinstance(value, float)}


def table_of(records: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Mean and standard deviation (of the sample, n - 1) over the sets, measure by measure.

    A measure that some set lacks, because nothing could be averaged, is a dash; where a run has one
    set, its number stands alone.
    """
    names = dict.fromkeys(name for sets in records.values() for each in sets for name in each)
    lines = [f"{'':30}" + "".join(f"{run:>24}" for run in records)]
    for name in names:
        cells = (_cell([each.get(name) for each in sets]) for sets in records.values())
        lines.append(f"{name:30}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "-"
    spread = f" +- {stdev(known):.4f}" if len(known) > 1 else ""
    return f"{mean(known):.4f}{spread}"


def publish(table: str, path: Path) -> None:
    """Print a table and keep it in a file."""
    write_atomic(path, f"{table}\n".encode())
    click.echo(f"\n{table}\n\ntable: {path}")
