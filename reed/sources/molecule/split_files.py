"""Molecules that come split into files: GEOM-DRUGS as MiDi cut it, and what SemlaFlow made of it.

MiDi (https://github.com/cvignac/MiDi) publishes train_data.pickle, val_data.pickle and
test_data.pickle: a list of (SMILES, conformers), which EQGAT-diff, SemlaFlow and REED train on.
SemlaFlow (https://github.com/rssrwn/semla-flow) publishes train.smol, val.smol and test.smol of
GEOM-DRUGS, of which it takes the first conformers, and of QM9. The files are never loaded: they are
gone through once in every process, to learn where the molecules lie.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from reed.build.shard import BadSample
from reed.errors import ReedError
from reed.sources.molecule import pickles, smol

FILES = {
    "train": ("train_data.pickle", "train.smol"),
    "valid": ("val_data.pickle", "val.smol"),
    "test": ("test_data.pickle", "test.smol"),
}
NOTHING = pickles.Span(0, 0)  # of an item that is no molecule


@dataclass(frozen=True)
class SplitFiles:
    """The molecules of a folder of such files, or of one of them, and their first conformers.

    split: train, valid, test, or all that there are. Keys are the file, the number of the molecule
    in it and that of the conformer ("val_data.pickle/000012/00").
    """

    data: Path
    split: str
    conformers: int

    @staticmethod
    def is_at(data: Path) -> bool:
        """Whether there are such files."""
        return bool(_found(data))

    def listing(self, problem_of: Callable[[Any], str]) -> Iterator[tuple[str, str, str]]:
        """Key, stamp and what it is left out for of every conformer that is wanted.

        problem_of: of a molecule, here of its first conformer. What cannot be read passes, to fail
        when it is read.
        """
        for path in self._chosen():
            stamp, index = str(path.stat().st_size), _opened(path, self.conformers)
            numbers = tqdm(range(len(index)), f"list {path.name}", unit="molecule", disable=None)
            for number in numbers:
                count = index.count(number)
                if not count:
                    yield path.name, "", "without conformers"
                    continue
                try:
                    problem = problem_of(index.molecule(number, 0))
                except BadSample:
                    problem = ""
                for rank in range(count):
                    yield f"{path.name}/{number:06d}/{rank:02d}", stamp, problem

    def files(self) -> list[Path]:
        """The files that belong to the layout, of all splits."""
        return [path for _, path in _found(self.data)]

    def _chosen(self) -> list[Path]:
        there = _found(self.data)
        if len({path.suffix for _, path in there}) > 1:
            names = ", ".join(path.name for _, path in there)
            raise ReedError(f"{self.data} holds two sets: {names}; put each into a folder")
        chosen = [path for split, path in there if self.split in ("all", split)]
        if not chosen:
            raise ReedError(
                f"{self.data} has no split {self.split!r}, which would be "
                f"{' or '.join(FILES[self.split])}; it has {', '.join(split for split, _ in there)}"
            )
        return chosen

    def read(self, key: str) -> Any:
        """The conformer of a key, a molecule of RDKit; BadSample with the reason."""
        parts = key.split("/")
        paths = {path.name: path for _, path in _found(self.data)}
        if len(parts) != 3 or parts[0] not in paths or not all(p.isdecimal() for p in parts[1:]):
            raise BadSample(f"no molecule {key!r}: keys are a file, a molecule and a conformer")
        index, number, rank = (
            _opened(paths[parts[0]], self.conformers),
            int(parts[1]),
            int(parts[2]),
        )
        if number >= len(index) or rank >= index.count(number):
            raise BadSample(f"{parts[0]} has no molecule {number} with {rank + 1} conformers")
        return index.molecule(number, rank)


def _found(data: Path) -> list[tuple[str, Path]]:
    """The files that there are, each with its split."""
    named = [(split, name) for split, names in FILES.items() for name in names]
    if data.is_file():
        return [(split, data) for split, name in named if data.name == name]
    return [(split, data / name) for split, name in named if (data / name).is_file()]


@dataclass(frozen=True)
class _Index:
    """Where the conformers of each molecule lie in a file.

    content: the file; starts: [molecules + 1], in spans: [conformers, 2], begins and ends.
    """

    path: Path
    content: mmap.mmap
    starts: np.ndarray
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def count(self, number: int) -> int:
        """How many conformers a molecule has."""
        return int(self.starts[number + 1] - self.starts[number])

    def molecule(self, number: int, rank: int) -> Any:
        """A conformer, a molecule of RDKit; BadSample with the reason."""
        first, last = self.spans[self.starts[number] + rank].tolist()
        if first == last:
            raise BadSample(f"item {number} of {self.path.name} is no SMILES with conformers")
        content = self.content[first:last]
        if self.path.suffix == ".smol":
            return smol.molecule(content)
        return pickles.Packed(content).mol()


def _opened(path: Path, conformers: int) -> _Index:
    status = path.stat()
    return _index(path, conformers, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=3)  # the files of one set
def _index(path: Path, conformers: int, size: int, changed: int) -> _Index:
    """Go through a file; ReedError where it is none of these, or would run something."""
    counts, places = array("q", [0]), array("q")
    try:
        with open(path, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with tqdm(
            total=size,
            desc=f"read {path.name}",
            unit="B",
            unit_scale=True,
            disable=None,
            leave=False,
        ) as bar:
            for item in pickles.items(content, path.name):
                found = _spans_of(item, path.suffix)[:conformers]
                places.extend(place for span in found for place in span[:2])
                counts.append(len(found))
                if found and found[-1].last:
                    bar.update(found[-1].last - bar.n)
    except (OSError, ValueError, BadSample) as error:
        raise ReedError(f"cannot read {path}: {error}") from error
    return _Index(path, content, np.cumsum(counts), np.array(places).reshape(-1, 2))


def _spans_of(item: Any, suffix: str) -> list[pickles.Span]:
    """Where the conformers of an item lie; NOTHING where it is none."""
    if suffix == ".smol":
        return [item if isinstance(item, pickles.Span) and not item.molecule else NOTHING]
    if not isinstance(item, (tuple, list)) or len(item) != 2 or not isinstance(item[1], list):
        return [NOTHING]
    is_molecule = [isinstance(each, pickles.Span) and each.molecule for each in item[1]]
    return item[1] if all(is_molecule) else [NOTHING]
