"""Lance: one data set, with one version per shard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reed.errors import ReedError
from reed.exchange import FORMATS
from reed.exchange.arrow import batch_of, pyarrow, schema_of
from reed.exchange.table import Row, Table
from reed.weights import library


@FORMATS.register("lance")
class Lance:
    """A Lance data set; every shard is appended in one commit, so a killed one leaves no rows.

    Lance allows no "." in a name. A column of the cache is a struct of its fields, so that
    "column.field" is the address of a field here, too.
    """

    resumes = copies = True

    def __init__(self, table: Table) -> None:
        for name in table.columns:
            if "." in name:
                problem = f"Lance allows no '.' in a name, and a column is called {name!r}"
                raise ReedError(f"{problem}; choose others with --column, or another format")
        self._table = table
        self._lance = library("lance", "writing Lance", "lance")
        self._pa = pyarrow("writing Lance")
        self._flat = schema_of(self._pa, table)
        self._schema = self._nested([]).schema

    def open(self, folder: Path) -> None:
        """Begin to write, or go on after the last commit."""
        self._folder, self._done = folder, 0
        if (folder / "_versions").is_dir():
            self._done = self._lance.dataset(str(folder)).count_rows()

    def has(self, shard: int) -> bool:
        """Whether the rows up to the end of the shard are committed."""
        return sum(self._table.count(each) for each in range(shard + 1)) <= self._done

    def write(self, shard: int, rows: Iterator[Row]) -> None:
        """Append the rows of one shard."""
        batches = (
            self._nested([batch_of(self._pa, self._flat, self._table.features, block)])
            for block in self._table.blocks(rows)
        )
        reader = self._pa.RecordBatchReader.from_batches(self._schema, batches)
        mode = "append" if (self._folder / "_versions").is_dir() else "create"
        self._lance.write_dataset(reader, str(self._folder), schema=self._schema, mode=mode)

    def finish(self) -> None:
        """Nothing describes all shards but the data set itself."""

    def _nested(self, batches: list[Any]) -> Any:
        """Return one batch, or the empty one, with a struct for each column of the cache."""
        pa, flat = self._pa, self._flat
        (batch,) = batches or [pa.RecordBatch.from_pylist([], schema=flat)]
        fields = [flat.field(name) for name in ("key", "view") if name in flat.names]
        arrays = [batch.column(field.name) for field in fields]

        # The fields of a column are neighbours in a struct.
        for name in self._table.columns:
            inside = [f for f in self._table.features if f.column == name]
            kinds = [flat.field(f.name).with_name(f.field.name) for f in inside]
            values = [batch.column(f.name) for f in inside]
            arrays.append(pa.StructArray.from_arrays(values, fields=kinds))
            fields.append(pa.field(name, pa.struct(kinds)))
        return pa.record_batch(arrays, schema=pa.schema(fields))
