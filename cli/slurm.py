"""reed-cache build --slurm: the same command as job scripts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from reed.build.slurm import Script
from reed.errors import ReedError
from reed.stage_one import Build
from reed.store import mirror

SLURM = click.option(
    "--slurm",
    type=click.IntRange(1),
    metavar="JOBS",
    help="Build nothing; write scripts for a Slurm array of so many jobs to slurm/NAME, where NAME "
    "is that of the cache.",
)
PROGRAM = (sys.executable, "-m", "reed.cli.cache")  # wherever the job runs, this installation


def refuse(context: click.Context) -> None:
    """Raise ReedError if the command has an option that the jobs of an array cannot share."""
    for name in ("rebuild", "begin", "end", "engine"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            (flag,) = (p.opts[0] for p in context.command.params if p.name == name)
            raise ReedError(f"{flag} cannot be used with --slurm, whose jobs share all shards")


def write(prepared: Build, context: click.Context) -> str:
    """Write the scripts for the command of a context; return the line that says what to do."""
    cache, jobs = prepared.request.cache, context.params["slurm"]
    place = Path("slurm") / (cache.resolve().name or "cache")
    build = [*PROGRAM, "build", *words(context, leave="slurm")]
    columns = [job.column for job in prepared.jobs]
    check = [*PROGRAM, "verify", mirror.shown(cache), *columns]
    gpu = context.params["device"] != "cpu"

    shards = prepared.plan.shards
    submit = Script(build, check, Path.cwd(), jobs, shards, gpu).write(place)
    command = shlex.join(["bash", str(submit)])
    return f"{place}: {jobs} jobs for {shards} shards; submit them with: {command}"


def words(context: click.Context, leave: str) -> list[str]:
    """Return the words that were given to the command of a context, without one option."""
    found: list[str] = []
    for param in context.command.params:
        name = param.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if name == leave or name not in context.params or not given:
            continue

        # A value behind "=" may begin with a dash.
        value = context.params[name]
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(param, click.Argument):
                found.append(str(each))
            else:
                found.append(param.opts[0] if each is True else f"{param.opts[0]}={_text(each)}")
    return found


def _text(value: Any) -> str:
    """Return a value as it is written; the folder of a cache in a store as its URL."""
    return mirror.shown(value) if isinstance(value, Path) else str(value)
