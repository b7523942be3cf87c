"""MDS, the format of MosaicML Streaming, written without its library.

A file has the number of samples, their offsets, what describes its columns, and the samples: the
sizes of the values whose size varies, then all values. index.json lists the files. See
https://docs.mosaicml.com/projects/streaming/en/stable/preparing_datasets/dataset_format.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from reed.cache import files
from reed.errors import ReedError
from reed.exchange import FORMATS
from reed.exchange.table import Feature, Row, Table

_LARGEST = 2**32 - 1  # offsets are 32 bits wide
_UINT32 = 2  # its number among the types of a shape
_FILE_BYTES = 64 << 20  # as the library's default


@FORMATS.register("mds")
class Mds:
    """One folder per shard with files of at most 64 MiB, and index.json for all of them."""

    resumes = copies = True

    def __init__(self, table: Table) -> None:
        self._shards = range(table.cache.plan.shards)
        kinds = {"key": "str"} | ({"view": "int"} if table.views > 1 else {})
        kinds |= {f.name: _encoding(f) for f in table.features}
        sizes = {"view": 8} | {f.name: _size(f) for f in table.features}
        self._features = {f.name: f for f in table.features}

        # The columns are in alphabetical order, as those that the library writes.
        self._names = sorted(kinds)
        self._kinds = [kinds[name] for name in self._names]
        self._sizes = [sizes.get(name) for name in self._names]

    def open(self, folder: Path) -> None:
        """Begin to write into a folder."""
        self._folder = folder

    def has(self, shard: int) -> bool:
        """Whether the folder is there: it appears only whole."""
        return (self._folder / f"{shard:06d}").is_dir()

    def write(self, shard: int, rows: Iterator[Row]) -> None:
        """Write the files of one shard and the part of the index that lists them."""
        described, samples, size = [], [], 0
        with files.new_folder(self._folder / f"{shard:06d}") as temp:
            for row in rows:
                samples.append(self._sample(row))
                size += len(samples[-1])
                if size >= _FILE_BYTES:
                    described.append(self._file(temp, shard, len(described), samples))
                    samples, size = [], 0
            if samples:
                described.append(self._file(temp, shard, len(described), samples))
            (temp / "part.json").write_text(json.dumps(described))

    def finish(self) -> None:
        """Write index.json, and remove its parts."""
        parts = [self._folder / f"{shard:06d}" / "part.json" for shard in self._shards]
        shards = [each for part in parts if part.is_file() for each in json.loads(part.read_text())]
        index = json.dumps({"version": 2, "shards": shards}, sort_keys=True)
        files.write_atomic(self._folder / "index.json", index.encode())
        for part in parts:
            part.unlink(missing_ok=True)

    def _sample(self, row: Row) -> bytes:
        """Return one sample: the sizes of the values whose size varies, and all values."""
        values = [_encoded(self._features.get(name), row[name]) for name in self._names]
        pairs = zip(values, self._sizes, strict=True)
        varying = [len(value) for value, size in pairs if size is None]
        return np.array(varying, np.uint32).tobytes() + b"".join(values)

    def _file(self, folder: Path, shard: int, number: int, samples: list[bytes]) -> dict[str, Any]:
        """Write one file and return its entry in the index."""
        columns = {
            "column_encodings": self._kinds,
            "column_names": self._names,
            "column_sizes": self._sizes,
        }
        common = {"compression": None, "format": "mds", "hashes": [], "size_limit": _FILE_BYTES}
        text = json.dumps(columns | common, sort_keys=True).encode()

        # The offsets count from the beginning of the file, and the last one is its end.
        start = 4 * (1 + len(samples) + 1) + len(text)
        offsets = start + np.cumsum([0, *map(len, samples)], dtype=np.int64)
        if offsets[-1] > _LARGEST:
            raise ReedError(f"shard {shard} has a sample of 4 GiB, more than MDS can hold")
        head = np.array([len(samples), *offsets], np.uint32).tobytes()
        name = f"shard.{number:05d}.mds"
        with open(folder / name, "wb") as file:
            file.writelines([head, text, *samples])
        raw = {"basename": f"{shard:06d}/{name}", "bytes": int(offsets[-1]), "hashes": {}}
        file = {"version": 2, "samples": len(samples), "raw_data": raw, "zip_data": None}
        return columns | common | file


def _encoding(feature: Feature) -> str:
    if feature.dtype == "utf8":
        return "str"
    if not feature.shape:
        return "int" if np.dtype(feature.dtype).kind in "iu" else feature.dtype
    shape = ":" + ",".join(map(str, feature.shape))
    return f"ndarray:{feature.dtype}{shape if _is_fixed(feature) else ''}"


def _is_fixed(feature: Feature) -> bool:
    """Whether the shape is a part of the column: the library wants every length above 0 there."""
    return all(feature.shape)  # neither None nor 0


def _size(feature: Feature) -> int | None:
    """Return the bytes of a value; None where they vary."""
    if feature.dtype == "utf8" or not _is_fixed(feature):
        return None
    if not feature.shape:
        return 8 if np.dtype(feature.dtype).kind in "iu" else np.dtype(feature.dtype).itemsize
    return prod(feature.field.sizes) * np.dtype(feature.dtype).itemsize


def _encoded(feature: Feature | None, value: Any) -> bytes:
    """Return the bytes of a value; an array of varying shape has its shape before its values."""
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, np.ndarray):
        kind = "int64" if isinstance(value, int) or feature is None else feature.dtype
        return np.array(value, kind).tobytes()
    if feature is not None and _is_fixed(feature):
        return value.tobytes()
    head = bytes([value.ndim << 2 | _UINT32])
    return head + np.array(value.shape, np.uint32).tobytes() + value.tobytes()
