"""The text of SDF files: where each molecule lies, and its mol block in the form RDKit reads.

Format: CTfile Formats (Dassault Systèmes BIOVIA). What people's files have besides is accepted:
any line ends, mol blocks that no ``$$$$`` separates, and headers that lack or add blank lines.
"""

from __future__ import annotations

import mmap
import re

HEADER = 3  # lines before the counts line
END = "M  END"
_MARK = re.compile(rb"\$\$\$\$[^\r\n]*(?:\r\n|\r|\n|\Z)|V[23]000[ \t]*(?=[\r\n]|\Z)")
_COUNTS = re.compile(rb"(?=[ \d]*\d)[ \d]{6}[^\r\n]*\Z")
_LINES = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)")
_BREAK = re.compile(r"\r\n|\r|\n")
_LOOK_BACK = 1000  # bytes before a counts line in which its header is looked for


def spans(data: bytes | mmap.mmap) -> list[tuple[int, int]]:
    """Return where each molecule of an SDF begins and ends.

    A molecule ends at a line that begins with ``$$$$``, or where the next mol block begins.
    """
    found: list[tuple[int, int]] = []
    start, blocks = 0, 0

    for mark in _MARK.finditer(data):
        at = mark.start()
        if data[at : at + 1] == b"$":
            if at == 0 or data[at - 1 : at] in (b"\r", b"\n"):
                found.append((start, mark.end()))
                start, blocks = mark.end(), 0
            continue
        head = _LINES.findall(data[max(start, at - _LOOK_BACK) : at] + b"\n")
        if not head or not _COUNTS.match(head[-1][:-1]):
            continue
        # The second block of one entry is a molecule of its own, unless it is a property's value.
        if blocks and _is_new(head[:-1]):
            first = at - sum(map(len, head[-1 - HEADER :])) + 1
            found.append((start, first))
            start = first
        blocks += 1

    if data[start:].strip():  # The last one need not be closed.
        found.append((start, len(data)))
    return found


def has_counts_line(data: bytes) -> bool:
    """Return whether there is a counts line, by which mol blocks are known."""
    for mark in _MARK.finditer(data):
        line = re.split(rb"[\r\n]", data[: mark.start()])[-1]
        if mark[0].startswith(b"V") and _COUNTS.match(line):
            return True
    return False


def _is_new(before: list[bytes]) -> bool:
    """Return whether a header ends here that follows a mol block or the blank line after data."""
    if len(before) <= HEADER:
        return False
    return before[-1 - HEADER].strip() in (b"", END.encode())


def title(head: bytes) -> str:
    """Return the title of an entry, the first line of its header; empty if it has none.

    Args:
        head: The first bytes of the entry, with its counts line.
    """
    lines = [line.rstrip(b"\r\n") for line in _LINES.findall(head)]
    counts = next((i for i, line in enumerate(lines) if _is_counts(line)), HEADER)
    if counts < HEADER or counts > len(lines):  # a program has removed the blank lines
        return ""
    first = lines[counts - HEADER]
    try:
        return first.decode().strip()
    except UnicodeDecodeError:
        return first.decode("latin-1").strip()


def _is_counts(line: bytes) -> bool:
    return line.rstrip().endswith((b"V2000", b"V3000")) and bool(_COUNTS.match(line.rstrip()))


def mol_block(text: str) -> str:
    """Return the mol block of an entry with three lines before its counts line.

    Programs that strip a file remove the blank first lines of its header, and others add a blank
    line behind ``$$$$``. Text without a counts line is returned with its line ends changed only.
    """
    lines = _BREAK.split(text)
    counts = next((i for i, line in enumerate(lines) if _is_counts(line.encode())), HEADER)
    lines = [""] * (HEADER - counts) + lines[max(0, counts - HEADER) :]
    after = range(HEADER, len(lines))
    end = next((number for number in after if lines[number].rstrip() == END), len(lines))
    return "\n".join(lines[: end + 1]) + "\n"
