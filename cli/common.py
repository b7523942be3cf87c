"""Parts that several commands share: one-line errors, the device, shell completion."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from reed.errors import ReedError

DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Device: auto (the GPU if there is one), cpu, cuda, cuda:1, …",
)


class Refused(click.ClickException):
    """An error that click prints as "Error: …" on stderr, with exit code 2."""

    exit_code = 2


def one_line_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Print errors that a user can cause as one line, without a traceback.

    The exit code is 2 for an error, and 130 for ^C.
    """

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ReedError as error:
            raise Refused(str(error)) from error
        except OSError as error:
            # Without a file it is not the user's doing; click handles a closed pipe itself.
            if error.filename is None:
                raise
            raise Refused(f"{os.fsdecode(error.filename)}: {error.strerror}") from error
        except KeyboardInterrupt:
            click.echo("\nInterrupted; rerun the command to resume.", err=True)
            raise SystemExit(130) from None

    return wrapped


def completed(names: Callable[[], Iterable[str]]) -> Callable[..., list[CompletionItem]]:
    """Return a function for shell_complete that offers the names with the typed prefix."""

    def complete(_context: Any, _parameter: Any, typed: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in names() if name.startswith(typed)]

    return complete


def folders(*patterns: str) -> Callable[..., list[CompletionItem]]:
    """Return a function for shell_complete that offers the folders of certain files.

    If none of them has the typed prefix, the shell completes any folder.

    Args:
        *patterns: Glob patterns of the files.
    """

    def complete(_context: Any, _parameter: Any, typed: str) -> list[CompletionItem]:
        names = sorted(str(path.parent) for each in patterns for path in Path().glob(each))
        matching = [CompletionItem(name) for name in names if name.startswith(typed)]
        return matching or [CompletionItem(typed, type="dir")]

    return complete


CACHES = folders("cache/*/manifest.json")
RUNS = folders("runs/*/config.json", "runs/*/*/config.json")


def pick_device(name: str) -> str:
    """Return the device that --device names, where "auto" is the GPU if there is one.

    With "auto", each process that torchrun started on a machine gets a GPU of its own.

    Raises:
        ReedError: torch cannot use the device.
    """
    import torch

    if name == "auto":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return f"cuda:{local % gpus}" if gpus > 1 else "cuda" if gpus else "cpu"

    # Only using the device shows whether this build of torch and this machine have it.
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ReedError(f"--device {name} cannot be used here: {reason}") from error
    return name
