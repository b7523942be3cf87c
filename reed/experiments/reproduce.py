"""Steps that the reproductions share: options, arguments of each stage, samples, the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import click

from reed.cache.files import write_atomic
from reed.evaluate.record import Record
from reed.experiments.command import command

Main = Callable[..., None]
PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Words:
    """Further arguments ("words") for the command of each stage.

    Attributes:
        build: Arguments of ``reed-cache build``.
        train: Arguments of ``reed-train``.
        sample: Arguments of ``reed-sample``.
        evaluate: Arguments of ``reed-eval``.
        num: Number of samples to draw.
    """

    build: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    sample: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    num: int = 0


def options(name: str, data: str, smoke: str) -> Callable[[Main], Main]:
    """Return a decorator that adds the options --data, --scale and --out.

    Args:
        name: Name of the reproduction, which is also that of its folder in runs/.
        data: Help of --data.
        smoke: Data of the smoke scale, for the help of --scale.
    """

    def wrap(main: Main) -> Main:
        # click lists the option last that is added first.
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
    """Return the words of a scale.

    Args:
        scale: ``full`` or ``smoke``.
        data: The data, for the full scale only.
        full: Words of the full scale.
        smoke: Words of the smoke scale.
        example: A path of data, for the message.

    Raises:
        UsageError: The full scale has no data, or the smoke scale has some.
    """
    if (data is None) != (scale == "smoke"):
        raise click.UsageError(f"give the data (DATA={example}), or SCALE=smoke alone")
    if scale == "smoke":
        return smoke
    return replace(full, build=("--data", str(data), *full.build))


def sampled(
    run: Path, name: str, reference: Path, words: Words, *own: object, every_gpu: bool = False
) -> dict[str, float]:
    """Draw samples from a run into RUN/samples/NAME and return their measures.

    Args:
        run: Folder of the run.
        name: Name of the samples.
        reference: Reference of reed-eval.
        words: Words of the scale.
        *own: Words for reed-sample. They come before those of the scale, which can replace them.
        every_gpu: Whether to draw with one process per GPU, if there are several.
    """
    samples, num = run / "samples" / name, ("--num", words.num)
    where = ("--run", run, "--out", samples)
    command("reed-sample", *where, *own, *num, *words.sample, every_gpu=every_gpu)
    record = samples.with_name(f"{name}.eval.json")
    compared = ("--reference", reference, "--out", record)
    command("reed-eval", f"{samples}.npz", *compared, *num, *words.evaluate)
    return measures(record)


def measures(record: Path) -> dict[str, float]:
    """Return the numbers in a record of reed-eval."""
    metrics = Record.read(record).metrics
    return {name: metric["value"] for name, metric in metrics.items()}


def table_of(records: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return mean and standard deviation (divided by n - 1) of each measure over the sets.

    A measure that some set lacks, because nothing could be averaged, is a dash. For a run with one
    set there is no deviation.

    Args:
        records: Run -> measures of each of its sets of samples.
    """
    names = dict.fromkeys(name for sets in records.values() for record in sets for name in record)
    lines = [f"{'':30}" + "".join(f"{run:>24}" for run in records)]
    for name in names:
        cells = (_cell([record.get(name) for record in sets]) for sets in records.values())
        lines.append(f"{name:30}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "-"
    spread = f" +- {stdev(known):.4f}" if len(known) > 1 else ""
    return f"{mean(known):.4f}{spread}"


def publish(table: str, path: Path) -> None:
    """Print a table and write it to a file."""
    write_atomic(path, f"{table}\n".encode())
    click.echo(f"\n{table}\n\ntable: {path}")
