"""Molecules with a conformer: SDF files, lists of SMILES, GEOM and QM9 as published."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from reed.build.shard import BadSample
from reed.build.source import Listing
from reed.cache.account import KEPT
from reed.chem import rdkit
from reed.chem.molecule import Molecule, to_lists
from reed.chem.molecule_geometry import implausible
from reed.errors import ReedError, suggest
from reed.seeding import seed_for
from reed.sources import SOURCES
from reed.sources.molecule import data_files, entries, naming, qm9
from reed.sources.molecule.data_files import Files
from reed.sources.molecule.faults import FAULTS, misplaced, parsed, readable
from reed.sources.molecule.geom import Geom
from reed.sources.molecule.split_files import SplitFiles
from reed.wording import counted, named

ENTRIES = ("coords", "atoms", "charges", "partners", "orders", "smiles")
SPLITS = {"train": range(8), "valid": range(8, 9), "test": range(9, 10)}  # tenths, as MiDi's
READING = 2  # how files are read; a cache that was planned by another is not added to


@SOURCES.register("molecules")
@dataclass(frozen=True)
class Molecules:
    """Single-fragment molecules with hydrogens, of the elements and charges in reed.chem.molecule.

    The entries are ``coords``, float32 [N, 3] in angstroms; ``atoms``, indices into
    reed.chem.molecule.ATOMS [N]; ``charges``, formal [N]; ``partners`` and ``orders``, neighbours
    and kinds of bonds [N, 8] (reed.chem.molecule.to_lists); and ``smiles``, canonical, with stereo.

    Molecules that the settings, the split, fragments, elements, charges, isotopes, radicals, or, in
    files, unclear bonds (reed.chem.delocalised) and impossible coordinates
    (reed.chem.molecule_geometry) exclude are counted while listing. Molecules that cannot be read,
    and impossible coordinates in a published layout, fail and are recorded with the reason.

    Attributes:
        data: A file or a folder tree of files: SDF files, whose coordinates are kept, and lists of
            SMILES, which get a conformer (reed.chem.rdkit.conformer) from the seed and their row;
            reed.sources.molecule.entries has the endings. All may be packed with gzip; each reading
            process then holds them in memory. Beside a ``gdb9.sdf``, the molecules in QM9's
            ``uncharacterized.txt`` are left out. Or GEOM's ``rdkit_folder``
            (reed.sources.molecule.geom), or the files of MiDi and SemlaFlow
            (reed.sources.molecule.split_files), which take precedence. Other files are passed over
            and named.
        smiles: Column of a list that holds the SMILES; by default the one called ``smiles``, or the
            only one whose name contains it.
        split: ``train``, ``valid``, ``test`` or ``all``. The split of the files if they have one,
            such as MiDi's and SemlaFlow's, and QM9 with MiDi's ``train.csv``, ``val.csv`` and
            ``test.csv`` beside ``gdb9.sdf``. Else eight, one and one tenth of the molecules, by a
            hash of their identity (reed.chem.rdkit.flat), so that all conformers and
            stereoisomers of a molecule are on one side. What cannot be read is in ``train``.
        min_atoms: Smallest number of atoms, with hydrogens.
        max_atoms: Greatest number of atoms, with hydrogens.
        conformers: Conformers per molecule of GEOM, those of lowest energy, or the first ones in
            the files of MiDi.
        seed: Seed of the conformers of SMILES.
        names: What the keys of SDF files and lists are, behind the path of the file: ``none`` for
            the number of the molecule, as in all plans of earlier versions; ``auto`` for its name,
            which is the title line of an SDF or a column of a list (reed.sources.molecule.tables);
            or the column of the lists. New plans have ``auto``. See reed.sources.molecule.naming.
    """

    data: Path | None = None
    smiles: str = ""
    split: str = "all"
    min_atoms: int = 2
    max_atoms: int = 255
    conformers: int = 5
    seed: int = 0
    names: str = naming.NONE

    for_new_plans: ClassVar[dict[str, Any]] = {"names": naming.AUTO}
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
        """Return every key with the size of its file; unreadable molecules are kept, to fail later.

        The molecules that are left out and the files that are passed over are counted by reason;
        the first molecules with a fault are named.

        Raises:
            ReedError: There is nothing to read, or a list does not say where its SMILES are.
        """
        if self.data is None:
            raise ReedError("molecules: name a file or folder with --data")

        # A published layout names its files; otherwise every file is looked at.
        layout = self._layout
        if layout is None:
            files = data_files.find(self.data, self.smiles)
        else:
            files = Files([], data_files.beside(self.data, layout.files()))
        stamps: dict[str, str] = {}
        left_out: dict[str, int] = {}
        faulty: dict[str, list[str]] = {fault: [] for fault in FAULTS}
        for key, stamp, problem in self._all(files.paths):
            if not problem:
                stamps[key] = stamp
                continue
            left_out[problem] = left_out.get(problem, 0) + 1
            if problem in faulty and len(faulty[problem]) < KEPT:
                faulty[problem].append(key)

        shared = [key for key in self._shared(files.paths) if key in stamps]
        left_out = dict(sorted(left_out.items()))
        if shared:
            tqdm.write(naming.line(shared), file=sys.stderr)
        if left_out or self.split != "all":
            tqdm.write(self._line(len(stamps), left_out, faulty), file=sys.stderr)
        counts = {f"left out: {reason}": count for reason, count in left_out.items()}
        return Listing(
            stamps,
            files.passed,
            counts=counts | ({naming.SHARED: len(shared)} if shared else {}),
            examples={f"left out: {fault}": keys for fault, keys in faulty.items()}
            | {naming.SHARED: shared[:KEPT]},
        )

    def _shared(self, paths: Sequence[Path]) -> Iterator[str]:
        """Yield the keys of molecules whose name another one in the file has, too."""
        for path in () if self._layout or self.names == naming.NONE else paths:
            keys = naming.keys_of(path, self.smiles, self.names)
            yield from (self._key(path, keys.tails[number]) for number in keys.shared)

    def _key(self, path: Path, tail: str) -> str:
        return f"{path.relative_to(self._root).as_posix()}/{tail}"

    def _line(
        self, samples: int, left_out: Mapping[str, int], faulty: Mapping[str, Sequence[str]]
    ) -> str:
        """Return a line on the samples and what was left out, with the keys of faults."""
        reasons = []
        for reason, count in left_out.items():
            keys = faulty.get(reason, ())
            reasons.append(f"{count:,} {reason}" + (f" ({named(keys, count)})" if keys else ""))
        of_split = "" if self.split == "all" else f" of the split {self.split!r}"
        tail = f"; left out: {', '.join(reasons)}" if reasons else ""
        return f"molecules: {counted(samples, 'sample')}{of_split}{tail}"

    def _all(self, paths: Sequence[Path]) -> Iterator[tuple[str, str, str]]:
        """Yield key, stamp and the reason for leaving out, if any, of every molecule.

        Args:
            paths: Files to read if the data has no published layout.
        """
        layout = self._layout
        if isinstance(layout, SplitFiles):
            return layout.listing(self._problem)
        return layout.listing(self._unwanted) if layout else self._scan(paths)

    def computed_by(self) -> str:
        """Return the RDKit that makes conformers of SMILES; nothing if there are no lists."""
        if self.data is None or self._layout is not None:
            return ""
        paths = [self.data] if self.data.is_file() else self.data.rglob("*")
        return f"rdkit {rdkit.version()}" if any(map(entries.is_list, paths)) else ""

    def read(self, key: str, view: int = 0) -> Mapping[str, Any]:
        """Return the entries of one molecule.

        Raises:
            BadSample: The molecule cannot be read, or is left out.
        """
        if layout := self._layout:
            return self._placed(layout.read(key))
        name, _, tail = key.rpartition("/")
        path = self._root / name
        number = naming.number_of(path, tail, self.smiles, self.names) if name else None
        if number is None:
            raise BadSample(f"no molecule {key!r}: keys are the file and a number or name in it")
        mol = parsed(path, number, self.smiles)
        if entries.is_sdf(path):
            return self._placed(mol)
        if problem := self._problem(mol):
            raise BadSample(f"is left out: {problem}")
        return embedded(mol, seed_for("molecules", self.seed, key))

    def _placed(self, mol: Any) -> dict[str, Any]:
        """Return the entries of a molecule that comes with coordinates."""
        if problem := self._problem(mol):
            raise BadSample(f"is left out: {problem}")
        return with_conformer(mol)

    @property
    def _layout(self) -> Geom | SplitFiles | None:
        """The published layout of the data; None for SDF files and lists."""
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
        """Yield the same as ``_all`` for SDF files and lists."""
        for path in paths:
            omitted, sides = qm9.omitted(path), qm9.splits(path)
            stamp = f"{path.stat().st_size}-{READING}{naming.stamp(self.names)}"
            tails = naming.keys_of(path, self.smiles, self.names).tails
            bar = tqdm(tails, f"list {path.name}", unit="molecule", disable=None)
            for number, tail in enumerate(bar):
                key = self._key(path, tail)
                mol, fault = readable(path, number, self.smiles)

                # QM9 states which of its molecules are unsound, and MiDi the split of each.
                if number in omitted:
                    problem = "uncharacterized"
                elif sides:
                    problem = self._other(sides.get(number, "none"))
                    problem = problem or (self._problem(mol) if mol is not None else "")
                else:
                    problem = self._unwanted(mol)
                yield key, stamp, problem or fault or misplaced(mol)

    def _unwanted(self, mol: Any | None) -> str:
        """Return why a molecule is left out, which its split may be; empty if it is kept."""
        if mol is None:  # it fails when it is read, with its reason
            return self._other("train")
        if (problem := self._problem(mol)) or self.split == "all":
            return problem
        tenth = seed_for("molecules", "split", rdkit.flat(mol)) % 10
        return self._other(next(side for side, tenths in SPLITS.items() if tenth in tenths))

    def _other(self, side: str) -> str:
        return "" if self.split in ("all", side) else f"of the split {side!r}"

    def _problem(self, mol: Any) -> str:
        """Return which rule leaves a molecule out; empty if none does."""
        if problem := rdkit.problem(mol):
            return problem
        atoms = sum(atom.GetTotalNumHs() + 1 for atom in mol.GetAtoms())
        if atoms < self.min_atoms:
            return "under min_atoms"
        return "over max_atoms" if atoms > self.max_atoms else ""


def with_conformer(mol: Any) -> dict[str, Any]:
    """Return the entries of a molecule with its own coordinates; missing hydrogens are added.

    Raises:
        BadSample: It has no coordinates, or impossible ones.
    """
    if not mol.GetNumConformers():
        raise BadSample("has no coordinates")
    if reason := implausible(mol):
        raise BadSample(reason)
    return sample(rdkit.library().AddHs(mol, addCoords=True))


def embedded(mol: Any, seed: int) -> dict[str, Any]:
    """Return the entries of a molecule that is given hydrogens and a conformer."""
    mol = rdkit.library().AddHs(mol)
    if problem := rdkit.conformer(mol, seed):
        raise BadSample(problem)
    return sample(mol)


def sample(mol: Any) -> dict[str, Any]:
    """Return the entries of a molecule with hydrogens and a conformer."""
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
