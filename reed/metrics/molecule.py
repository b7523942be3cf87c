"""Measures of generated molecules: valences, validity by RDKit, energies.

Stability comes in two kinds. ``strict`` counts valences on kekulised bonds, and compares them with
a table that real molecules satisfy. ``semlaflow`` repeats the computation of SemlaFlow's and REED's
code, for comparison with published numbers: it counts an aromatic bond as one, for which its table
compensates (a radical CH3 is stable). GEOM-Drugs Revisited (arXiv 2505.00169) describes that error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from reed.chem import rdkit
from reed.chem.geometry import rmsd
from reed.chem.molecule import AROMATIC, ATOMS, Molecule
from reed.errors import ReedError, suggest

MODES = ("strict", "semlaflow")
Table = dict[tuple[str, int], tuple[int, ...]]
# (symbol, formal charge) -> allowed sums of bond orders; molecules that RDKit accepts have these.
STRICT: Table = {
    ("H", 0): (1,),
    ("H", 1): (0,),
    ("C", 0): (4,),
    ("C", 1): (3,),
    ("C", -1): (3,),
    ("N", 0): (3,),
    ("N", 1): (4,),
    ("N", -1): (2,),
    ("O", 0): (2,),
    ("O", 1): (3,),
    ("O", -1): (1,),
    ("F", 0): (1,),
    ("F", -1): (0,),
    ("B", 0): (3,),
    ("B", -1): (4,),
    ("Al", 0): (3,),
    ("Si", 0): (4,),
    ("P", 0): (3, 5),
    ("P", 1): (4,),
    ("S", 0): (2, 4, 6),
    ("S", 1): (3, 5),
    ("S", -1): (1,),
    ("Cl", 0): (1,),
    ("Cl", -1): (0,),
    ("Cl", 1): (2, 4),
    ("As", 0): (3, 5),
    ("Br", 0): (1,),
    ("Br", -1): (0,),
    ("I", 0): (1, 3, 5),
    ("I", 1): (2,),
    ("Hg", 0): (1, 2),
    ("Bi", 0): (3, 5),
}
# SemlaFlow's table, as released.
SEMLAFLOW: Table = {
    ("H", 0): (1,),
    ("H", 1): (0,),
    ("H", -1): (0,),
    ("C", 0): (3, 4),
    ("C", 1): (3,),
    ("C", -1): (3,),
    ("N", 0): (2, 3),
    ("N", 1): (2, 3, 4),
    ("N", -1): (2,),
    ("O", 0): (2,),
    ("O", 1): (3,),
    ("O", -1): (1,),
    ("F", 0): (1,),
    ("F", -1): (0,),
    ("P", 0): (3, 5),
    ("P", 1): (4,),
    ("S", 0): (2, 6),
    ("S", 1): (2, 3),
    ("S", 2): (4,),
    ("S", 3): (5,),
    ("S", -1): (3,),
    ("Br", 0): (1,),
    ("Br", 1): (2,),
}
SEMLAFLOW_ANY = {  # for any charge
    "B": (3,),
    "Al": (3,),
    "Si": (4,),
    "Cl": (1,),
    "As": (3,),
    "I": (1,),
    "Hg": (1, 2),
    "Bi": (3, 5),
}
STEPS = 1000  # maximum steps of a minimisation


def stable_atoms(molecule: Molecule, mode: str = "strict") -> np.ndarray:
    """Return which atoms have a valence that the table allows, bool [N].

    Args:
        molecule: The molecule.
        mode: ``strict`` or ``semlaflow``. With ``strict`` no atom is stable if the bonds cannot be
            kekulised.

    Raises:
        ReedError: The mode is unknown.
    """
    if mode not in MODES:
        raise ReedError(f"unknown kind of stability {mode!r}.{suggest(mode, MODES)}")

    # Bond orders as integers: kekulised, or aromatic bonds as the released code rounds them.
    orders = molecule.bonds.astype(int)
    if mode == "strict" and (orders == AROMATIC).any():
        kekule = _kekule_orders(molecule)
        if kekule is None:
            return np.zeros(len(molecule), bool)
        orders = kekule
    else:
        orders[orders == AROMATIC] = 1  # 1.5 in an array of integers, in the released code

    valences = orders.sum(1).tolist()
    stable = []
    for number, charge, valence in zip(
        molecule.atoms.tolist(), molecule.charges.tolist(), valences, strict=True
    ):
        symbol = ATOMS[number]
        if mode == "strict":
            allowed = STRICT.get((symbol, charge), ())
        else:
            allowed = SEMLAFLOW_ANY.get(symbol) or SEMLAFLOW.get((symbol, charge), ())
        stable.append(valence in allowed)
    return np.array(stable, bool)


def _kekule_orders(molecule: Molecule) -> np.ndarray | None:
    """Return kekulised bond orders, [N, N], or None if RDKit cannot kekulise the molecule."""
    mol = rdkit.to_mol(molecule)
    try:
        mol.UpdatePropertyCache(strict=False)
        rdkit.library().Kekulize(mol, clearAromaticFlags=True)
    except (ValueError, RuntimeError):
        return None
    orders = np.zeros((len(molecule),) * 2, int)
    for bond in mol.GetBonds():
        a, b = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        orders[a, b] = orders[b, a] = int(bond.GetBondTypeAsDouble())
    return orders


@dataclass(frozen=True)
class Relaxed:
    """The result of one MMFF94 minimisation.

    Attributes:
        before: Energy before, in kcal/mol.
        after: Energy after, in kcal/mol.
        rmsd: RMSD of all atoms, with hydrogens, after superposition, in angstroms.
        converged: Whether the minimisation converged within 1,000 steps.
    """

    before: float
    after: float
    rmsd: float
    converged: bool


def relax(mol: Any) -> Relaxed | None:
    """Minimise a copy of a sanitised molecule, in which fragments repel each other, too.

    Returns:
        The result, or None if MMFF94 lacks parameters or diverges.
    """
    force = rdkit.library("Chem.rdForceFieldHelpers")
    copy = rdkit.library().Mol(mol)
    settings = force.MMFFGetMoleculeProperties(copy, mmffVariant="MMFF94")
    if settings is None:
        return None

    # By default RDKit leaves out what lies between fragments, so a clash of two costs nothing.
    field = force.MMFFGetMoleculeForceField(copy, settings, ignoreInterfragInteractions=False)
    if field is None:
        return None
    start, before = copy.GetConformer().GetPositions(), field.CalcEnergy()
    left = field.Minimize(maxIts=STEPS)
    after = field.CalcEnergy()
    end = copy.GetConformer().GetPositions()
    if not np.isfinite([before, after, *end.ravel()]).all():
        return None
    return Relaxed(before, after, rmsd(end, start), left == 0)


def measure(
    molecules: Sequence[Molecule], known: frozenset[str] | None = None, *, progress: bool = False
) -> dict[str, float | None]:
    """Compute every measure of some molecules, as in SemlaFlow (arXiv 2406.07266).

    Args:
        molecules: The molecules.
        known: ``reed.chem.rdkit.flat`` of the molecules that are not novel; None to skip novelty.
        progress: Whether to show a progress bar.

    Returns:
        Measures by name; None where there is nothing to average. Shares are from 0 to 1.

        - ``validity``: RDKit accepts the molecule; ``connected_validity``: and it is in one piece.
        - ``uniqueness``: distinct molecules among the valid ones.
        - ``novelty``: valid molecules that are not in ``known``.
        - ``energy_validity``: MMFF94 computes an energy; ``relaxed_validity``: and its
          minimisation converges.
        - ``energy`` in kcal/mol, ``strain`` (energy minus that of the relaxed pose) and ``rmsd`` to
          that pose in angstroms, as mean and median per molecule. ``strain`` and ``rmsd`` are over
          the molecules whose minimisation converged. All come from one minimisation.

    Raises:
        ReedError: There are no molecules.
    """
    if not molecules:
        raise ReedError("there are no molecules to measure")

    # One pass over the molecules: minimisation is slow, and several measures share it.
    shares: dict[str, list[bool]] = {}
    mols, texts, relaxed, sizes = 0, [], [], []
    bar = tqdm(molecules, "measure", unit="molecule", disable=not progress, dynamic_ncols=True)
    for molecule in bar:
        for mode in MODES:
            stable = stable_atoms(molecule, mode)
            shares.setdefault(f"atom_stability_{mode}", []).extend(stable.tolist())
            shares.setdefault(f"molecule_stability_{mode}", []).append(bool(stable.all()))
        mol = rdkit.sanitised(molecule)
        pieces = len(rdkit.library().GetMolFrags(mol)) if mol is not None else 0
        pose = relax(mol) if mol is not None else None
        shares.setdefault("validity", []).append(mol is not None)
        shares.setdefault("connected_validity", []).append(pieces == 1)
        shares.setdefault("energy_validity", []).append(pose is not None)
        shares.setdefault("relaxed_validity", []).append(pose is not None and pose.converged)
        if mol is not None:
            mols += 1
            texts.append(rdkit.flat(mol))
        if pose is not None:
            relaxed.append(pose)
            sizes.append(len(molecule))

    measures: dict[str, float | None] = {name: float(np.mean(v)) for name, v in shares.items()}
    measures["uniqueness"] = len(set(texts)) / mols if mols else None
    if known is not None:
        measures["novelty"] = float(np.mean([t not in known for t in texts])) if mols else None
    return measures | _energies(relaxed, sizes) | {"molecules": len(molecules)}


def _energies(relaxed: Sequence[Relaxed], sizes: Sequence[int]) -> dict[str, float | None]:
    # Strain and RMSD mean nothing if the minimisation stopped on the way.
    done = [(pose, size) for pose, size in zip(relaxed, sizes, strict=True) if pose.converged]
    values = {
        "energy": [pose.before for pose in relaxed],
        "energy_per_atom": [p.before / n for p, n in zip(relaxed, sizes, strict=True)],
        "strain": [pose.before - pose.after for pose, _ in done],
        "strain_per_atom": [(pose.before - pose.after) / size for pose, size in done],
        "rmsd": [pose.rmsd for pose, _ in done],
    }

    measures: dict[str, float | None] = {}
    for name, numbers in values.items():
        measures[f"{name}_mean"] = float(np.mean(numbers)) if numbers else None
        measures[f"{name}_median"] = float(np.median(numbers)) if numbers else None
    return measures
