"""The one exception that users should ever see, and the hint that names the nearest option."""

from __future__ import annotations

import contextlib
import difflib
import math
import sysconfig
import traceback
from collections.abc import Generator, Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path


class ReedError(Exception):
    """An error that a user can cause and mend.

    Its message is one line that says what is wrong, where, both values and what to do. The
    commands print it without a traceback and exit with code 2.
    """


class NoPermission(ReedError):
    """A file or folder exists, and this user may not read it, which says nothing of its content."""


class StoreError(ReedError):
    """An object store cannot be used: nothing is known of the objects, and others fail, too."""


def at_least(least: float, where: str = "", **values: float) -> None:
    """Raise ReedError unless each value is finite and at least ``least``.

    Args:
        least: The smallest allowed value.
        where: Text before the name of the value in the message.
        **values: The values by their names.
    """
    for name, value in values.items():
        if not value >= least or value == math.inf:
            finite = "finite and " if value == math.inf else ""
            raise ReedError(f"{where}{name} is {value}, it must be {finite}at least {least}")


def suggest(name: str, options: Iterable[str]) -> str:
    """Return the end of an "unknown name" message: the nearest option, then all options."""
    known = sorted(option for option in options if option)  # an empty one is "leave it out"
    if not known:
        return " (none are available)"
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} Available: {', '.join(known)}"


@contextlib.contextmanager
def placed(where: str, *passing: type[Exception]) -> Generator[None]:
    """Note on an error in a user's own code where it happened, for `place_of`.

    Args:
        where: The column and the key, say.
        *passing: Exceptions that are no bugs.
    """
    try:
        yield
    except (ReedError, *passing):
        raise
    except Exception as error:
        # An error that comes from another process has lost its frames, but not its attributes.
        if not place_of(error) and (frame := _own_frame(error)):
            error._reed_place = f"{where}, {frame}"  # ty: ignore[missing-attribute]  # ours
        raise


def place_of(error: BaseException) -> str:
    """Return where in a user's own code an error happened; empty if it is not known."""
    return getattr(error, "_reed_place", "")


def _own_frame(error: BaseException) -> str:
    """Return "file:line" of the last frame in a user's own code; empty if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.is_relative_to(folder) for folder in _installed()):
            return f"{path.name}:{frame.lineno}"
    return ""


@cache
def _installed() -> tuple[Path, ...]:
    """Return the folders of Python, of installed packages and of reed."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = [Path(sysconfig.get_paths()[name]) for name in names]
    for name in ("reed", "reed.cli", "reed.pipelines"):
        spec = find_spec(name)
        found += map(Path, spec.submodule_search_locations or () if spec else ())
    return tuple(found)
