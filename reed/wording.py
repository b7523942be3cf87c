"""Numbers of things in messages."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return a number and its noun: "1 shard", "20,614 samples", "2 classes", "0 entries"."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("s"):
        return f"{count:,} {noun}es"
    if noun.endswith("y"):
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}s"


def named(names: list[str], shown: int = 3) -> str:
    """Return the first names, separated by commas; an ellipsis follows if there are more."""
    return ", ".join(names[:shown]) + (", …" if len(names) > shown else "")
