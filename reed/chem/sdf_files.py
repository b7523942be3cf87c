"""Files of molecules as bytes and text, and the entries of SDF files, for all that read them."""

from __future__ import annotations

import codecs
import gzip
import mmap
import zlib
from functools import lru_cache
from pathlib import Path

from reed.chem import sdf_text
from reed.errors import ReedError

SDF = (".sdf", ".sd", ".mol")
PACKED = ".gz"
HEAD = 4096  # bytes that show what a file holds
_GZIP = b"\x1f\x8b"


def ending(path: Path) -> str:
    """Return the ending that says what a file holds, in lower case and without .gz."""
    return Path(path.name.lower().removesuffix(PACKED)).suffix


def is_sdf(path: Path) -> bool:
    """Return whether a file holds mol blocks: by its ending, else by its content."""
    return ending(path) in SDF or _begins_with_a_mol_block(path)


def blocks(path: Path) -> list[str]:
    """Return the mol block of every entry of an SDF file; ReedError if it cannot be read."""
    try:
        data = content(path, path.stat().st_size)
    except OSError as error:
        raise ReedError(f"cannot read {path}: {error.strerror}") from error
    return [sdf_text.mol_block(text(data[slice(*span)])) for span in sdf_text.spans(data)]


def content(path: Path, size: int) -> bytes | mmap.mmap:
    """Return a file's bytes, unpacked if they are gzip, and as UTF-8 if they are UTF-16.

    Raises:
        ReedError: The file cannot be read.
    """
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


def text(data: bytes) -> str:
    """Return the text of bytes: UTF-8, else Latin-1, in which every byte is a letter."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


@lru_cache(maxsize=1024)
def _begins_with_a_mol_block(path: Path) -> bool:
    """Return whether the first bytes of a file hold the counts line of a mol block."""
    try:
        with open(path, "rb") as file:
            return sdf_text.has_counts_line(file.read(HEAD))
    except OSError:
        return False
