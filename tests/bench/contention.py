"""make bench-contention: training on digits alone, and beside a busy process on every core.

Both ways run in turn, each time in a process of its own with as many threads as cores: with how
long the idle threads of OpenMP spin by default, and with what importing reed sets. Rates are of
steps, the start of the process and the first steps not counted; a run that has not done all its
steps by --seconds ends there. A busy process is a loop of plain Python. Per core-second is by
the CPU time that the training process was given, on a busy machine about half of what it asks for.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import click

sys.path.insert(0, str(Path(__file__).parent))
import report

# What the runtimes do where nothing is set; importing reed leaves alone what is set already.
DEFAULT = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}
WARMUP = 2  # steps
GOALS = "goals: default busy ×5 or more; idle 0.97 or more; a core-second 1.5 or less"
CORES = len(os.sched_getaffinity(0))


def environment(default: bool) -> dict[str, str]:
    """The environment without a word on OpenMP, or with the runtimes' defaults spelt out."""
    unset = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    return unset | (DEFAULT if default else {})


@contextlib.contextmanager
def company(processes: int) -> Iterator[None]:
    """So many busy processes; they end here, or by themselves where this process is killed."""
    loop = f"import os\nwhile os.getppid() == {os.getpid()}:\n    for _ in range(100_000): pass"
    busy = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def steps_alone(cache: Path, steps: int, seconds: float) -> dict[str, float]:
    """Train in this process: steps per second and per core-second."""
    from reed import config, pipelines
    from reed.train import recipe
    from reed.train.feed import Feed
    from reed.train.loop import Trainer, accelerator_for

    with tempfile.TemporaryDirectory() as run:
        table = pipelines.recipe("digits", "") | {"shards": str(cache), "run": run}
        settings = config.build(recipe.TrainConfig, table)
        accelerator = accelerator_for(settings)
        trainer = Trainer(recipe.check(settings), accelerator)
        feed = Feed(trainer.setup.stream, accelerator.device)
        with closing(feed.batches(0)) as batches:
            for _ in range(WARMUP):
                trainer.train_step(next(batches))
            began, spent, done = perf_counter(), process_time(), 0
            while done < steps and (not done or perf_counter() - began < seconds):
                trainer.train_step(next(batches))
                done += 1
            wall, cpu = perf_counter() - began, process_time() - spent
    return {"steps": done, "rate": done / wall, "per core-second": done / cpu}


def timed(
    cache: Path, steps: int, seconds: float, default: bool, busy: int, per_core: list[float]
) -> float:
    """Steps per second of training in a process of its own; those per core-second are kept."""
    words = [sys.executable, __file__, "--alone", str(cache)]
    words += ["--steps", str(steps), "--seconds", str(seconds)]
    with company(busy):
        done = subprocess.run(
            words, check=True, stdout=subprocess.PIPE, text=True, env=environment(default)
        )
    found = json.loads(done.stdout)
    click.echo(f"{'default' if default else 'ours'}, {busy} busy: {found}", err=True)
    per_core.append(found["per core-second"])
    return found["rate"]


def measure(cache: Path, steps: int, seconds: float, runs: int) -> list[report.Figure]:
    """Steps per second of each way, and what the goals are about."""
    ways = {
        f"{name}, {where}": (default, busy)
        for where, busy in (("idle", 0), ("busy", CORES))
        for name, default in (("default", True), ("ours", False))
    }
    had: dict[str, list[float]] = {name: [] for name in ways}
    rates = report.interleaved(
        {n: partial(timed, cache, steps, seconds, *way, had[n]) for n, way in ways.items()}, runs
    )
    had = {name: values[1:] for name, values in had.items()}  # without the first round

    figures = [report.figure(name, values, "steps/s") for name, values in rates.items()]
    figures += [report.figure(f"{n}: a core-second", v, "steps") for n, v in had.items()]
    figures.append(report.ratios(rates, "ours, busy", "default, busy"))
    figures.append(report.ratios(rates, "ours, idle", "default, idle"))
    core_second = report.ratios(had, "ours, idle", "ours, busy")
    return [*figures, replace(core_second, name=f"a core-second: {core_second.name}")]


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("runs/bench/contention"))
@click.option("--steps", default=80, show_default=True, help="Of each run, at most.")
@click.option("--seconds", default=20.0, show_default=True, help="Of each run, at most.")
@click.option("--runs", default=5, show_default=True)
@click.option("--alone", hidden=True, type=click.Path(path_type=Path))
def main(folder: Path, steps: int, seconds: float, runs: int, alone: Path | None) -> None:
    """Measure both ways, idle and busy, and publish the figures."""
    if alone:  # a process of its own
        click.echo(json.dumps(steps_alone(alone, steps, seconds)))
        return
    load = f"load before: {os.getloadavg()[0]:.2f}"  # what "idle" was
    cache = folder / "digits"
    build = [sys.executable, "-m", "reed.cli.cache", "build", "digits", "--cache", str(cache)]
    subprocess.run(build, check=True)
    what = f"{__doc__}\n{GOALS}\n{CORES} busy processes; {load}"
    report.publish("contention", what, measure(cache, steps, seconds, runs))


if __name__ == "__main__":
    main()
