"""Our command lines, run by a demo or a reproduction as a user would."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from signal import Signals

import click

from reed.errors import ReedError

MODULES = {
    "reed-cache": "reed.cli.cache",
    "reed-train": "reed.cli.train",
    "reed-sample": "reed.cli.sample",
    "reed-eval": "reed.cli.evaluate",
}


def command(program: str, *words: object, every_gpu: bool = False) -> float:
    """Run a program of ours in a process of its own; returns the seconds it took.

    The command is shown on stderr first, so that stdout holds results alone. Where it fails, this
    process ends with its exit code. every_gpu: start one process per GPU, if there are several.
    Raises ReedError where a signal ended the program, which so could not say why.
    """
    text = [str(word) for word in words]
    click.echo(f"\n$ {shlex.join([program, *text])}", err=True)
    start = [sys.executable, "-m"]
    if every_gpu and (gpus := _gpus()) > 1:
        start += ["torch.distributed.run", f"--nproc-per-node={gpus}", "-m", "--"]

    began = time.monotonic()
    code = subprocess.run([*start, MODULES[program], *text], check=False).returncode
    if code < 0:
        name = Signals(-code).name
        raise ReedError(f"{program} was ended by {name} from outside; rerun this to resume")
    if code:  # it has said why
        sys.exit(code)
    return time.monotonic() - began


def train(shards: Path, run: Path, variant: str, *words: object, every_gpu: bool = False) -> float:
    """Run reed-train and return its seconds; the variant "reed" is the recipe as it stands."""
    named = () if variant == "reed" else ("--variant", variant)
    where = ("--shards", shards, "--run", run)
    return command("reed-train", *where, *named, *words, every_gpu=every_gpu)


def sets(table: Mapping[str, object], column: str = "") -> list[str]:
    """The words `--set NAME=VALUE` for every entry, of a column's settings `COLUMN.NAME=VALUE`."""
    prefix = f"{column}." if column else ""
    return [word for name, value in table.items() for word in ("--set", f"{prefix}{name}={value}")]


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
