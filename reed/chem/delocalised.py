"""Bonds that a file calls aromatic outside rings: carboxylate, nitro, guanidinium, amide.

Type 4 of a mol block belongs to rings, but force fields and docking programs write it for
delocalised groups. What single and double bonds and charges these stand for follows from the
valences where all hydrogens are written, and else mostly from their oxygens, which have none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from reed.build.shard import BadSample
from reed.chem.rdkit import library

LARGEST = 10  # bonds of one group: its orders are tried one after another
# Symbol -> valence -> formal charge, of atoms that have all their hydrogens.
CHARGES = {
    "B": {3: 0, 4: -1},
    "C": {4: 0},
    "N": {2: -1, 3: 0, 4: 1},
    "O": {1: -1, 2: 0, 3: 1},
    "P": {3: 0, 4: 1, 5: 0},
    "S": {1: -1, 2: 0, 3: 1, 4: 0, 6: 0},
    "Se": {1: -1, 2: 0, 3: 1, 4: 0, 6: 0},
}


class UnclearBonds(BadSample):
    """A molecule whose bonds of type 4 outside rings fit no molecule, or several."""


@dataclass(frozen=True)
class _Choice:
    """One way to write a group: orders of its bonds, charges and hydrogens added to its atoms."""

    orders: tuple[int, ...]
    charges: tuple[int, ...]
    hydrogens: tuple[int, ...]

    @property
    def cost(self) -> tuple[int, int]:
        return abs(sum(self.charges)), sum(map(abs, self.charges))


def resolve(mol: Any) -> bool:
    """Give such bonds of a molecule that is not sanitised their orders and charges, in place.

    Returns whether there were any.

    Of all ways that valences allow, the one with the least net charge, then the fewest charges is
    taken; resonance forms of one molecule count as one way. Charges that the file states stay in
    sum. BadSample where there is no way or more than one.
    """
    chem = library()
    mol.UpdatePropertyCache(strict=False)
    chem.FastFindRings(mol)
    cyclic, groups = _groups(mol)
    if not groups:
        return False
    ranks = list(chem.CanonicalRankAtoms(mol, breakTies=True))  # so that order does not matter
    has_hydrogens = any(atom.GetAtomicNum() == 1 for atom in mol.GetAtoms())

    for bonds in groups:
        atoms = sorted({end for b in bonds for end in (b.GetBeginAtomIdx(), b.GetEndAtomIdx())})
        where = "bonds of type 4 outside rings, at atoms " + ", ".join(str(i + 1) for i in atoms)
        if len(bonds) > LARGEST or cyclic.intersection(atoms):
            raise UnclearBonds(f"has {where}, that cannot be told from aromatic ones")
        choices = list(_choices(mol, atoms, bonds, has_hydrogens))
        if not choices:
            raise UnclearBonds(f"has {where}, that fit no single and double bonds")

        if not has_hydrogens and _are_several(mol, atoms, choices):
            raise UnclearBonds(f"has {where}, that fit several molecules: the file lacks hydrogens")
        best = min(choice.cost for choice in choices)
        choices = [choice for choice in choices if choice.cost == best]
        if len({(choice.hydrogens, sum(choice.charges)) for choice in choices}) > 1:
            hint = "" if has_hydrogens else ": the file lacks hydrogens"
            raise UnclearBonds(f"has {where}, that fit several molecules{hint}")
        _apply(mol, atoms, bonds, min(choices, key=lambda c: _preference(mol, bonds, c, ranks)))
    return True


def _are_several(mol: Any, atoms: list[int], choices: list[_Choice]) -> bool:
    """Return whether the choices of a group without hydrogens are more than forms of one molecule.

    Without hydrogens, an oxygen of one bond may be charged or a hydroxyl, so net charges do not
    tell a ketone from an enolate, or a nitroso group from a hydroxylamine. What may differ is the
    place of a hydrogen on N and O: an amide is not taken for an imidic acid.
    """
    carbons = [mol.GetAtomWithIdx(i).GetAtomicNum() == 6 for i in atoms]
    molecules = {
        (
            sum(choice.hydrogens) - sum(choice.charges),  # hydrogens of the neutral molecule
            tuple(h for h, is_carbon in zip(choice.hydrogens, carbons, strict=True) if is_carbon),
        )
        for choice in choices
    }
    return len(molecules) > 1


def _groups(mol: Any) -> tuple[set[int], list[list[Any]]]:
    """Return the atoms in rings of aromatic bonds, and the other aromatic bonds by group."""
    kind = library().BondType.AROMATIC
    aromatic = [bond for bond in mol.GetBonds() if bond.GetBondType() == kind]
    bridges = [bond for bond in aromatic if not _is_cyclic(bond, aromatic)]
    ids = {bond.GetIdx() for bond in bridges}
    cyclic = {
        end
        for bond in aromatic
        if bond.GetIdx() not in ids
        for end in (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
    }

    # Bonds that share atoms depend on one another, so their orders are chosen together.
    groups: list[list[Any]] = []
    while bridges:
        group = [bridges.pop()]
        reached = _reached(group[0].GetBeginAtomIdx(), [*bridges, *group])
        group += [bond for bond in bridges if bond.GetBeginAtomIdx() in reached]
        bridges = [bond for bond in bridges if bond.GetBeginAtomIdx() not in reached]
        groups.append(sorted(group, key=lambda bond: bond.GetIdx()))
    return cyclic, groups


def _is_cyclic(bond: Any, among: list[Any]) -> bool:
    """Return whether the ends of a bond are joined by others, too."""
    others = [other for other in among if other.GetIdx() != bond.GetIdx()]
    return bond.GetEndAtomIdx() in _reached(bond.GetBeginAtomIdx(), others)


def _reached(start: int, bonds: list[Any]) -> set[int]:
    """Return the atoms that bonds join with one."""
    found, grew = {start}, True
    while grew:
        ends = [{bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()} for bond in bonds]
        wider = found.union(*(pair for pair in ends if pair & found))
        found, grew = wider, len(wider) > len(found)
    return found


def _choices(
    mol: Any, atoms: list[int], bonds: list[Any], has_hydrogens: bool
) -> Iterator[_Choice]:
    """Yield every way to write a group that gives all its atoms a valence that they can have."""
    ids = {bond.GetIdx() for bond in bonds}
    stated = sum(mol.GetAtomWithIdx(i).GetFormalCharge() for i in atoms)
    is_charged = any(mol.GetAtomWithIdx(i).GetFormalCharge() for i in atoms)
    outside = {
        i: sum(
            int(bond.GetBondTypeAsDouble())
            for bond in mol.GetAtomWithIdx(i).GetBonds()
            if bond.GetIdx() not in ids
        )
        for i in atoms
    }

    for orders in product((1, 2), repeat=len(bonds)):
        valences = dict(outside)
        for bond, order in zip(bonds, orders, strict=True):
            valences[bond.GetBeginAtomIdx()] += order
            valences[bond.GetEndAtomIdx()] += order
        states = [_state(mol.GetAtomWithIdx(i), valences[i], has_hydrogens) for i in atoms]
        if max(orders) == 1 or None in states:  # nothing is delocalised, or no such atom
            continue
        charges, hydrogens = zip(*(state for state in states if state), strict=True)
        if not is_charged or sum(charges) == stated:
            yield _Choice(orders, charges, hydrogens)


def _state(atom: Any, valence: int, has_hydrogens: bool) -> tuple[int, int] | None:
    """Return the charge of an atom and the hydrogens that it lacks; None for no such valence."""
    symbol = atom.GetSymbol()
    known = CHARGES.get(symbol, {})
    is_oxo = symbol in ("O", "S", "Se") and atom.GetDegree() == 1
    if has_hydrogens or is_oxo or (symbol, valence) == ("N", 4):
        return (known[valence], 0) if valence in known else None
    neutral = [v for v, charge in known.items() if not charge and v >= valence]
    lacking = min(neutral) - valence if neutral else 0
    # Hydrogens on these are so rare that a missing one would be a guess.
    if not neutral or (lacking and symbol in ("P", "S", "Se")):
        return None
    return 0, lacking


def _preference(mol: Any, bonds: list[Any], choice: _Choice, ranks: list[int]) -> list[Any]:
    """Return what orders resonance forms: double bonds to ends with few heavy neighbours first."""
    doubles = [
        (
            min(_heavy(bond.GetBeginAtom()), _heavy(bond.GetEndAtom())),
            sorted((ranks[bond.GetBeginAtomIdx()], ranks[bond.GetEndAtomIdx()])),
        )
        for bond, order in zip(bonds, choice.orders, strict=True)
        if order == 2
    ]
    return sorted(doubles)


def _heavy(atom: Any) -> int:
    return sum(other.GetAtomicNum() > 1 for other in atom.GetNeighbors())


def _apply(mol: Any, atoms: list[int], bonds: list[Any], choice: _Choice) -> None:
    kinds = library().BondType
    for bond, order in zip(bonds, choice.orders, strict=True):
        bond.SetBondType(kinds.DOUBLE if order == 2 else kinds.SINGLE)
        bond.SetIsAromatic(False)
    for number, charge in zip(atoms, choice.charges, strict=True):
        atom = mol.GetAtomWithIdx(number)
        atom.SetFormalCharge(charge)
        atom.SetIsAromatic(False)
        atom.SetNumExplicitHs(0)  # A file's field of the valence counts these bonds as it likes.
        atom.SetNoImplicit(False)
