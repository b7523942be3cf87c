"""GEOM as its authors publish it: a table of SMILES beside pickles of conformers.

Axelrod and Gomez-Bombarelli, Scientific Data 9, 185 (2022), the folder rdkit_folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from reed.build.shard import BadSample
from reed.chem import rdkit
from reed.errors import ReedError
from reed.sources.molecule import pickles

SUMMARIES = ("summary_drugs.json", "summary_qm9.json")


@dataclass(frozen=True)
class Geom:
    """The molecules of one rdkit_folder, each with its conformers of lowest energy."""

    folder: Path
    conformers: int

    @staticmethod
    def is_at(folder: Path) -> bool:
        """Whether a folder has this layout."""
        return any((folder / name).is_file() for name in SUMMARIES)

    def listing(self, problem_of: Callable[[Any], str]) -> Iterator[tuple[str, str, str]]:
        """Key, stamp and what it is left out for of every conformer that is wanted.

        problem_of: of a molecule, here made of its SMILES, or of None where that is none. A table
        without the number of conformers passes: reading says what is wrong.
        """
        for name in SUMMARIES:
            if not (self.folder / name).is_file():
                continue
            for text, entry in tqdm(_table(self.folder / name).items(), name, disable=None):
                if not isinstance(entry, dict) or "pickle_path" not in entry:
                    yield name, "", "without conformers"
                    continue
                problem = problem_of(rdkit.library().MolFromSmiles(text))
                there = int(entry.get("uniqueconfs", 1))
                for rank in range(min(there, self.conformers)):
                    yield f"{entry['pickle_path']}/{rank:02d}", f"{there}", problem

    def files(self) -> Iterator[Path]:
        """The files that belong to the layout: tables, and the pickles that they name."""
        for name in SUMMARIES:
            if (self.folder / name).is_file():
                yield self.folder / name
                for entry in _table(self.folder / name).values():
                    if isinstance(entry, dict) and "pickle_path" in entry:
                        yield self.folder / str(entry["pickle_path"])

    def read(self, key: str) -> Any:
        """The conformer of a key, a molecule of RDKit; BadSample with the reason."""
        place, _, rank = key.rpartition("/")
        if not place or not rank.isdecimal() or ".." in PurePosixPath(place).parts:
            raise BadSample(f"no molecule {key!r}: keys are a pickle and the rank of a conformer")
        found = _conformers(self.folder / place)
        if int(rank) >= len(found):
            raise BadSample(f"{place} has {len(found)} conformers, none has the rank {int(rank)}")
        return found[int(rank)].mol()


@lru_cache(maxsize=2)
def _table(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ReedError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise ReedError(f"{path} holds {type(found).__name__}, not a table of SMILES")
    return found


@lru_cache(maxsize=4)  # the conformers of a pickle are samples of their own
def _conformers(path: Path) -> list[pickles.Packed]:
    """The molecules of a pickle, by rising energy."""
    try:
        with open(path, "rb") as file:
            found = pickles.read(file, path.name)
    except OSError as error:
        raise BadSample(f"cannot read {path.name}: {error.strerror}") from error
    try:
        rows = sorted(found["conformers"], key=lambda row: float(row["totalenergy"]))
        mols = [row["rd_mol"] for row in rows]
    except (TypeError, KeyError, ValueError) as error:
        raise BadSample(f"{path.name} is no pickle of GEOM: it lacks {error}") from error
    if not all(isinstance(mol, pickles.Packed) for mol in mols):
        raise BadSample(f"{path.name} is no pickle of GEOM: an rd_mol is no molecule")
    return mols
