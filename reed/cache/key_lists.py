"""The lists of keys of a cache: keys.txt, and keys-K.txt of the K-th extension."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from reed.errors import ReedError

_UNFIT = re.compile("[\t\n\r\0\ud800-\udfff]")  # characters that a line of keys.txt cannot hold


def path_of(cache: Path, segment: int) -> Path:
    """Return the path of the list of keys of one segment."""
    return cache / (f"keys-{segment}.txt" if segment else "keys.txt")


def dump(keys: Iterable[str], stamps: Iterable[str]) -> bytes:
    """Return the content of a list of keys: one line KEY<TAB>STAMP per sample."""
    pairs = zip(keys, stamps, strict=True)
    return "".join(f"{key}\t{stamp}\n" for key, stamp in pairs).encode()


def parse(data: bytes) -> tuple[list[str], list[str]]:
    """Return the keys and the stamps of a list of keys."""
    text = data.decode(errors="replace")
    if text.count("\t") != text.count("\n"):  # damaged, which the hash of the list will tell
        lines = [line.partition("\t") for line in text.split("\n")[:-1]]
        return [key for key, _, _ in lines], [stamp for _, _, stamp in lines]
    words = text.replace("\n", "\t").split("\t")  # a tenth of the time of a loop over lines
    return words[:-1:2], words[1::2]


def unfit(keys: Collection[str]) -> list[str]:
    """Return the keys that a list cannot hold: empty, with a tab or line break, or not Unicode."""
    if "" not in keys and not _UNFIT.search("".join(keys)):  # one search is faster than a million
        return []
    return [key for key in keys if not key or _UNFIT.search(key)]


def check(listing: Mapping[str, str]) -> None:
    """Raise ReedError for a key that a list of keys cannot hold, such as an empty one."""
    keys = sorted(listing)
    for key in unfit(keys):
        rule = "is empty, or holds a tab, a line break or characters that are not Unicode"
        raise ReedError(f"sample key {key!r} {rule}; rename it")
    if _UNFIT.search("".join(listing.values())):
        key = next(key for key in keys if _UNFIT.search(listing[key]))
        raise AssertionError(f"the stamp of {key!r} is {listing[key]!r}")
