"""Files that hold one molecule after another: where each lies, and its text."""

from __future__ import annotations

import codecs
import gzip
import mmap
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from reed.build.shard import BadSample
from reed.chem import rdkit
from reed.errors import ReedError
from reed.sources.molecule import sdf_text, tables
from reed.sources.molecule.tables import Dialect

SDF = (".sdf", ".sd", ".mol")
WORDS = (".smi", ".smiles", ".ism", ".cxsmiles")
TABLES = (".csv", ".tsv")
PACKED = ".gz"
EMPTY, NO_SMILES = "holds no molecule", "no column of SMILES"  # why files are passed over
_HEAD, _LOOKED = 4096, 10  # bytes, and records, that show what a file holds
_GZIP = b"\x1f\x8b"
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_ -]*")


def ending(path: Path) -> str:
    """Return the ending that says what a file holds, in lower case and without .gz."""
    return Path(path.name.lower().removesuffix(PACKED)).suffix


def is_sdf(path: Path) -> bool:
    """Return whether a file has molecules with coordinates: by its ending, else by its content."""
    if is_list(path):
        return False
    return ending(path) in SDF or _begins_with_a_mol_block(path)


def is_list(path: Path) -> bool:
    """Return whether a file is a list of SMILES, by its ending."""
    return ending(path) in (*WORDS, *TABLES)


def why_none(path: Path, smiles: str = "") -> str:
    """Return why a file holds no molecules, which is no fault of it; empty if it may hold some.

    Args:
        path: An SDF or a list of SMILES.
        smiles: The column of the SMILES, see `smiles_of`.

    Raises:
        ReedError: The file cannot be read.
    """
    opened = _current(path, smiles)
    if not opened.spans:
        return EMPTY
    if ending(path) not in TABLES or opened.dialect is None or opened.dialect.has_header:
        return ""

    # Tables of properties often lie beside molecules. A first row that looks like names, or ten
    # rows without one SMILES, show that the first column does not hold SMILES.
    looked = range(min(len(opened.spans), _LOOKED))
    texts = [opened.dialect.smiles(_text(opened.data[slice(*opened.spans[i])])) for i in looked]
    are_smiles = [bool(text) and rdkit.library().MolFromSmiles(text) is not None for text in texts]
    is_header = not are_smiles[0] and bool(_WORD.fullmatch(texts[0] or ""))
    return NO_SMILES if is_header or not any(are_smiles) else ""


def first_line(path: Path) -> str:
    """Return the first line of a list, at most 200 characters of it."""
    return _text(_current(path, "").data[:_HEAD]).lstrip().split("\n", 1)[0].strip()[:200]


@lru_cache(maxsize=1024)
def _begins_with_a_mol_block(path: Path) -> bool:
    """Return whether the first bytes of a file hold the counts line of a mol block."""
    try:
        with open(path, "rb") as file:
            return sdf_text.has_counts_line(file.read(_HEAD))
    except OSError:
        return False


def entry(path: Path, number: int, smiles: str = "") -> str:
    """Return the text of entry `number` of an SDF or of a list; BadSample with the reason.

    smiles: the column of the SMILES, see `smiles_of`.
    """
    opened = _current(path, smiles)
    if not 0 <= number < len(opened.spans):
        has = f"{path.name} has {len(opened.spans)} entries"
        raise BadSample(f"{has}, none has the number {number}")
    first, last = opened.spans[number]
    return _text(opened.data[first:last])


def count(path: Path, smiles: str = "") -> int:
    """Return how many entries a file has; ReedError when it cannot be read."""
    return len(_current(path, smiles).spans)


def smiles_of(path: Path, number: int, smiles: str = "") -> str:
    """Return the SMILES of an entry of a list; BadSample where the entry has none.

    smiles: the column that holds them in files whose first line names columns. By default it is
    the one called smiles, or the only one whose name has it. Other files have the SMILES first.
    """
    record, dialect = entry(path, number, smiles), _current(path, smiles).dialect
    assert dialect is not None, "an SDF has no SMILES"
    found = dialect.smiles(record)
    if found is None:
        have = len(tables.cells(record, dialect.separator))
        raise BadSample(f"the line has {have} cells, SMILES are in cell {dialect.column + 1}")
    return found


@dataclass(frozen=True)
class _Opened:
    """A file's bytes, where each entry begins and ends, and how a list is written."""

    data: bytes | mmap.mmap
    spans: Sequence[tuple[int, int]]
    dialect: Dialect | None


def _current(path: Path, smiles: str) -> _Opened:
    """Return a file as it is now; BadSample where it is not there."""
    try:
        status = path.stat()
    except OSError as error:
        raise BadSample(f"cannot read {path.name}: {error.strerror}") from error
    return _opened(path, "" if is_sdf(path) else smiles, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2)  # files; a packed one is held in memory
def _opened(path: Path, smiles: str, size: int, changed: int) -> _Opened:
    """Find the entries of a file; ReedError where it cannot be read."""
    data = _content(path, size)
    if is_sdf(path):
        return _Opened(data, sdf_text.spans(data), None)
    start = len(codecs.BOM_UTF8) if data[:3] == codecs.BOM_UTF8 else 0
    dialect = tables.dialect(data, start, str(path), smiles, ending(path) in TABLES)
    return _Opened(data, dialect.spans(data, start), dialect)


def _content(path: Path, size: int) -> bytes | mmap.mmap:
    """Return a file's bytes, unpacked if they are gzip, and as UTF-8 if they are UTF-16."""
    try:
        with open(path, "rb") as file:
            head = file.read(2)
            if head == _GZIP:
                file.seek(0)
                data: bytes | mmap.mmap = gzip.decompress(file.read())
            else:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return data[:].decode("utf-16").encode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ReedError(f"cannot read {path}: {error}") from error
    return data


def _text(data: bytes) -> str:
    """Return the text of bytes: UTF-8, else Latin-1, in which every byte is a letter."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
