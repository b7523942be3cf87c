"""A cache in the formats of other loaders and tools: one module per format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from reed.exchange.table import Row, Table
from reed.registry import Registry

FORMATS = Registry("format", "reed.exchange")


class Format(Protocol):
    """A writer of one format; creating it raises ReedError for a table that it cannot write.

    Attributes:
        resumes: Whether a second export goes on where the first one was killed.
        copies: Whether it copies the values; if not, there need be no room for them.
    """

    resumes: bool
    copies: bool

    def __init__(self, table: Table) -> None: ...

    def open(self, folder: Path) -> None:
        """Begin to write; the folder gets its final name only after ``finish``."""
        ...

    def has(self, shard: int) -> bool:
        """Whether the rows of a shard are in the folder, whole."""
        ...

    def write(self, shard: int, rows: Iterator[Row]) -> None:
        """Write the rows of one shard; shards come in ascending order."""
        ...

    def finish(self) -> None:
        """Write what describes all shards."""
        ...
