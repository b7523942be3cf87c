"""Files that hold one molecule after another: where each lies, and its text."""

from __future__ import annotations

import csv
import gzip
import io
import mmap
import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from reed.build.shard import BadSample
from reed.errors import ReedError

SDF = (".sdf", ".sdf.gz", ".sd", ".mol")
LISTS = (".smi", ".smiles", ".csv", ".smi.gz", ".smiles.gz", ".csv.gz")
_END = re.compile(rb"^\$\$\$\$[^\n]*(\n|\Z)", re.MULTILINE)
_LINE = re.compile(rb"[^\r\n]+")


def entry(path: Path, number: int) -> str:
    """The text of entry `number` of an SDF or of a list of SMILES; BadSample with the reason."""
    try:
        status = path.stat()
    except OSError as error:
        raise BadSample(f"cannot read {path.name}: {error.strerror}") from error
    data, spans = _opened(path, status.st_size, status.st_mtime_ns)
    if not 0 <= number < len(spans):
        raise BadSample(f"{path.name} has {len(spans)} entries, none has the number {number}")
    first, last = spans[number]
    try:
        return data[first:last].decode()
    except UnicodeDecodeError as error:
        raise BadSample(f"is no text: {error}") from error


def count(path: Path) -> int:
    """How many entries a file has; ReedError when it cannot be read."""
    status = path.stat()
    return len(_opened(path, status.st_size, status.st_mtime_ns)[1])


@lru_cache(maxsize=2)  # files; a packed one is held in memory
def _opened(
    path: Path, size: int, changed: int
) -> tuple[bytes | mmap.mmap, Sequence[tuple[int, int]]]:
    """The bytes of a file, and where each entry begins and ends."""
    try:
        with open(path, "rb") as file:
            if path.suffix == ".gz":
                data: bytes | mmap.mmap = gzip.decompress(file.read())
            else:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except (OSError, EOFError, zlib.error) as error:
        raise ReedError(f"cannot read {path}: {error}") from error
    if not path.name.endswith(SDF):
        lines = [found.span() for found in _LINE.finditer(data)]
        return data, lines[_header(path, data, lines) :]
    ends = [0, *(found.end() for found in _END.finditer(data))]
    if data[ends[-1] :].strip():  # the last one need not be closed
        ends.append(len(data))
    return data, list(zip(ends[:-1], ends[1:], strict=True))


def _header(path: Path, data: bytes | mmap.mmap, lines: Sequence[tuple[int, int]]) -> int:
    """1 if the first line names columns, else 0."""
    if not lines or ".csv" not in path.suffixes:
        return 0
    return int(bool(_named(data[slice(*lines[0])].decode(errors="replace"))))


def smiles_of(path: Path, number: int) -> str:
    """The SMILES of an entry: the first word of a line, or of a .csv the column called smiles.

    A .csv without such a header has it in its first column.
    """
    line = entry(path, number)
    if ".csv" not in path.suffixes:
        return line.split()[0] if line.strip() else ""
    status = path.stat()
    data, spans = _opened(path, status.st_size, status.st_mtime_ns)
    head = data[: spans[0][0]].decode(errors="replace").strip()
    cells, place = next(csv.reader(io.StringIO(line))), (_named(head) or [0])[0]
    if place >= len(cells):
        raise BadSample(f"the line has {len(cells)} cells, SMILES are in cell {place + 1}")
    return cells[place].strip()


def _named(line: str) -> list[int]:
    """The places of columns that are called smiles, of a line of names."""
    cells = next(csv.reader(io.StringIO(line)), [])
    return [i for i, cell in enumerate(cells) if cell.strip().lower().endswith("smiles")]
