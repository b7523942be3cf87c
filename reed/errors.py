"""The one exception that users should ever see, and the hint that names the nearest option."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ReedError(Exception):
    """An error that a user can cause and mend.

    Its message is one line that says what is wrong, where, both values and what to do. The
    commands print it without a traceback and exit with code 2.
    """


def at_least(least: float, where: str = "", **values: float) -> None:
    """Raise ReedError unless each value is at least ``least``.

    Args:
        least: The smallest allowed value.
        where: Text before the name of the value in the message.
        **values: The values by their names.
    """
    for name, value in values.items():
        if not value >= least:
            raise ReedError(f"{where}{name} is {value}, it must be at least {least}")


def suggest(name: str, options: Iterable[str]) -> str:
    """Return the end of an "unknown name" message: the nearest option, then all options."""
    known = sorted(options)
    if not known:
        return " (none are available)"
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} Available: {', '.join(known)}"
