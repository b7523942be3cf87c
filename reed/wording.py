"""Numbers and names of things in messages."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 3  # names in a line
CLASSES = 12  # names of classes in a line


def counted(count: int, noun: str) -> str:
    """Return a number and its noun: "1 shard", "20,614 samples", "2 classes", "0 entries"."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("s"):
        return f"{count:,} {noun}es"
    if noun.endswith("y"):
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}s"


def named(names: Sequence[str], count: int | None = None) -> str:
    """Return the first names, separated by commas; an ellipsis follows if there are more.

    Args:
        names: The names, or the first of them.
        count: Number of all names, if ``names`` are not all.
    """
    more = ", …" if (len(names) if count is None else count) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def changed(name: str, old: object, new: object) -> str:
    """Return how a setting differs: "with seed = 1, now it is 2", "without compile, now with …".

    Args:
        name: Its name.
        old: Its value before; None, or an empty list, if there was none.
        new: Its value now; the same.
    """
    if old in (None, []):
        return f"without {name}, now with {name} = {new!r}"
    now = "without it" if new in (None, []) else f"it is {new!r}"
    return f"with {name} = {old!r}, now {now}"


def classes_of(names: Sequence[str]) -> str | None:
    """Return number and names of classes, such as "3: cat, dog, zebra"; None without classes."""
    if not names:
        return None
    more = f", … {names[-1]}" if len(names) > CLASSES else ""
    return f"{len(names)}: {', '.join(names[:CLASSES])}{more}"
