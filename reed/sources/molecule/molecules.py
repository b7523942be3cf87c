"""Molecules with a conformer: SDF files, lists of SMILES, and GEOM and QM9 as published."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from reed.build.shard import BadSample
from reed.build.source import Listing
from reed.chem import rdkit, rdkit_reading
from reed.chem.molecule import Molecule, to_lists
from reed.chem.molecule_geometry import implausible
from reed.errors import ReedError, suggest
from reed.seeding import seed_for
from reed.sources import SOURCES
from reed.sources.molecule import data_files, entries, qm9, sdf_text
from reed.sources.molecule.data_files import Files
from reed.sources.molecule.geom import Geom
from reed.sources.molecule.split_files import SplitFiles

ENTRIES = ("coords", "atoms", "charges", "partners", "orders", "smiles")
SPLITS = {"train": range(8), "valid": range(8, 9), "test": range(9, 10)}  # tenths, as MiDi's
READING = 2  # how files are read; a cache that was planned by another is not added to


@SOURCES.register("molecules")
@dataclass(frozen=True)
class Molecules:
    """Molecules of one fragment, of elements and charges that reed.chem.molecule knows, hydrogens
    added.

    coords: angstroms, float32 [N, 3]; atoms: places in reed.chem.molecule.ATOMS [N]; charges:
    formal [N]; partners, orders: neighbours and kinds of bonds [N, 8], see
    reed.chem.molecule.to_lists; smiles: canonical, with stereo.

    data: a file, or a folder tree of files: SDF, whose coordinates are kept, and lists of SMILES,
    which get a conformer (reed.chem.rdkit.conformer) from the seed and their place
    (reed.sources.molecule.entries has the endings); all also .gz, which every reading process holds
    in memory. Beside a gdb9.sdf, what QM9's uncharacterized.txt lists is left out. Or the
    rdkit_folder of GEOM (reed.sources.molecule.geom), or the files of MiDi and SemlaFlow
    (reed.sources.molecule.split_files), which come first where both are. Other files are passed
    over and named.

    smiles: the column of lists that holds the SMILES, where their first line names columns.
    Default: the one called smiles, or the only one whose name ends so.

    split: train, valid, test or all. That of the files where they are split, as are MiDi's and
    SemlaFlow's and QM9 with MiDi's train.csv, val.csv and test.csv beside gdb9.sdf. Else eight,
    one and one tenth of the molecules, by a hash of the SMILES without stereo: all conformers and
    stereoisomers of a molecule are on one side. What cannot be read is in train.

    conformers: of each molecule of GEOM, those of lowest energy, or the first in the files of MiDi;
    min_atoms, max_atoms: hydrogens included. What these, the split, fragments, elements, charges,
    isotopes and radicals leave out is counted on stderr and in the account of the cache; what
    cannot be read at all fails and is recorded.
    """

    data: Path | None = None
    smiles: str = ""
    split: str = "all"
    min_atoms: int = 2
    max_atoms: int = 255
    conformers: int = 5
    seed: int = 0

    entries = ENTRIES
    views = 1

    def __post_init__(self) -> None:
        if not 1 <= self.min_atoms <= self.max_atoms or self.conformers < 1:
            raise ReedError(
                f"molecules: min_atoms is {self.min_atoms}, max_atoms {self.max_atoms} and "
                f"conformers {self.conformers}; they must be at least 1, min_atoms and 1"
            )
        if self.split not in ("all", *SPLITS):
            hint = suggest(self.split, ("all", *SPLITS))
            raise ReedError(f"molecules: there is no split {self.split!r}.{hint}")

    def listing(self) -> Listing:
        """Every key with the size of its file; what cannot be read is kept, to fail then.

        It counts what was left out, by reason, and the files that were passed over.
        """
        if self.data is None:
            raise ReedError("molecules: name a file or folder with --data")
        layout = self._layout
        if layout is None:
            files = data_files.find(self.data)
        else:
            files = Files([], data_files.beside(self.data, layout.files()))
        stamps: dict[str, str] = {}
        out: Counter[str] = Counter()

        for key, stamp, problem in self._all(files.paths):
            out[problem] += 1
            if not problem:
                stamps[key] = stamp
        del out[""]

        reasons = ", ".join(f"{count} {name}" for name, count in sorted(out.items()))
        if reasons or self.split != "all":
            of = "" if self.split == "all" else f" of the split {self.split!r}"
            left = f"; left out: {reasons}" if reasons else ""
            tqdm.write(f"molecules: {len(stamps)} samples{of}{left}", file=sys.stderr)
        counts = {f"left out: {name}": count for name, count in sorted(out.items())}
        return Listing(stamps, files.passed, counts=counts)

    def _all(self, paths: Sequence[Path]) -> Iterator[tuple[str, str, str]]:
        """Key, stamp and what it is left out for of every molecule.

        paths: the files to read where the data has no layout of its own.
        """
        layout = self._layout
        if isinstance(layout, SplitFiles):
            return layout.listing(self._problem)
        return layout.listing(self._unwanted) if layout else self._scan(paths)

    def read(self, key: str, view: int = 0) -> Mapping[str, Any]:
        """The entries of one molecule; BadSample with the reason."""
        if layout := self._layout:
            return self._placed(layout.read(key))
        place, _, number = key.rpartition("/")
        if not place or not number.isdecimal():
            raise BadSample(f"no molecule {key!r}: keys are the file and the number in it")
        path = self._root / place
        mol = parsed(path, int(number), self.smiles)
        if entries.is_sdf(path):
            return self._placed(mol)
        if problem := self._problem(mol):
            raise BadSample(f"is left out: {problem}")
        return embedded(mol, seed_for("molecules", self.seed, key))

    def _placed(self, mol: Any) -> dict[str, Any]:
        """The entries of a molecule that comes with coordinates."""
        if problem := self._problem(mol):
            raise BadSample(f"is left out: {problem}")
        return with_conformer(mol)

    @property
    def _layout(self) -> Geom | SplitFiles | None:
        """What is not a file or folder of SDF files and lists."""
        if self.data is None:
            return None
        if SplitFiles.is_at(self.data):
            return SplitFiles(self.data, self.split, self.conformers)
        return Geom(self.data, self.conformers) if Geom.is_at(self.data) else None

    @property
    def _root(self) -> Path:
        assert self.data is not None, "listing() comes before read()"
        return self.data.parent if self.data.is_file() else self.data

    def _scan(self, paths: Sequence[Path]) -> Iterator[tuple[str, str, str]]:
        """Key, stamp and what it is left out for of every molecule of some files."""
        for path in paths:
            omitted, sides = qm9.omitted(path), qm9.splits(path)
            stamp = f"{path.stat().st_size}-{READING}"
            numbers = range(entries.count(path, self.smiles))
            for number in tqdm(numbers, f"list {path.name}", unit="molecule", disable=None):
                key = f"{path.relative_to(self._root).as_posix()}/{number:06d}"
                mol = _readable(path, number, self.smiles)
                if number in omitted:
                    yield key, stamp, "uncharacterized"
                elif sides:
                    other = self._other(sides.get(number, "none"))
                    yield key, stamp, other or (self._problem(mol) if mol is not None else "")
                else:
                    yield key, stamp, self._unwanted(mol)

    def _unwanted(self, mol: Any | None) -> str:
        """The same as `_problem`, and of another split, where that follows from the molecule."""
        if mol is None:  # it fails when it is read, with its reason
            return self._other("train")
        if (problem := self._problem(mol)) or self.split == "all":
            return problem
        tenth = seed_for("molecules", "split", rdkit.flat(mol)) % 10
        return self._other(next(side for side, tenths in SPLITS.items() if tenth in tenths))

    def _other(self, side: str) -> str:
        return "" if self.split in ("all", side) else f"of the split {side!r}"

    def _problem(self, mol: Any) -> str:
        """Which rule leaves a molecule out; empty where none does."""
        if problem := rdkit.problem(mol):
            return problem
        atoms = sum(atom.GetTotalNumHs() + 1 for atom in mol.GetAtoms())
        if atoms < self.min_atoms:
            return "under min_atoms"
        return "over max_atoms" if atoms > self.max_atoms else ""


def parsed(path: Path, number: int, smiles: str = "") -> Any:
    """An entry of a file as a sanitised molecule of RDKit; BadSample where it is none.

    smiles: the column of lists that holds the SMILES, see reed.sources.molecule.entries.
    """
    if entries.is_sdf(path):
        return rdkit_reading.from_block(sdf_text.mol_block(entries.entry(path, number)))
    return rdkit_reading.from_smiles(entries.smiles_of(path, number, smiles))


def _readable(path: Path, number: int, smiles: str) -> Any | None:
    try:
        return parsed(path, number, smiles)
    except BadSample:
        return None


def with_conformer(mol: Any) -> dict[str, Any]:
    """The entries of a molecule with the coordinates it has; hydrogens it lacks are placed."""
    if not mol.GetNumConformers():
        raise BadSample("has no coordinates")
    if reason := implausible(mol):
        raise BadSample(reason)
    return sample(rdkit.library().AddHs(mol, addCoords=True))


def embedded(mol: Any, seed: int) -> dict[str, Any]:
    """The entries of a molecule that gets a conformer and hydrogens."""
    mol = rdkit.library().AddHs(mol)
    if problem := rdkit.conformer(mol, seed):
        raise BadSample(problem)
    return sample(mol)


def sample(mol: Any) -> dict[str, Any]:
    """The entries of a molecule with hydrogens and a conformer."""
    molecule: Molecule = rdkit.to_arrays(mol)
    if not np.isfinite(molecule.coords).all():
        raise BadSample("has coordinates that are not finite")
    rdkit.library().AssignStereochemistryFrom3D(mol)
    partners, orders = to_lists(molecule.bonds)
    return {
        "coords": molecule.coords,
        "atoms": molecule.atoms,
        "charges": molecule.charges,
        "partners": partners,
        "orders": orders,
        "smiles": rdkit.smiles(mol),
    }
