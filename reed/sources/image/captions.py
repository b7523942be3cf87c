"""Captions beside images: a .txt of the image's name, or a .jsonl at the top of the data."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Collection, Iterable
from typing import Any

from reed.errors import ReedError

KEYS = ("key", "file_name", "file", "image")  # entries of a line that name the image
TEXTS = ("text", "caption")  # entries of a line that hold its caption
PARTIAL = "caption, but not every image has one"  # the reason for not reading captions
TXT, JSONL = ".txt", ".jsonl"


def beside(key: str) -> str:
    """Return the name of the file that may hold the caption of an image."""
    return posixpath.splitext(key)[0] + TXT


def is_table(name: str) -> bool:
    """Whether a name is that of a .jsonl at the top of the data, which may hold captions."""
    return "/" not in name and name.lower().endswith(JSONL)


def read_table(where: str, content: bytes, found: dict[str, str]) -> None:
    """Add the captions in a .jsonl by image; none if its first line names no image and text.

    Args:
        where: The file, for messages.
        content: Its content.
        found: The captions of the files before, by image.

    Raises:
        ReedError: A later line is no JSON, or lacks the image or the text; or an image has two
            captions that differ.
    """
    names: tuple[str, str] | None = None
    for number, line in enumerate(content.decode("utf-8-sig", errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        record = _record(line)

        # The first line shows whether the file holds captions at all.
        if names is None:
            key, text = (_first(record, known) for known in (KEYS, TEXTS))
            if not key or not text:
                return
            names = (key, text)
        image, text = (record.get(name) if record else None for name in names)
        if not isinstance(image, str) or not isinstance(text, str):
            problem = f"{where}, line {number}: no text under {names[0]!r} and {names[1]!r}"
            raise ReedError(f"{problem}, which line 1 has; mend the line, or move the file away")
        name, text = posixpath.normpath(image), text.strip()
        if found.setdefault(name, text) != text:
            problem = (
                f"{where}, line {number}: {name!r} has the caption {found[name][:40]!r} already"
            )
            raise ReedError(f"{problem}, here it is {text[:40]!r}; leave one of them")


def sorted_out(
    images: Collection[str], others: Iterable[str], table: Collection[str]
) -> tuple[bool, set[str], list[str]]:
    """Tell the captions among the files beside images from other files.

    Args:
        images: Names of the images.
        others: Names of the other files.
        table: The images that a .jsonl has captions of.

    Returns:
        Whether every image has a caption, the files that hold captions, and the files that do not.
    """
    others = list(others)
    texts = {name for name in others if name.lower().endswith(TXT)}

    # Most data have no captions, and a million names need not be looked at to find none.
    if not texts and not table:
        return False, set(), others
    used = {beside(key) for key in images if key not in table} & texts
    complete = bool(images) and all(key in table or beside(key) in used for key in images)
    if any(key in table for key in images):
        used |= {name for name in others if is_table(name)}
    return complete and bool(used), used, [name for name in others if name not in used]


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _first(record: dict[str, Any] | None, names: Iterable[str]) -> str:
    """Return the first of some names under which a record has text; empty if there is none."""
    return next((n for n in names if record and isinstance(record.get(n), str)), "")
