"""The files of a folder: those that hold molecules, and those that are passed over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reed.cache.account import by_ending
from reed.chem import sdf_files
from reed.errors import ReedError
from reed.sources.molecule import entries, qm9

# Public files that cannot be read, by their endings, and what to do.
ADVICE = {
    (".msgpack",): "GEOM's tables of coordinates have no bonds; unpack its rdkit_folder.tar.gz",
    (".xyz", ".xyz.tar.bz2"): "files of coordinates have no bonds; of QM9, take the gdb9.sdf in "
    "MoleculeNet's qm9.zip",
    (".pickle", ".pkl"): "pickles are read in GEOM's rdkit_folder, beside summary_drugs.json or "
    "summary_qm9.json, or called train_data.pickle, val_data.pickle and test_data.pickle",
    (".tar.gz", ".tgz", ".zip"): "unpack it and name the folder",
}


@dataclass(frozen=True)
class Files:
    """Files that hold molecules, and reason -> names of those that were passed over."""

    paths: list[Path]
    passed: dict[str, list[str]] = field(default_factory=dict)


def find(data: Path, smiles: str = "") -> Files:
    """Return the files of a folder, or one file.

    Args:
        data: The folder or file.
        smiles: The column of SMILES in lists, see reed.sources.molecule.entries.smiles_of.

    Raises:
        ReedError: No file holds molecules.
    """
    if not data.exists():
        raise ReedError(f"molecules: name a file or folder with --data, there is nothing at {data}")
    present = [data] if data.is_file() else _files(data)
    found = Files([])
    for path in present:
        if qm9.is_companion(path):
            continue
        if reason := _reason(path, data) or entries.why_none(path, smiles):
            found.passed.setdefault(reason, []).append(_name(path, data))
        else:
            found.paths.append(path)
    if not found.paths:
        raise ReedError(f"molecules: {_why_none(data, present, found.passed)}")
    return found


def beside(data: Path, known: Iterable[Path]) -> dict[str, list[str]]:
    """Return the files of a folder that are not among the known files, by reason."""
    if data.is_file():
        return {}
    known, passed = frozenset(known), {}
    for path in _files(data):
        if path not in known:
            reason = _reason(path, data) or "beside files of another layout"
            passed.setdefault(reason, []).append(_name(path, data))
    return passed


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _name(path: Path, data: Path) -> str:
    return path.relative_to(data).as_posix() if path != data else path.name


def _reason(path: Path, data: Path) -> str:
    """Return why a file is no sample and belongs to none; empty where it may hold molecules."""
    if any(part.startswith(".") for part in path.relative_to(data).parts):
        return "hidden"
    if entries.is_sdf(path) or entries.is_list(path):
        return ""
    return by_ending(path.name)


def _why_none(data: Path, present: Iterable[Path], passed: Mapping[str, list[str]]) -> str:
    """Return why there is nothing to read, and what to do."""
    for path in present:
        for endings, advice in ADVICE.items():
            if path.name.lower().endswith(endings):
                return f"cannot read {path}: {advice}"

    # A file that looked like one of molecules says more than a list of endings.
    folder = data.parent if data.is_file() else data
    if names := passed.get(entries.NO_SMILES):
        table = folder / names[0]
        problem = (
            f"{table} has no column of SMILES; its first line is {entries.first_line(table)!r}"
        )
        if entries.ending(table) in entries.TABLES:
            return f"{problem}: name the column by --set source.smiles=NAME"
        return f"{problem}: SMILES come first in a line, or in a column that the first line names"
    if names := passed.get(entries.EMPTY):
        return f"{folder / names[0]} holds no molecule"

    suffixes = (*sdf_files.SDF, *entries.WORDS, *entries.TABLES)
    return f"{data} has no file that ends in {', '.join(suffixes)}, each also with .gz"
