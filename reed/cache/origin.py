"""The column that a transcoded column was made from."""

from __future__ import annotations

from pathlib import Path

from reed.cache import schema
from reed.cache.schema import Column


def origin_of(column: Column) -> str:
    """Return the name of the column that a column was made from; empty if an encoder made it."""
    return next(iter(column.made_from), "").partition("/")[0]


def command(cache: Path, column: Column) -> str:
    """Return the command that makes a transcoded column, or its missing shards."""
    codecs = " ".join(f"--codec {address}={codec}" for address, codec in column.made_from.items())
    return f"reed-cache convert {cache} {codecs} --name {column.name}"


def why_lost(cache: Path, column: Column) -> str:
    """Return why a transcoded column cannot be made again; empty if it can, or an encoder made it.

    Args:
        cache: Folder of the cache.
        column: The column, which itself may be whole.
    """
    name = origin_of(column)
    if not name:
        return ""
    if name not in schema.columns(cache):
        return f"it was made from column {name!r}, which is gone"
    was, now = column.inputs.get(name, ""), schema.load_column(cache, name).identity()
    if was != now:
        return f"it was made from column {name!r} with the identity {was}, which now has {now}"
    return ""
