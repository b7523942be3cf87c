"""Residues as a PDB or mmCIF file holds them, and what it states about them."""

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

KEPT = frozenset((*ATOMS, *TELLING))  # atoms that are read; of others, that they are there
CLOSE, FAR = 0.5, 6.0  # angstroms between two backbone atoms of one residue that cannot be
_SENTINEL, _HUGE = 999.0, 9990.0  # coordinates that stand for none: three equal ones, and any


class Atom(NamedTuple):
    """One atom record; xyz: in angstroms, NaN where it has no numbers."""

    name: str
    altloc: str
    occupancy: float
    xyz: tuple[float, float, float]


class Site(NamedTuple):
    """What an atom record says of its residue.

    unit: what its molecule is named by, label_asym of mmCIF, else the chain; label: the position
    in the sequence that mmCIF gives, from 1; part: counts the TER records before; all name it.
    """

    unit: str
    chain: str
    number: int
    icode: str
    label: int | None
    part: int

    @property
    def place(self) -> tuple[int, str]:
        """What names a residue within its molecule."""
        return self.number if self.label is None else self.label, self.icode


@dataclass
class Residue:
    """One position of a chain.

    segment: that of columns 73 to 76; variants: name -> atoms, several where residues share it.
    """

    site: Site
    is_het: bool
    segment: str
    variants: dict[str, list[Atom]]

    @cached_property
    def name(self) -> str:
        """The variant of most occupancy, by its backbone."""
        return max(self.variants, key=lambda name: _occupancy(self.variants[name]))

    @property
    def atoms(self) -> set[str]:
        """The names of the atoms of that variant."""
        return {atom.name for atom in self.variants[self.name]}

    @cached_property
    def backbone(self) -> np.ndarray:
        """N, CA, C, O, [4, 3], of one alternative location as far as it has them; NaN for none.

        NaN throughout where two of them coincide or are too far apart for one residue.
        """
        locations: dict[str, list[Atom]] = {}
        for atom in self.variants[self.name]:
            if atom.name in ATOMS:
                locations.setdefault(atom.altloc, []).append(atom)
        coords = np.full((len(ATOMS), 3), np.nan, np.float32)
        for atoms in sorted(locations.values(), key=_occupancy, reverse=True):
            for atom in atoms:
                row = ATOMS.index(atom.name)
                if np.isnan(coords[row, 0]) and _is_somewhere(atom):
                    coords[row] = atom.xyz
        there = coords[np.isfinite(coords[:, 0])].tolist()
        apart = [math.dist(a, b) for a, b in combinations(there, 2)]
        if apart and (min(apart) < CLOSE or max(apart) > FAR):
            return np.full_like(coords, np.nan)
        return coords


@dataclass(frozen=True)
class Stated:
    """The sequence of a molecule as its file states it: names, and letters where it has these."""

    names: tuple[str, ...]
    letters: str = ""


@dataclass(frozen=True)
class Content:
    """What a file holds.

    models: the residues of each; closed: the parts that a TER record ends; polymers: unit ->
    whether it is a protein, where the file says so; sequences: by unit; parents: of a modified
    residue, by (chain, number, insertion code, name), and by name alone.
    """

    models: list[list[Residue]]
    resolution: float
    is_assembly: bool
    closed: frozenset[int] = frozenset()
    polymers: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    sequences: Mapping[str, Stated] = dataclasses.field(default_factory=dict)
    parents: Mapping[Any, str] = dataclasses.field(default_factory=dict)

    def parent(self, residue: Residue) -> str:
        """The parent that the file states for a residue; empty for none."""
        site = residue.site
        key = (site.chain, site.number, site.icode, residue.name)
        return self.parents.get(key) or self.parents.get(residue.name, "")


def _occupancy(atoms: Iterable[Atom]) -> float:
    return sum(atom.occupancy for atom in atoms if atom.name in ATOMS)


def _is_somewhere(atom: Atom) -> bool:
    """Whether an atom has coordinates that are none of those that programs write for "nowhere"."""
    x, y, z = atom.xyz
    if not all(map(math.isfinite, atom.xyz)) or max(abs(x), abs(y), abs(z)) >= _HUGE:
        return False
    if x == y == z:
        return abs(x) < _SENTINEL and (x != 0 or atom.occupancy > 0)
    return True


class Collector:
    """Puts atom records, in their order, into residues.

    A record belongs to the residue of the one before if it names the same place of the same
    molecule, and either the same kind of residue or, where both are alternatives
    (microheterogeneity), another. Alternatives that come later, as a file has them that lists one
    conformation after another, are given to the residue that they are near to.
    """

    def __init__(self) -> None:
        self.residues: list[Residue] = []
        self._there: dict[tuple[Any, ...], Residue] = {}
        self._last: Residue | None = None

    def add(self, site: Site, name: str, atom: Atom, is_het: bool, segment: str = "") -> None:
        """Add one record."""
        last = self._last
        if last is None or last.site != site or not _shares(last, name, atom):
            last = self._there.get((site, name))
            if last is None or not _is_alternative(last.variants[name], atom):
                last = Residue(site, is_het, segment, {})
                self.residues.append(last)
            self._last = last
        last.variants.setdefault(name, []).append(atom)
        self._there.setdefault((site, name), last)


def _shares(last: Residue, name: str, atom: Atom) -> bool:
    if name in last.variants:  # two with one number have each an N and a CA
        twice = atom.name in ATOMS[:2] and any(each[:2] == atom[:2] for each in last.variants[name])
        return not twice
    return bool(atom.altloc) and all(each[0].altloc for each in last.variants.values())


def _is_alternative(atoms: list[Atom], atom: Atom) -> bool:
    """Whether an atom is one more location of a residue: of another letter, and at hand."""
    if not atom.altloc or atom.altloc in {each.altloc for each in atoms}:
        return False
    return any(math.dist(atom.xyz, each.xyz) < FAR for each in atoms)
