"""Molecules with a conformer: SDF files, lists of SMILES, and GEOM and QM9 as published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from reed import chem
from reed.cache.build import BadSample
from reed.errors import ReedError
from reed.molecule import Molecule, to_lists
from reed.seeding import seed_for
from reed.sources import SOURCES, entries
from reed.sources.geom import Geom

ENTRIES = ("coords", "atoms", "charges", "partners", "orders", "smiles")
OMITTED = "uncharacterized.txt"  # beside QM9's gdb9.sdf: molecules that changed when relaxed


@SOURCES.register("molecules")
@dataclass(frozen=True)
class Molecules:
    """Molecules of one fragment, of elements and charges that reed.molecule knows, hydrogens added.

    coords: angstroms, float32 [N, 3]; atoms: places in reed.molecule.ATOMS [N]; charges: formal
    [N]; partners, orders: neighbours and kinds of bonds [N, 8], see reed.molecule.to_lists; smiles:
    canonical, with stereo.

    data: a file, or a folder tree of files: .sdf, .sd or .mol, whose coordinates are kept, and
    .smi, .smiles or .csv, which get a conformer (reed.chem.conformer) from the seed and their
    place; all also .gz, which every reading process holds in memory. Beside a gdb9.sdf, what
    QM9's uncharacterized.txt lists is left out. Or the rdkit_folder of GEOM (reed.sources.geom).

    conformers: of each molecule of GEOM, those of lowest energy; min_atoms, max_atoms: hydrogens
    included. What these, fragments, elements, charges and
    radicals leave out is counted on stdout; what cannot be read at all fails and is recorded.
    """

    data: Path | None = None
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

    def listing(self) -> dict[str, str]:
        """Every key with the size of its file; what cannot be read is kept, to fail then."""
        stamps: dict[str, str] = {}
        out: Counter[str] = Counter()
        geom = self._geom
        for key, stamp, problem in geom.listing(self._problem) if geom else self._scan():
            out[problem] += 1
            if not problem:
                stamps[key] = stamp
        if reasons := ", ".join(f"{count} {name}" for name, count in sorted(out.items()) if name):
            tqdm.write(f"molecules: {len(stamps)} samples; left out: {reasons}")
        return stamps

    def read(self, key: str, view: int = 0) -> Mapping[str, Any]:
        """The entries of one molecule; BadSample with the reason."""
        if geom := self._geom:
            return self._placed(geom.read(key))
        place, _, number = key.rpartition("/")
        if not place or not number.isdecimal():
            raise BadSample(f"no molecule {key!r}: keys are the file and the number in it")
        path = self._root / place
        mol = parsed(path, int(number))
        if not path.name.endswith(entries.LISTS):
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
    def _geom(self) -> Geom | None:
        there = self.data is not None and Geom.is_at(self.data)
        return Geom(self.data, self.conformers) if there and self.data else None

    @property
    def _root(self) -> Path:
        assert self.data is not None, "listing() comes before read()"
        return self.data.parent if self.data.is_file() else self.data

    def _scan(self) -> Iterator[tuple[str, str, str]]:
        """Key, stamp and what it is left out for of every molecule."""
        suffixes = (*entries.SDF, *entries.LISTS)
        if self.data is None or not self.data.exists():
            at = "" if self.data is None else f", there is nothing at {self.data}"
            raise ReedError(f"molecules: name a file or folder with --data{at}")
        found = [self.data] if self.data.is_file() else sorted(self.data.rglob("*"))
        paths = [p for p in found if p.name.endswith(suffixes) and not _is_companion(p)]
        if not paths:
            raise ReedError(
                f"molecules: {self.data} has no file that ends in {', '.join(suffixes)}"
            )
        for path in paths:
            omitted, stamp = _omitted(path), str(path.stat().st_size)
            numbers = range(entries.count(path))
            for number in tqdm(numbers, f"list {path.name}", unit="molecule", disable=None):
                key = f"{path.relative_to(self._root).as_posix()}/{number:06d}"
                try:
                    problem = self._problem(parsed(path, number))
                except BadSample:
                    problem = ""
                yield key, stamp, "uncharacterized" if number in omitted else problem

    def _problem(self, mol: Any) -> str:
        """Which rule leaves a molecule out; empty where none does."""
        if problem := chem.problem(mol):
            return problem
        atoms = sum(atom.GetTotalNumHs() + 1 for atom in mol.GetAtoms())
        if atoms < self.min_atoms:
            return "under min_atoms"
        return "over max_atoms" if atoms > self.max_atoms else ""


def parsed(path: Path, number: int) -> Any:
    """An entry of a file as a sanitised molecule of RDKit; BadSample where it is none."""
    library = chem.library()
    if path.name.endswith(entries.LISTS):
        text = entries.smiles_of(path, number)
        mol = library.MolFromSmiles(text) if text else None
        reason = f"{text[:80]!r} is no SMILES"
    else:
        mol = library.MolFromMolBlock(entries.entry(path, number), removeHs=False)
        reason = "is no molecule that RDKit accepts"
    if mol is None:
        raise BadSample(reason)
    return mol


def with_conformer(mol: Any) -> dict[str, Any]:
    """The entries of a molecule with the coordinates it has; hydrogens it lacks are placed."""
    if not mol.GetNumConformers():
        raise BadSample("has no coordinates")
    placed = mol.GetConformer()
    if not placed.Is3D() and mol.GetNumAtoms() > 2 and not placed.GetPositions()[:, 2].any():
        raise BadSample("has coordinates in the plane only, no conformer")
    return sample(chem.library().AddHs(mol, addCoords=True))


def embedded(mol: Any, seed: int) -> dict[str, Any]:
    """The entries of a molecule that gets a conformer and hydrogens."""
    mol = chem.library().AddHs(mol)
    if problem := chem.conformer(mol, seed):
        raise BadSample(problem)
    return sample(mol)


def sample(mol: Any) -> dict[str, Any]:
    """The entries of a molecule with hydrogens and a conformer."""
    molecule: Molecule = chem.to_arrays(mol)
    chem.library().AssignStereochemistryFrom3D(mol)
    partners, orders = to_lists(molecule.bonds)
    return {
        "coords": molecule.coords, "atoms": molecule.atoms, "charges": molecule.charges,
        "partners": partners, "orders": orders, "smiles": chem.smiles(mol),
    }  # fmt: skip


def _is_companion(path: Path) -> bool:
    """Whether a table only tells of an SDF beside it, as QM9's gdb9.sdf.csv does."""
    return path.suffix == ".csv" and path.with_suffix("").is_file()


def _omitted(path: Path) -> frozenset[int]:
    """The entries that QM9 calls uncharacterized, from 0; of another file none."""
    listed = path.with_name(OMITTED)
    if path.name != "gdb9.sdf" or not listed.is_file():
        return frozenset()
    words = (line.split() for line in listed.read_text(errors="replace").splitlines())
    return frozenset(int(w[0]) - 1 for w in words if len(w) > 1 and w[0].isdecimal())
