"""Megatron Energon: metadata only, beside links to the tars of the cache."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

from reed.cache import files, schema
from reed.cache.schema import Column
from reed.errors import ReedError
from reed.exchange import FORMATS
from reed.exchange.table import Row, Table
from reed.weights import library

_CRUDE = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}


@FORMATS.register("energon")
class Energon:
    """One data set per column, and metadataset.yaml, which joins them by key.

    The function that joins them, `reed.exchange.joined.join`, decodes the values.
    """

    resumes = copies = False

    def __init__(self, table: Table) -> None:
        if table.dtype != "float32":
            problem = f"energon reads the tars of the cache, so --dtype {table.dtype} has no effect"
            raise ReedError(f"{problem}; leave it out")
        # Its own files are what it reads, so there is no choice of values.
        for name, column in table.columns.items():
            chosen = [f"{name}/{f.field.name}" for f in table.features if f.column == name]
            if len(chosen) < len(column.fields):
                raise ReedError(
                    f"energon reads whole columns, not {chosen[0]}; give --column {name}"
                )
            if column.container != "tar":
                problem = f"energon reads tars, and the shards of column {name!r} are"
                advice = f"reed-cache convert {table.cache.folder} --to tar"
                raise ReedError(f"{problem} {column.container}; convert them: {advice} --out DIR")

        self._table = table
        webdataset = "megatron.energon.flavors.webdataset.prepare"
        purpose = "metadata for energon"
        self._prepare = library(webdataset, purpose, "energon").WebdatasetPreparator
        self._loader = library("megatron.energon.metadataset.loader", purpose, "energon")
        self._path = library("megatron.energon.epathlib", purpose, "energon").EPath

    def open(self, folder: Path) -> None:
        """Begin to write into an empty folder."""
        self._folder = folder

    def has(self, shard: int) -> bool:
        """Whether the shard is done: the metadata are written together at the end."""
        return False

    def write(self, shard: int, rows: Iterator[Row]) -> None:
        """Nothing is copied."""

    def finish(self) -> None:
        """Link the tars and write what energon reads beside them."""
        with contextlib.redirect_stdout(io.StringIO()):  # the library reports its progress there
            for column in self._table.columns.values():
                self._describe(column)

            # JSON is YAML, too. A sample that a column lacks is skipped.
            names = list(self._table.columns)
            first, *others = names
            join = [{"path": first}, *({"path": n, "nonmatch": "skip"} for n in others)]
            joiner = {"__module__": "reed.exchange.joined", "__function__": "join"}
            splits = {"train": {"join": join, "joiner": joiner}}
            kind = {"__module__": "megatron.energon", "__class__": "MetadatasetV2"}
            path = self._folder / "metadataset.yaml"
            path.write_text(json.dumps(kind | {"splits": splits}, indent=2))
            self._loader.prepare_metadataset(self._path(str(path)))

    def _describe(self, column: Column) -> None:
        """Write the folder of one column: links, its description, and energon's index."""
        cache, folder = self._table.cache.folder, self._folder / column.name
        folder.mkdir()
        names = []
        for shard in range(self._table.cache.plan.shards):
            tar = schema.shard_path(cache, column, shard)
            names.append(tar.name)

            # From a folder as deep as the final one, so the links hold after the renaming.
            (folder / tar.name).symlink_to(os.path.relpath(tar.resolve(), folder.resolve()))
        for name in ("column.json", "calibration.npz"):
            if (source := cache / column.name / name).is_file():
                files.write_atomic(folder / name, source.read_bytes())
        self._prepare.prepare_dataset(
            self._path(str(folder)),
            names,
            split_parts_ratio=[("train", 1.0)],
            shuffle_seed=None,
            workers=1,
        )
        (folder / ".nv-meta" / "dataset.yaml").write_text(json.dumps(_CRUDE))
