"""What the four commands share: one-line errors with exit code 2, and the device."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from reed.errors import ReedError


def one_line_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Show a ReedError as one line on stderr, without a traceback, and exit with code 2."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ReedError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)

    return wrapped


def pick_device(name: str) -> str:
    """The device that --device names; "auto" is the GPU where there is one.

    Of several processes that torchrun started on a machine, each gets a GPU of its own.
    """
    import torch

    if name == "auto":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        name = f"cuda:{local % found}" if found > 1 else "cuda" if found else "cpu"
        return name
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ReedError(f"--device {name} cannot be used here: {reason}") from error
    return name
