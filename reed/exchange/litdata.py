"""LitData: chunks of at most 64 MB, written by its own library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reed.exchange import FORMATS
from reed.exchange.table import Row, Table
from reed.weights import library


@FORMATS.register("litdata")
class LitData:
    """A folder of chunks and index.json, which `litdata.StreamingDataset` reads."""

    resumes, copies = False, True  # its chunks do not end where shards end

    def __init__(self, table: Table) -> None:
        self._module = library("litdata.streaming.writer", "writing LitData", "litdata")

    def open(self, folder: Path) -> None:
        """Begin to write into an empty folder."""
        self._writer = self._module.BinaryWriter(str(folder), chunk_bytes="64MB")
        self._next = 0

    def has(self, shard: int) -> bool:
        """Whether the shard is there: an export always starts anew."""
        return False

    def write(self, shard: int, rows: Iterator[Row]) -> None:
        """Write the rows of one shard."""
        for row in rows:
            self._writer[self._next] = row
            self._next += 1

    def finish(self) -> None:
        """Write the last chunk and the index."""
        self._writer.done()
        self._writer.merge()
