"""Captions from the user's own file, joined by sample key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reed.build.shard import BadSample, Values
from reed.bytes import file_sha256
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders import pretrained as pre
from reed.errors import ReedError, suggest


@ENCODERS.register("caption-file")
@dataclass
class CaptionFile:
    """The captions in a .jsonl file (one object per line) or a .parquet file.

    The field ``text`` is the caption without surrounding whitespace. A sample without a caption
    fails.

    Attributes:
        file: The .jsonl or .parquet file.
        key: Name of the entry that holds the sample key.
        text: Name of the entry that holds the caption.
        licence: Licence of the captions.
        batch_size: Samples per call of ``encode``.
    """

    file: Path = Path("captions.jsonl")
    key: str = "key"
    text: str = "text"
    licence: str = "as stated with the captions"
    batch_size: int = 256

    reads = ("key",)
    fields = (Field("text", "text", (), "utf8"),)

    def revision(self) -> str:
        """Return the sha256 of the file and the names of the entries that are read."""
        return f"{file_sha256(self.file)[:16]} key={self.key} text={self.text} trimmed"

    def check_files(self) -> None:
        """Raise ReedError unless the file can be read."""
        self.load("cpu")

    def load(self, device: str) -> None:
        """Read all captions into memory.

        Raises:
            ReedError: The file is missing, has another format or repeats a key.
        """
        readers = {".jsonl": _lines, ".parquet": _rows}
        if self.file.suffix not in readers:
            raise ReedError(f"captions {self.file}: use a .jsonl or .parquet file")
        if not self.file.is_file():
            raise ReedError(f"no captions at {self.file}; write one JSON object per line there")
        self._captions: dict[str, str] = {}
        for number, record in readers[self.file.suffix](self.file, (self.key, self.text)):
            where = f"{self.file}, record {number}"
            if record.get(self.text, "") is None:
                record[self.text] = ""  # as if there were none
            key, text = (_text(record, name, where) for name in (self.key, self.text))
            if key in self._captions:
                raise ReedError(f"{where}: key {key!r} has a caption already; keep one")
            self._captions[key] = text.strip()

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one caption per sample.

        Raises:
            BadSample: The file has no caption for a key.
        """
        captions = [self._captions.get(sample["key"], "") for sample in samples]
        if not all(captions):
            raise BadSample(f"no caption in {self.file}")
        return {"text": captions}


def _text(record: dict[str, Any], name: str, where: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise ReedError(f"{where}: {name!r} is {value!r}, it must be text")
    return value


def _lines(path: Path, names: tuple[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ReedError(f"{path}, record {number} is not JSON: {error}") from error
            if not isinstance(record, dict):
                problem = f"{path}, record {number} is {type(record).__name__}"
                raise ReedError(f"{problem}; write objects with {names[0]!r} and {names[1]!r}")
            yield number, record


def _rows(path: Path, names: tuple[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    pre.version("pyarrow")
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        for name in names:
            if name not in file.schema_arrow.names:
                hint = suggest(name, file.schema_arrow.names)
                raise ReedError(f"{path} has no column {name!r}.{hint}")

        # Batches keep the memory small: a file may hold millions of captions.
        number = 0
        for batch in file.iter_batches(columns=list(names)):
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ReedError(f"cannot read {path} as parquet: {reason}") from error
