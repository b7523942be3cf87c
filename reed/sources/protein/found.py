"""What a listing needs to know of a file of structures, in a form that can be remembered."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import reed.chem
from reed.build.source import BadSample, NoSample
from reed.cache.account import by_ending
from reed.chem.structure import ASSEMBLY, ENDINGS, Chain, read_structure


class Counts(NamedTuple):
    """The counts of one chain.

    Attributes:
        name: Its name.
        length: Number of residues.
        unknown: How many of them are X.
        can_be_learned: Whether one of them has N, CA, C, O and a letter.
        ways: Number of residues by the origin of their letter.
    """

    name: str
    length: int
    unknown: int
    can_be_learned: bool
    ways: dict[str, int]


class Found(NamedTuple):
    """What is in a file.

    Attributes:
        is_readable: Whether it can be read.
        is_structure: False for a file without a protein, such as that of ions.
        resolution: In angstroms; None if unknown.
        chains: The chains that can be read, as `Counts`.
        unsound: The names of the others.
    """

    is_readable: bool
    is_structure: bool
    resolution: float | None = None
    chains: Sequence[Any] = ()
    unsound: Sequence[str] = ()


def look(path: Path) -> Found:
    """Parse a file."""
    try:
        structure = read_structure(path)
    except NoSample:
        return Found(True, False)
    except BadSample:
        return Found(False, True)

    # Of the residues only what the settings of a source ask for is kept.
    resolution = None if math.isnan(structure.resolution) else structure.resolution
    chains = [
        Counts(
            chain.name,
            len(chain.sequence),
            chain.sequence.count("X"),
            bool(designable(chain).any()),
            dict(Counter(chain.ways)),
        )
        for chain in structure.chains.values()
    ]
    return Found(True, True, resolution, chains, list(structure.unsound))


def designable(chain: Chain) -> np.ndarray:
    """Return which residues can be learned from: all four atoms and one of the 20 letters, [L]."""
    return np.isfinite(chain.coords).all((1, 2)) & (np.array(list(chain.sequence)) != "X")


@cache
def reader() -> str:
    """Return what findings depend on besides the files: our code, and whose letters are used."""
    code = hashlib.sha256()
    for path in [Path(__file__), *sorted(Path(reed.chem.__path__[0]).glob("*.py"))]:
        code.update(path.read_bytes())
    return " ".join(
        [code.hexdigest(), *(f"{name} {_version(name)}" for name in ("gemmi", "biotite"))]
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def reason_to_pass(path: Path) -> str:
    """Return why a file is passed over; empty if it may be a structure."""
    if path.name.startswith("."):
        return "hidden"
    if ENDINGS.search(path.name):
        return ""
    return by_ending(path.name)


def namesakes(keys: Iterable[str]) -> list[list[str]]:
    """Return the files of samples that differ in the ending alone, such as 1abc.pdb and 1abc.cif.

    The assemblies 1abc.pdb1 and 1abc.pdb2 do not count, unless a 1abc.pdb is there.
    """
    files = {key if ENDINGS.search(key) else key.rpartition("/")[0] for key in keys}
    groups: dict[str, list[str]] = {}
    for file in sorted(files):
        groups.setdefault(ENDINGS.sub("", file), []).append(file)
    return [g for g in groups.values() if len(g) > 1 and not all(map(ASSEMBLY.search, g))]
