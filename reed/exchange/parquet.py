"""Parquet: one file per shard, for anything that reads parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reed.cache import files
from reed.exchange import FORMATS
from reed.exchange.arrow import batch_of, pyarrow, schema_of
from reed.exchange.table import Row, Table
from reed.weights import library


@FORMATS.register("parquet")
class Parquet:
    """One parquet file per shard, with one row group per block of rows."""

    resumes = copies = True

    def __init__(self, table: Table) -> None:
        self._table = table
        self._pa = pyarrow("writing parquet")
        self._parquet = library("pyarrow.parquet", "writing parquet", "export")
        self._schema = schema_of(self._pa, table).with_metadata(self.metadata())

    def open(self, folder: Path) -> None:
        """Begin to write into a folder."""
        self._folder = folder

    def metadata(self) -> dict[str, str] | None:
        """Return the metadata of every file."""
        return None

    def path(self, shard: int) -> Path:
        """Return the path of the file of a shard."""
        return self._folder / f"{shard:06d}.parquet"

    def has(self, shard: int) -> bool:
        """Whether the file is there: it appears only whole."""
        return self.path(shard).is_file()

    def write(self, shard: int, rows: Iterator[Row]) -> None:
        """Write the file of one shard."""
        with files.new_file(self.path(shard)) as temp:
            with self._writer(temp) as writer:
                for block in self._table.blocks(rows):
                    batch = batch_of(self._pa, self._schema, self._table.features, block)
                    writer.write_batch(batch, row_group_size=len(block))
            files.sync(temp)

    def finish(self) -> None:
        """Nothing describes all files."""

    def _writer(self, path: Path) -> Any:
        return self._parquet.ParquetWriter(path, self._schema, compression="zstd")
