"""Assignment of residues to protein molecules, and of models to alternatives or assemblies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from scipy.spatial import KDTree

from reed.build.shard import BadSample
from reed.chem.letters import is_amino, is_mirrored
from reed.chem.residues import Content, Residue

PEPTIDE = 2.5  # angstroms from C to the next N, below which they are bonded; ideally 1.33
BREAK = 4.5  # angstroms between neighbouring CA, above which residues are missing; ideally 3.8
STEP = 4.0  # angstroms that one residue bridges at most
SLACK = 26.0  # angstroms of tolerance for residue numbers that skip less than the gap
_ENDS = frozenset({"OXT", "OT2", "OC2"})  # second oxygens of a C-terminus, by PDB, CHARMM, GROMACS
# Two models overlap if more than a share of their CA atoms are within this distance in angstroms.
_TOUCH, _SHARE = 2.0, 0.05
_ALIKE = 0.9  # share of residues with equal names in models of one structure
_RIGID = 0.1  # angstroms by which distances in copies of a molecule may differ, through rounding


@dataclass(frozen=True)
class Molecule:
    """One protein molecule.

    Attributes:
        unit: Its name in the file (see Site).
        chain: The author's name of its chain.
        residues: Its residues in order.
    """

    unit: str
    chain: str
    residues: list[Residue]


def molecules(content: Content) -> list[Molecule]:
    """Return the protein molecules of a file: of its first model, or of all models side by side.

    Models are side by side, like the parts of an assembly, if no two overlap, and if the file
    calls them an assembly, they are exact copies, or they have different chains.

    Raises:
        BadSample: The models have different molecules, but are not side by side.
    """
    models = [_of_model(content, residues) for residues in content.models]
    models = [model for model in models if model]
    if len(models) < 2:
        return models[0] if models else []
    alphas = [_alphas(model) for model in models]
    if _are_apart(alphas) and (content.is_assembly or _are_copies(alphas) or _are_disjoint(models)):
        return [molecule for model in models for molecule in model]
    if different := [i for i, model in enumerate(models) if not _are_alike(model, models[0])]:
        raise BadSample(f"holds other molecules in model {different[0] + 1} than in 1; split it")
    return models[0]


def distance(before: Residue, after: Residue) -> float:
    """Return the distance from CA to CA in angstroms; NaN if one is missing."""
    return math.dist(before.backbone[1], after.backbone[1])


def is_bonded(before: Residue, after: Residue) -> bool:
    """Whether a peptide bond joins two residues, by C and N or, if one is missing, by CA."""
    length = math.dist(before.backbone[2], after.backbone[0])
    return length < PEPTIDE if length == length else distance(before, after) < BREAK


def _of_model(content: Content, residues: Sequence[Residue]) -> list[Molecule]:
    """Return the protein molecules of one model."""
    # A PDB file gives no molecules: each run of records of one chain between TERs is a group.
    groups: dict[object, list[Residue]] = {}
    last, run = None, 0
    for residue in residues:
        current = (residue.site.unit, residue.site.part)
        run += current != last
        last = current
        groups.setdefault(run if residue.site.label is None else residue.site.unit, []).append(
            residue
        )

    in_model: list[Molecule] = []
    ends: dict[str, Molecule] = {}  # the last molecule of each unit
    for group in groups.values():
        unit, polymer = group[0].site.unit, _polymer(content, group, group[0].site.unit in ends)
        for stretch in _split(polymer):
            if unit in ends and is_bonded(ends[unit].residues[-1], stretch[0]):
                ends[unit].residues.extend(stretch)  # a TER or another chain interrupted the chain
                continue
            ends[unit] = Molecule(unit, stretch[0].site.chain, stretch)
            in_model.append(ends[unit])

        kept = set(map(id, polymer))
        left = [residue for residue in group if residue.is_het and id(residue) not in kept]
        _put_back(left, [molecule for molecule in in_model if molecule.unit == unit])
    return in_model


def _put_back(left: Sequence[Residue], candidates: Sequence[Molecule]) -> None:
    """Insert modified residues that a file lists after a chain where they are bonded in it."""
    for residue in filter(_is_amino, left):
        for chain in (molecule.residues for molecule in candidates):
            after = [0, *(i + 1 for i, other in enumerate(chain) if is_bonded(other, residue))]
            indices = [i for i in after if i == len(chain) or is_bonded(residue, chain[i])]
            if indices:
                chain.insert(indices[0], residue)
                break


def _polymer(content: Content, group: Sequence[Residue], is_after: bool) -> list[Residue]:
    """Return the residues of a group that form a protein; empty if they form none.

    Free amino acids are left out. They are HETATM records after the end of the chain that are not
    bonded to it.

    Args:
        content: The content of the file.
        group: Residues of one unit.
        is_after: Whether the same unit had a polymer before.
    """
    site = group[0].site
    if not content.polymers.get(site.unit, True):
        return []

    chain = [residue for residue in group if _is_amino(residue)]
    if any(residue.site.label is not None for residue in chain):  # others belong to no sequence
        chain = [residue for residue in chain if residue.site.label is not None]
    elif site.part not in content.closed and site.unit not in content.polymers:
        chain = _without_free(chain)
    if all(residue.is_het for residue in chain) and site.unit not in content.polymers:
        if is_after or len(chain) < 2 or not any(map(is_bonded, chain[:-1], chain[1:])):
            return []

    # A peptide of D residues is no protein: no letter of it would be known.
    _forget_copies(chain)
    _forget_unoccupied(chain)
    mirrored = sum(is_mirrored(residue.name) for residue in chain)
    return chain if 2 * mirrored <= len(chain) else []


def _is_amino(residue: Residue) -> bool:
    """Whether a residue is an amino acid, by its name or else by its atoms."""
    known, atoms = is_amino(residue.name), residue.atoms
    if known is None:
        return "CA" in atoms and (not residue.is_het or bool({"N", "C"} & atoms))
    # force fields use names that the PDB gave to other components
    return known or (not residue.is_het and {"N", "CA", "C"} <= atoms)


def _forget_copies(chain: Sequence[Residue]) -> None:
    """Mark residues whose CA atoms coincide as not observed: their coordinates are dummies."""
    by_alpha: dict[tuple[float, ...], list[Residue]] = {}
    for residue in chain:
        by_alpha.setdefault(tuple(residue.backbone[1].tolist()), []).append(residue)
    for alpha, residues in by_alpha.items():
        if alpha[0] == alpha[0] and len({residue.site.place for residue in residues}) > 1:
            for residue in residues:
                residue.backbone = np.full_like(residue.backbone, np.nan)


def _forget_unoccupied(chain: Sequence[Residue]) -> None:
    """Mark residues of occupancy 0 as not observed where they lie too far from the chain.

    Residues of occupancy 0 that are bonded to the others are modelled, and stay. The numbers must
    go on: others may be of a molecule of their own.
    """
    runs = [list(run) for _, run in groupby(chain, key=lambda residue: residue.is_occupied)]
    for i, run in enumerate(runs):
        before, after = runs[i - 1][-1:] if i else [], runs[i + 1][:1] if i + 1 < len(runs) else []
        seams = [*zip(before, run[:1], strict=True)] if before else []
        seams += [*zip(run[-1:], after, strict=True)] if after else []
        if run[0].is_occupied or not seams or not all(_is_dummy_seam(*seam) for seam in seams):
            continue
        for residue in run:
            residue.backbone = np.full_like(residue.backbone, np.nan)


def _is_dummy_seam(before: Residue, after: Residue) -> bool:
    """Whether the numbers of two residues go on, and no loop can bridge their distance."""
    step = after.site.place[0] - before.site.place[0]
    return 0 <= step and before.segment == after.segment and _is_far(before, after, step)


def _without_free(chain: list[Residue]) -> list[Residue]:
    """Return a chain without the free amino acids after its end."""
    end = max((i + 1 for i, residue in enumerate(chain) if not residue.is_het), default=0)
    if not end:
        return chain
    while end < len(chain) and is_bonded(chain[end - 1], chain[end]):
        end += 1
    return chain[:end]


def _split(chain: Sequence[Residue]) -> Iterator[list[Residue]]:
    """Yield the molecules of one chain (see _begins)."""
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
    """Whether a molecule begins with ``after``: not bonded, and renumbered or too far away.

    The same holds where numbers go on behind a C-terminus: behind a gap there would be none.
    """
    if is_bonded(before, after):
        return False
    step = after.site.place[0] - before.site.place[0]
    if step < 0 or after.site.place in seen or after.segment != before.segment:
        return True
    if after.site.label is not None:  # mmCIF states that it is one molecule
        return False
    return (step == 1 and not _ENDS.isdisjoint(before.atoms)) or _is_far(before, after, step)


def _is_far(before: Residue, after: Residue, step: int) -> bool:
    """Whether two residues are further apart than missing residues can bridge; False for NaN."""
    return distance(before, after) > STEP * max(step, 1) + SLACK


def _alphas(model: Sequence[Molecule]) -> np.ndarray:
    """Return the observed CA atoms, float64 [n, 3]."""
    alphas = np.array([residue.backbone[1] for molecule in model for residue in molecule.residues])
    return alphas[np.isfinite(alphas).all(1)].astype(np.float64)


def _are_apart(alphas: Sequence[np.ndarray]) -> bool:
    """Whether no two models overlap, by their CA atoms."""
    if not all(map(len, alphas)):
        return False
    trees = [KDTree(points) for points in alphas]
    for i, tree in enumerate(trees):
        for other in alphas[i + 1 :]:
            near = tree.query(other, distance_upper_bound=_TOUCH)[0]
            if np.isfinite(near).mean() > _SHARE:
                return False
    return True


def _are_copies(alphas: Sequence[np.ndarray]) -> bool:
    """Whether all models are the first one, moved: the distances within them are equal."""
    if len({len(points) for points in alphas}) > 1:
        return False
    for step in (1, 7, len(alphas[0]) // 2):
        inner = [np.linalg.norm(points - np.roll(points, step, 0), axis=1) for points in alphas]
        if max(float(np.abs(distances - inner[0]).max()) for distances in inner) > _RIGID:
            return False
    return True


def _are_disjoint(models: Sequence[Sequence[Molecule]]) -> bool:
    """Whether no two models have a unit in common."""
    names = [{molecule.unit for molecule in model} for model in models]
    return sum(map(len, names)) == len(set().union(*names))


def _are_alike(model: Sequence[Molecule], first: Sequence[Molecule]) -> bool:
    """Whether two models have nearly the same residues at the positions that both have."""
    names, first_names = (
        {(molecule.unit, r.site.place): r.name for molecule in m for r in molecule.residues}
        for m in (model, first)
    )
    shared = names.keys() & first_names.keys()
    same = sum(names[position] == first_names[position] for position in shared)
    return bool(shared) and same > _ALIKE * len(shared)
