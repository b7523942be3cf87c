"""Files that hold one molecule after another: where each lies, and its text."""

from __future__ import annotations

import codecs
import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from reed.build.shard import BadSample
from reed.chem import sdf_files, sdf_text
from reed.chem.sdf_files import HEAD, content, ending, text
from reed.sources.molecule import tables
from reed.sources.molecule.tables import Dialect
from reed.wording import counted

WORDS = (".smi", ".smiles", ".ism", ".cxsmiles")
TABLES = (".csv", ".tsv")
EMPTY, NO_SMILES = "holds no molecule", "no column of SMILES"  # why files are passed over
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_ -]*")


class NoSmiles(BadSample):
    """An entry of a list whose cell of the SMILES is empty."""


def is_sdf(path: Path) -> bool:
    """Return whether a file has molecules with coordinates: by its ending, else by its content."""
    return not is_list(path) and sdf_files.is_sdf(path)


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
    if opened.dialect is None or opened.dialect.has_header:
        return ""

    # Tables of properties often lie beside molecules. A first row that looks like names, or ten
    # rows without one SMILES, show that the first column does not hold SMILES.
    looked = range(min(len(opened.spans), tables.LOOKED))
    texts = [opened.dialect.smiles(text(opened.data[slice(*opened.spans[i])])) for i in looked]
    are_smiles = list(map(tables.is_smiles, texts))
    if not any(texts):  # comments, which tell nothing
        return ""
    is_table = ending(path) in TABLES
    is_header = is_table and not are_smiles[0] and bool(_WORD.fullmatch(texts[0]))
    return NO_SMILES if is_header or not any(are_smiles) else ""


def first_line(path: Path) -> str:
    """Return the first line of a list, at most 200 characters of it."""
    return text(_current(path, "").data[:HEAD]).lstrip().split("\n", 1)[0].strip()[:200]


def entry(path: Path, number: int, smiles: str = "") -> str:
    """Return the text of entry `number` of an SDF or of a list; BadSample with the reason.

    smiles: the column of the SMILES, see `smiles_of`.
    """
    opened = _current(path, smiles)
    if not 0 <= number < len(opened.spans):
        has = f"{path.name} has {counted(len(opened.spans), 'entry')}"
        raise BadSample(f"{has}, none has the number {number}")
    first, last = opened.spans[number]
    return text(opened.data[first:last])


def count(path: Path, smiles: str = "") -> int:
    """Return how many entries a file has; ReedError when it cannot be read."""
    return len(_current(path, smiles).spans)


def smiles_of(path: Path, number: int, smiles: str = "") -> str:
    """Return the SMILES of an entry of a list; NoSmiles where its cell is empty.

    smiles: the column that holds them in files whose first line names columns. By default it is
    the one called smiles, or the only one whose name has it. Other files have the SMILES first.
    """
    record, dialect = entry(path, number, smiles), _current(path, smiles).dialect
    assert dialect is not None, "an SDF has no SMILES"
    found = dialect.smiles(record)
    if have := dialect.excess(record):
        named = counted(dialect.width, "column")
        raise BadSample(f"the line has {have} cells, the first line names {named}; quote cells")
    if not found:
        have = len(tables.cells(record, dialect.separator))
        short = f": the line has {have} of {dialect.column + 1} cells"
        raise NoSmiles(f"has no SMILES{short if have <= dialect.column else ''}")
    return found


def name(path: Path, number: int, smiles: str, names: str) -> str:
    """Return the name of an entry; empty if it has none.

    Args:
        path: The file.
        number: Number of the entry, from 0.
        smiles: The column of the SMILES, see `smiles_of`.
        names: The column of the names, or "auto", see `tables.Dialect.name_column`.
    """
    opened = _current(path, smiles)
    first, last = opened.spans[number]
    if opened.dialect is None:
        return sdf_text.title(opened.data[first : min(last, first + HEAD)])
    column = opened.dialect.name_column(names, ending(path) in TABLES, str(path))
    return opened.dialect.name(text(opened.data[first:last]), column)


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
    data = content(path, size)
    if is_sdf(path):
        return _Opened(data, sdf_text.spans(data), None)
    start = len(codecs.BOM_UTF8) if data[:3] == codecs.BOM_UTF8 else 0
    stated, start = tables.separator_of_excel(data, start)
    dialect = tables.dialect(data, start, str(path), smiles, ending(path) in TABLES, stated)
    return _Opened(data, dialect.spans(data, start), dialect)
