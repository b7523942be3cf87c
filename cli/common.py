"""What the commands share: errors of one line, the device, what a shell completes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from reed.errors import ReedError


class Refused(click.ClickException):
    """What click shows as "Error: …" on stderr, as it shows a mistyped option; exit code 2."""

    exit_code = 2


def one_line_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Show what a user can cause as one line, without a traceback: exit code 2, or 130 for ^C."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ReedError as error:
            raise Refused(str(error)) from error
        except OSError as error:
            if error.filename is None:  # no file of the user's; a closed pipe is click's to end
                raise
            raise Refused(f"{os.fsdecode(error.filename)}: {error.strerror}") from error
        except KeyboardInterrupt:
            click.echo("\nInterrupted; rerun the command to resume.", err=True)
            raise SystemExit(130) from None

    return wrapped


def completed(names: Callable[[], Iterable[str]]) -> Callable[..., list[CompletionItem]]:
    """For shell_complete: those of some names that begin like the typed word."""

    def complete(_context: Any, _parameter: Any, typed: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in names() if name.startswith(typed)]

    return complete


def folders(*patterns: str) -> Callable[..., list[CompletionItem]]:
    """For shell_complete: the folders of the files that match a pattern, or else any folder."""

    def complete(_context: Any, _parameter: Any, typed: str) -> list[CompletionItem]:
        found = sorted(str(path.parent) for each in patterns for path in Path().glob(each))
        near = [CompletionItem(name) for name in found if name.startswith(typed)]
        return near or [CompletionItem(typed, type="dir")]

    return complete


CACHES = folders("cache/*/manifest.json")
RUNS = folders("runs/*/config.json", "runs/*/*/config.json")


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
