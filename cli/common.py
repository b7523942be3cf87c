"""Parts that several commands share: one-line errors, the device, shell completion."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import traceback
from collections.abc import Callable, Generator, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from reed.errors import ReedError, place_of
from reed.store import mirror, urls

DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    shell_complete=lambda *words: completed(lambda: ("auto", "cpu", "cuda"))(*words),
    help="Device: auto (the GPU if there is one), cpu, cuda, cuda:1, …",
)


TRACEBACK = click.option(
    "--traceback",
    is_flag=True,
    expose_value=False,
    callback=lambda context, _, value: context.meta.update({"reed.traceback": value}),
    help="Show the traceback of an error.",
)


class Refused(click.ClickException):
    """An error that click prints as "Error: …" on stderr, with exit code 2."""

    exit_code = 2


class CacheDir(click.Path):
    """The folder of a cache, or its URL: the folder is then its mirror, with what is there now."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path of the folder."""
        if (ctx and ctx.resilient_parsing) or not urls.url_of(value):
            return super().convert(value, param, ctx)
        try:
            return mirror.local(value)
        except ReedError as error:
            raise Refused(str(error)) from error


class LocalDir(click.Path):
    """A folder to write that has to be one of this machine, not a URL."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path of the folder."""
        if re.match(r"[a-z][a-z0-9+]+:/", str(value)):
            raise Refused(f"{value} is a URL, a folder of this machine is wanted; name one")
        return super().convert(value, param, ctx)


@contextlib.contextmanager
def importing() -> Generator[None]:
    """Import large libraries in the `with` block without looking for garbage in between.

    Modules are not garbage, and looking for it takes a tenth of the time of importing torch.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def one_line_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Print errors that a user can cause as one line, without a traceback.

    The exit code is 2 for an error, and 130 for ^C.
    """

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ReedError as error:
            if _wants_traceback():
                traceback.print_exc()
            raise Refused(str(error)) from error
        except Exception as error:
            # A bug in a user's own code says where it is; one of ours keeps its traceback.
            if _wants_traceback():
                traceback.print_exc()
            if place := place_of(error):
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                raise Refused(f"{place}: {reason} (--traceback shows the rest)") from error
            if not isinstance(error, OSError):
                raise

            # Without a file it is not the user's doing; click handles a closed pipe itself.
            if error.filename is None:
                raise
            raise Refused(f"{os.fsdecode(error.filename)}: {error.strerror}") from error
        except KeyboardInterrupt:
            click.echo("\nInterrupted; rerun the command to resume.", err=True)
            raise SystemExit(130) from None

    return TRACEBACK(wrapped)


def _wants_traceback() -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get("reed.traceback"))


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


def either(place: Path | None, run: Path | None) -> Path | None:
    """Return the run that is named by position or by --run; UsageError if they name two."""
    if place is not None and run is not None and place != run:
        raise click.UsageError(f"RUN is {place} and --run is {run}; name one of them")
    return run if place is None else place


def one_run(place: Path | None, run: Path | None, what: str) -> Path:
    """Return what `either` does; UsageError if nothing is named, with the name of the argument."""
    found = either(place, run)
    if found is None:
        raise click.UsageError(f"Missing argument {what!r}.")
    return found


def read_data(run: Path) -> dict[str, Any]:
    """Return the data.json of a run; empty if it cannot be read."""
    try:
        table = json.loads((run / "data.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def kind_of(run: Path) -> str:
    """Return the kind of a run as its data.json states it; empty if there is none."""
    return str(read_data(run).get("domain", ""))


def sample_command(run: Path) -> str:
    """Return the command that draws samples from a run, with the options that its domain needs."""
    from reed.domains.base import Asking  # here, because it imports torch
    from reed.train.run_data import domain_class

    domain = domain_class(kind_of(run))
    return f"reed-sample --run {run} {domain.asks if isinstance(domain, Asking) else ''}".rstrip()


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
