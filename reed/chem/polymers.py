"""Which residues of a file are one protein molecule, and which models stand beside each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from reed.build.shard import BadSample
from reed.chem.letters import is_amino, is_mirrored
from reed.chem.residues import Content, Residue

PEPTIDE = 2.5  # angstroms from C to the next N below which they are bonded; 1.33 ideally
BREAK = 4.5  # angstroms between neighbouring CA from which on residues are missing; 3.8 if none is
STEP, SLACK = 4.0, 26.0  # angstroms that a residue bridges at most, and what a number may be off
_TOUCH, _SHARE = 2.0, 0.05  # angstroms of CA at one place, and the share of them in an overlap
_ALIKE = 0.9  # share of residues that models of one structure have in common
_RIGID = 0.1  # angstroms by which distances in copies of one molecule differ, by rounding


@dataclass(frozen=True)
class Molecule:
    """The residues of one protein molecule, in order. unit, chain: see Site."""

    unit: str
    chain: str
    residues: list[Residue]


def molecules(content: Content) -> list[Molecule]:
    """The protein molecules of a file: of its first model, or of all where these lie side by side.

    Models are side by side, as those of an assembly, if none overlaps with another and the file
    calls them an assembly, or they are exact copies or of other chains. Raises BadSample for
    models of different molecules that are not side by side.
    """
    models = [_of_model(content, residues) for residues in content.models]
    models = [model for model in models if model]
    if len(models) < 2:
        return models[0] if models else []
    places = [_alphas(model) for model in models]
    if _are_apart(places) and (content.is_assembly or _are_copies(places) or _are_disjoint(models)):
        return [molecule for model in models for molecule in model]
    if different := [i for i, model in enumerate(models) if not _are_alike(model, models[0])]:
        raise BadSample(f"holds other molecules in model {different[0] + 1} than in 1; split it")
    return models[0]


def distance(before: Residue, after: Residue) -> float:
    """From CA to CA in angstroms; NaN where one is not there."""
    return math.dist(before.backbone[1], after.backbone[1])


def is_bonded(before: Residue, after: Residue) -> bool:
    """Whether there is a peptide bond between two residues, by C and N or else by their CA."""
    apart = math.dist(before.backbone[2], after.backbone[0])
    return apart < PEPTIDE if apart == apart else distance(before, after) < BREAK


def _of_model(content: Content, residues: Sequence[Residue]) -> list[Molecule]:
    groups: dict[object, list[Residue]] = {}
    last, run = None, 0
    for residue in residues:
        here = (residue.site.unit, residue.site.part)
        run += here != last
        last = here
        groups.setdefault(run if residue.site.label is None else residue.site.unit, []).append(
            residue
        )
    found: list[Molecule] = []
    ends: dict[str, Molecule] = {}  # the last molecule of each unit
    for group in groups.values():
        unit, polymer = group[0].site.unit, _polymer(content, group, group[0].site.unit in ends)
        for each in _split(polymer):
            if unit in ends and is_bonded(ends[unit].residues[-1], each[0]):
                ends[unit].residues.extend(each)  # a TER, or another chain, within a chain
                continue
            ends[unit] = Molecule(unit, each[0].site.chain, each)
            found.append(ends[unit])
        kept = set(map(id, polymer))
        left = [residue for residue in group if residue.is_het and id(residue) not in kept]
        _put_back(left, [molecule for molecule in found if molecule.unit == unit])
    return found


def _put_back(left: Sequence[Residue], found: Sequence[Molecule]) -> None:
    """Put modified residues that a file lists behind a chain where their bonds say they are."""
    for residue in filter(_is_amino, left):
        for chain in (molecule.residues for molecule in found):
            after = [0, *(i + 1 for i, other in enumerate(chain) if is_bonded(other, residue))]
            places = [i for i in after if i == len(chain) or is_bonded(residue, chain[i])]
            if places:
                chain.insert(places[0], residue)
                break


def _polymer(content: Content, group: Sequence[Residue], is_after: bool) -> list[Residue]:
    """The residues of a group that make a protein; empty where there is none.

    Free amino acids follow the chain: they are HETATM records behind its end, and not bonded.
    is_after: whether the same chain had a polymer before.
    """
    site = group[0].site
    if not content.polymers.get(site.unit, True):
        return []
    chain = [residue for residue in group if _is_amino(residue)]
    if any(residue.site.label is not None for residue in chain):  # others are of no sequence
        chain = [residue for residue in chain if residue.site.label is not None]
    elif site.part not in content.closed and site.unit not in content.polymers:
        chain = _without_free(chain)
    if all(residue.is_het for residue in chain) and site.unit not in content.polymers:
        if is_after or len(chain) < 2 or not any(map(is_bonded, chain[:-1], chain[1:])):
            return []
    _forget_copies(chain)
    mirrored = sum(is_mirrored(residue.name) for residue in chain)
    return chain if 2 * mirrored <= len(chain) else []


def _is_amino(residue: Residue) -> bool:
    known, atoms = is_amino(residue.name), residue.atoms
    if known is None:
        return "CA" in atoms and (not residue.is_het or bool({"N", "C"} & atoms))
    # force fields use names that the PDB gave to other components
    return known or (not residue.is_het and {"N", "CA", "C"} <= atoms)


def _forget_copies(chain: Sequence[Residue]) -> None:
    """Residues that lie where another one does are dummies, all of them: not observed."""
    there: dict[tuple[float, ...], list[Residue]] = {}
    for residue in chain:
        there.setdefault(tuple(residue.backbone[1].tolist()), []).append(residue)
    for place, residues in there.items():
        if place[0] == place[0] and len({residue.site.place for residue in residues}) > 1:
            for residue in residues:
                residue.backbone = np.full_like(residue.backbone, np.nan)


def _without_free(chain: list[Residue]) -> list[Residue]:
    end = max((i + 1 for i, residue in enumerate(chain) if not residue.is_het), default=0)
    if not end:
        return chain
    while end < len(chain) and is_bonded(chain[end - 1], chain[end]):
        end += 1
    return chain[:end]


def _split(chain: Sequence[Residue]) -> Iterator[list[Residue]]:
    """The molecules of one chain: each begins where the numbers, or the atoms, begin anew."""
    molecule: list[Residue] = []
    seen: set[tuple[int, str]] = set()
    for residue in chain:
        if molecule and _begins(molecule[-1], residue, seen):
            yield molecule
            molecule, seen = [], set()
        molecule.append(residue)
        seen.add(residue.site.place)
    if molecule:
        yield molecule


def _begins(before: Residue, after: Residue, seen: set[tuple[int, str]]) -> bool:
    if is_bonded(before, after):
        return False
    step = after.site.place[0] - before.site.place[0]
    if step < 0 or after.site.place in seen or after.segment != before.segment:
        return True
    if after.site.label is not None:  # the file says that it is one molecule
        return False
    return distance(before, after) > STEP * max(step, 1) + SLACK  # NaN is not


def _alphas(model: Sequence[Molecule]) -> np.ndarray:
    """The CA that are there, [n, 3] in float64."""
    found = np.array([residue.backbone[1] for each in model for residue in each.residues])
    return found[np.isfinite(found).all(1)].astype(np.float64)


def _are_apart(places: Sequence[np.ndarray]) -> bool:
    """Whether no two models overlap, by their CA."""
    if not all(map(len, places)):
        return False
    trees = [KDTree(each) for each in places]
    for i, tree in enumerate(trees):
        for other in places[i + 1 :]:
            near = tree.query(other, distance_upper_bound=_TOUCH)[0]
            if np.isfinite(near).mean() > _SHARE:
                return False
    return True


def _are_copies(places: Sequence[np.ndarray]) -> bool:
    """Whether all are the first one, moved: distances within them are the same."""
    if len({len(each) for each in places}) > 1:
        return False
    for step in (1, 7, len(places[0]) // 2):
        inner = [np.linalg.norm(each - np.roll(each, step, 0), axis=1) for each in places]
        if max(float(np.abs(each - inner[0]).max()) for each in inner) > _RIGID:
            return False
    return True


def _are_disjoint(models: Sequence[Sequence[Molecule]]) -> bool:
    names = [{molecule.unit for molecule in model} for model in models]
    return sum(map(len, names)) == len(set().union(*names))


def _are_alike(model: Sequence[Molecule], first: Sequence[Molecule]) -> bool:
    """Whether two models are of one sequence, but for what one of them lacks."""
    ours, theirs = (
        {(each.unit, r.site.place): r.name for each in m for r in each.residues}
        for m in (model, first)
    )
    both = ours.keys() & theirs.keys()
    same = sum(ours[place] == theirs[place] for place in both)
    return bool(both) and same > _ALIKE * len(both)
