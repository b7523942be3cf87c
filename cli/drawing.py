"""Drawing one set of samples: its place, this process's share, and what is said about it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from reed.build.engines import Share, launched_share
from reed.errors import ReedError
from reed.wording import counted

SHOWN = 10  # samples that are not sound, by name


def path_of(
    out: Path | None, folder: Path, sampler: Any, options: Any, output: Any, several: bool
) -> Path:
    """Return OUT for one set of samples: a path without the ending of a file."""
    if out is None:
        names = (sampler.name, options.name, sampler.precision, output.name)
        return folder / "samples" / "-".join(name for name in names if name)
    endings = {path.suffix for path in output.files(Path("x"))} - {""}
    out = out.with_suffix("") if out.suffix in endings else out
    return out.with_name(f"{out.name}-{output.name}") if several else out


def with_compiled(sampler: Any, is_compiled: bool) -> Any:
    """Return the sampler, whose net is compiled if that is asked for."""
    if is_compiled:
        # Imported here, because it imports torch; what draws thousands of samples may wait.
        from tqdm import tqdm

        from reed.sample.compiled import compile_net

        speaks = launched_share().rank == 0
        compile_net(sampler, lambda line: tqdm.write(line, sys.stderr) if speaks else None)
    return sampler


def draw(
    sampler: Any,
    options: Any,
    output: Any,
    out: Path,
    num: int,
    batch: int | None,
    share: Share,
    keep_parts: bool,
) -> None:
    """Draw this process's share of a set of samples; write the files once all are drawn."""
    from reed.sample.sample_set import SampleSet, batch_of, recipe_of

    sampler.check(num, options)
    recipe = recipe_of(sampler, options, output, batch or batch_of(out, num))
    shown = launched_share().rank == 0  # one bar for the processes of a launch
    samples = SampleSet(out, recipe, num, output, progress=shown)

    if not samples.is_written():
        if message := samples.empty_share(share):
            click.echo(message, err=True)
        samples.fill(sampler, output.sampling(options), share)
        if not samples.finish():
            left = len(samples.missing())
            click.echo(
                f"{out}: {left} of {samples.batches} parts are left to other processes; "
                "the last of them writes the files"
            )
            return

    if not keep_parts:
        samples.remove_parts()
    named = list(samples.problems.items())
    for number, reason in named[:SHOWN]:
        click.echo(f"{out}: sample {number}: {reason}", err=True)
    if len(named) > SHOWN:
        click.echo(f"{out}: {len(named) - SHOWN} more are listed in {out.name}.json", err=True)
    click.echo(f"{counted(num, 'sample')} of {sampler.about['checkpoint']}:")
    for path in (*output.files(out), out.with_name(f"{out.name}.json")):
        click.echo(f"  {path}")


def share_of(array: str | None) -> Share:
    """Return the share of this process, of all ranks of all jobs of an array."""
    launched = launched_share()
    job, slash, jobs = (array or "0/1").partition("/")
    if not (slash and job.isdigit() and jobs.isdigit() and int(job) < int(jobs)):
        raise ReedError(f"--array {array} is not K/N with K from 0 to N - 1, such as 0/8")
    return Share(int(job) * launched.world + launched.rank, int(jobs) * launched.world)
