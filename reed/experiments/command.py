"""Runs the package's command lines from a demo or a reproduction, as a user would."""

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
    """Run one of the package's programs in its own process.

    The command is shown on stderr first, so that stdout holds results alone. If the program fails,
    this process ends with its exit code.

    Args:
        program: Name of the program, such as ``reed-train``.
        *words: Its arguments.
        every_gpu: Whether to start one process per GPU, if there are several.

    Returns:
        The duration in seconds.

    Raises:
        ReedError: A signal ended the program, which therefore could not report an error itself.
    """
    text = [str(word) for word in words]
    click.echo(f"\n$ {shlex.join([program, *text])}", err=True)

    # By module, so that this Python and this checkout run, whatever is on the PATH.
    start = [sys.executable, "-m"]
    if every_gpu and (gpus := _gpus()) > 1:
        start += ["torch.distributed.run", f"--nproc-per-node={gpus}", "-m", "--"]

    began = time.monotonic()
    code = subprocess.run([*start, MODULES[program], *text], check=False).returncode
    if code < 0:
        name = Signals(-code).name
        raise ReedError(f"{program} was ended by {name} from outside; rerun this to resume")
    if code:  # the program has printed the reason
        sys.exit(code)
    return time.monotonic() - began


def train(shards: Path, run: Path, variant: str, *words: object, every_gpu: bool = False) -> float:
    """Run reed-train and return its duration in seconds.

    Args:
        shards: Folder of the cache.
        run: Folder of the run.
        variant: Variant of the recipe; ``reed`` is the recipe itself.
        *words: Further arguments.
        every_gpu: Whether to start one process per GPU, if there are several.
    """
    named = () if variant == "reed" else ("--variant", variant)
    where = ("--shards", shards, "--run", run)
    return command("reed-train", *where, *named, *words, every_gpu=every_gpu)


def sets(table: Mapping[str, object], column: str = "") -> list[str]:
    """Return the words ``--set NAME=VALUE`` for every entry of a table.

    Args:
        table: Settings by name.
        column: Column that the settings belong to, which becomes a prefix of the names.
    """
    prefix = f"{column}." if column else ""
    return [word for name, value in table.items() for word in ("--set", f"{prefix}{name}={value}")]


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
