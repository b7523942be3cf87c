"""Names of molecules as keys: the title line of an SDF, a column of a list of SMILES."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from reed.build.shard import BadSample
from reed.sources.molecule import entries
from reed.wording import counted, named

NONE, AUTO = "none", "auto"  # settings: keys are numbers; names are where files usually have them
SHARED = "names: not unique in their file, so numbers are the keys"
NAMING = 1  # how names become keys; part of the stamps of a plan with names


@dataclass(frozen=True)
class Keys:
    """The last parts of the keys of a file's entries.

    Attributes:
        tails: The name of every entry, or its number in six digits.
        numbers: Number of the entry by last part.
        shared: Numbers of the entries whose name another entry of the file has, too.
    """

    tails: tuple[str, ...]
    numbers: dict[str, int]
    shared: tuple[int, ...] = ()


def as_key(name: str) -> str:
    """Return a name as part of a key: "/" and characters that cannot be printed become "_"."""
    return "".join(c if c.isprintable() and c != "/" else "_" for c in name.strip())


def keys_of(path: Path, smiles: str = "", names: str = NONE) -> Keys:
    """Return the keys of a file as it is now, see the setting ``names`` of the source.

    Raises:
        BadSample: The file is not there.
        ReedError: It cannot be read, or a list lacks the column of names.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise BadSample(f"cannot read {path.name}: {error.strerror}") from error
    return _keys(path, smiles, names, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2)  # files, as in `entries`
def _keys(path: Path, smiles: str, names: str, size: int, changed: int) -> Keys:
    count = entries.count(path, smiles)
    if names == NONE:
        tails = tuple(f"{number:06d}" for number in range(count))
        return Keys(tails, {tail: number for number, tail in enumerate(tails)})
    return made([as_key(entries.name(path, number, smiles, names)) for number in range(count)])


def made(names: Sequence[str]) -> Keys:
    """Return the keys of the entries with these names, which may be empty.

    An entry without a name has its number as key. So have all entries that share a name: a key
    names one sample, and a number for all but the first would make that one depend on the order.
    """
    times = Counter(names)
    shared = tuple(number for number, name in enumerate(names) if name and times[name] > 1)
    tails = [name if name and times[name] == 1 else "" for name in names]

    # A name may look like the number of another entry; then both have numbers.
    numbers = {f"{number:06d}" for number, tail in enumerate(tails) if not tail}
    while clashes := [number for number, tail in enumerate(tails) if tail in numbers]:
        for number in clashes:
            tails[number] = ""
        numbers |= {f"{number:06d}" for number in clashes}

    filled = tuple(tail or f"{number:06d}" for number, tail in enumerate(tails))
    return Keys(filled, {tail: number for number, tail in enumerate(filled)}, shared)


def number_of(path: Path, tail: str, smiles: str = "", names: str = NONE) -> int | None:
    """Return the number of the entry with a key; None if no key ends so."""
    if names == NONE:
        return int(tail) if tail.isdecimal() else None
    return keys_of(path, smiles, names).numbers.get(tail)


def stamp(names: str) -> str:
    """Return the end of the stamps of a plan with this setting."""
    return "" if names == NONE else f"-names{NAMING}"


def line(shared: Sequence[str]) -> str:
    """Return a line on the molecules whose name is not unique, by their keys."""
    are = "is" if len(shared) == 1 else "are"
    count = counted(len(shared), "name")
    return (
        f"molecules: {count} {are} not unique in their file, so the keys of these molecules are "
        f"numbers: {named(shared)}"
    )
