"""Residues of a PDB or mmCIF file, and what the file states about them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from reed.chem.letters import TELLING
from reed.chem.protein import ATOMS

KEPT = frozenset((*ATOMS, *TELLING))  # atoms whose coordinates are read; of others, only the names
# Angstroms; two backbone atoms of one residue are never closer or further apart.
CLOSE, FAR = 0.5, 6.0
# Programs write such coordinates for atoms without a position: three equal ones from _SENTINEL on,
# or any from _HUGE on.
_SENTINEL, _HUGE = 999.0, 9990.0


class Atom(NamedTuple):
    """One atom record.

    - ``name``: Name of the atom.
    - ``altloc``: Letter of its alternative location; empty if it has none.
    - ``occupancy``: Its occupancy.
    - ``xyz``: Its position in angstroms; NaN if the file has no numbers.
    """

    name: str
    altloc: str
    occupancy: float
    xyz: tuple[float, float, float]


class Site(NamedTuple):
    """The identity of the residue in an atom record; residues are equal if all fields are.

    - ``unit``: Name of its molecule: label_asym_id of mmCIF, else the chain.
    - ``chain``: The author's name of its chain.
    - ``number``: The author's number of the residue.
    - ``icode``: Insertion code.
    - ``label``: Position in the sequence, from 1, if mmCIF gives one.
    - ``part``: Number of TER, MODEL and END records before it in the file; 0 in mmCIF.
    """

    unit: str
    chain: str
    number: int
    icode: str
    label: int | None
    part: int

    @property
    def place(self) -> tuple[int, str]:
        """Number and insertion code that identify a residue within its molecule."""
        return self.number if self.label is None else self.label, self.icode


@dataclass
class Residue:
    """One position of a chain.

    Attributes:
        site: Its identity in the file.
        is_het: Whether its records are HETATM.
        segment: Segment in columns 73 to 76 of a PDB file.
        variants: Atoms by the name of the residue; several names if residues share the position.
    """

    site: Site
    is_het: bool
    segment: str
    variants: dict[str, list[Atom]]

    @cached_property
    def name(self) -> str:
        """Name of the variant whose backbone has the most occupancy."""
        return max(self.variants, key=lambda name: _occupancy(self.variants[name]))

    @property
    def atoms(self) -> set[str]:
        """Names of the atoms of that variant."""
        return {atom.name for atom in self.variants[self.name]}

    @property
    def is_occupied(self) -> bool:
        """Whether an atom of the backbone has an occupancy above 0."""
        return any(_occupancy(atoms) > 0 for atoms in self.variants.values())

    @cached_property
    def backbone(self) -> np.ndarray:
        """N, CA, C, O in angstroms, float32 [4, 3]; NaN where missing.

        The atoms are those of the alternative location with the most occupancy; atoms that it
        lacks are those of the next one. All are NaN if two atoms coincide, or are too far apart
        for one residue.
        """
        locations: dict[str, list[Atom]] = {}
        for atom in self.variants[self.name]:
            if atom.name in ATOMS:
                locations.setdefault(atom.altloc, []).append(atom)

        coords = np.full((len(ATOMS), 3), np.nan, np.float32)
        for atoms in sorted(locations.values(), key=_occupancy, reverse=True):
            for atom in atoms:
                row = ATOMS.index(atom.name)
                if np.isnan(coords[row, 0]) and _has_position(atom):
                    coords[row] = atom.xyz

        # Such coordinates are dummies or errors: a net would learn distances that do not exist.
        present = coords[np.isfinite(coords[:, 0])].tolist()
        distances = [math.dist(a, b) for a, b in combinations(present, 2)]
        if distances and (min(distances) < CLOSE or max(distances) > FAR):
            return np.full_like(coords, np.nan)
        return coords


@dataclass(frozen=True)
class Stated:
    """The sequence of a molecule as its file states it.

    Attributes:
        names: Names of all residues.
        letters: Their letters; empty if the file does not state them.
    """

    names: tuple[str, ...]
    letters: str = ""


@dataclass(frozen=True)
class Content:
    """The content of a file.

    Attributes:
        models: The residues of every model.
        resolution: Resolution in angstroms; NaN if unknown.
        is_assembly: Whether the file calls its models an assembly.
        closed: The parts (see Site) that a TER record ends.
        polymers: Whether a unit (see Site) is a protein, for the units of which the file says so.
        sequences: The stated sequences by unit.
        parents: Names of the parents of modified residues, by (chain, number, insertion code,
            name) and by name alone.
    """

    models: list[list[Residue]]
    resolution: float
    is_assembly: bool
    closed: frozenset[int] = frozenset()
    polymers: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    sequences: Mapping[str, Stated] = dataclasses.field(default_factory=dict)
    parents: Mapping[Any, str] = dataclasses.field(default_factory=dict)

    def parent(self, residue: Residue) -> str:
        """Return the parent that the file states for a residue; empty if it states none."""
        site = residue.site
        key = (site.chain, site.number, site.icode, residue.name)
        return self.parents.get(key) or self.parents.get(residue.name, "")


def _occupancy(atoms: Iterable[Atom]) -> float:
    """Return the summed occupancy of the backbone atoms."""
    return sum(atom.occupancy for atom in atoms if atom.name in ATOMS)


def _has_position(atom: Atom) -> bool:
    """Whether the coordinates of an atom are a position, not a placeholder that a program wrote."""
    x, y, z = atom.xyz
    if not all(map(math.isfinite, atom.xyz)) or max(abs(x), abs(y), abs(z)) >= _HUGE:
        return False
    if x == y == z:  # the origin is a placeholder if the occupancy is 0
        return abs(x) < _SENTINEL and (x != 0 or atom.occupancy > 0)
    return True


class Collector:
    """Collects atom records, in their order, into residues.

    A record belongs to the residue of the record before if it has the same site and the same
    residue name; or another name, if both are alternatives (microheterogeneity). Some files list
    one conformation after another: alternatives that come later join the residue near to them.

    Attributes:
        residues: The residues so far.
    """

    def __init__(self) -> None:
        self.residues: list[Residue] = []
        self._by_site: dict[tuple[Any, ...], Residue] = {}
        self._last: Residue | None = None

    def add(self, site: Site, name: str, atom: Atom, is_het: bool, segment: str = "") -> None:
        """Add one record."""
        last = self._last
        if last is None or last.site != site or not _shares(last, name, atom):
            last = self._by_site.get((site, name))
            if last is None or not _is_alternative(last.variants[name], atom):
                last = Residue(site, is_het, segment, {})
                self.residues.append(last)
            self._last = last
        last.variants.setdefault(name, []).append(atom)
        self._by_site.setdefault((site, name), last)


def _shares(last: Residue, name: str, atom: Atom) -> bool:
    """Whether an atom of the same site belongs to the residue of the record before."""
    if name in last.variants:  # a second N or CA begins another residue of the same number
        known = (other[:2] for other in last.variants[name])
        is_second = atom.name in ATOMS[:2] and atom[:2] in known
        return not is_second
    return bool(atom.altloc) and all(atoms[0].altloc for atoms in last.variants.values())


def _is_alternative(atoms: list[Atom], atom: Atom) -> bool:
    """Whether an atom is of another alternative location of a residue, and near to it."""
    if not atom.altloc or atom.altloc in {other.altloc for other in atoms}:
        return False
    return any(math.dist(atom.xyz, other.xyz) < FAR for other in atoms)
