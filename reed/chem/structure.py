"""Protein chains of one PDB or mmCIF file, by gemmi: backbone atoms, sequence, positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.chem.protein import ALPHABET, ATOMS
from reed.weights import library

SUFFIXES = tuple(
    f"{kind}{packed}" for kind in (".pdb", ".ent", ".cif", ".mmcif") for packed in ("", ".gz")
)
BREAK = 4.5  # angstroms between neighbouring CA from which on residues are missing; 3.8 if none is


@dataclass(frozen=True)
class Chain:
    """One protein chain.

    sequence: letters of ALPHABET, [L]; coords: N, CA, C, O in angstroms, float32 [L, 4, 3], NaN
    where there is none; number: int32 [L], the position in the sequence from 0, gaps counted.
    """

    name: str
    sequence: str
    coords: np.ndarray
    number: np.ndarray


@dataclass(frozen=True)
class Structure:
    """The protein chains of a file, and its resolution in angstroms, NaN where it has none."""

    chains: dict[str, Chain]
    resolution: float


def read_structure(path: Path) -> Structure:
    """The protein chains of the first model of a file; BadSample with the reason.

    Positions are those of SEQRES (mmCIF: of the entity), so residues that were not observed have
    a letter and NaN. In a file without, they are the observed residues in order, and where two
    neighbours are further apart than a bond allows their numbers jump as the author's do. Author
    numbers and insertion codes are used for nothing else. Of alternative locations the one of
    most occupancy counts, per residue; so does the residue, where two share a position.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise BadSample(f"cannot read {path.name}: {error.strerror}") from error
    return _read(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)  # the chains of a file are samples of their own
def _read(path: Path, size: int, changed: int) -> Structure:
    gemmi = _library()
    try:
        found = gemmi.read_structure(str(path))
        found.setup_entities()
        found.assign_label_seq_id()
        found.merge_chain_parts()
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadSample(f"{path.name} is no sound structure: {reason[:200]}") from error
    if not len(found) or not len(found[0]):
        raise BadSample(f"{path.name} holds no atoms")
    chains = [_chain(found, chain) for chain in found[0] if _is_protein(chain.get_polymer())]
    if not chains:
        raise BadSample(f"{path.name} holds no protein chain")
    resolution = found.resolution if found.resolution > 0 else np.nan
    return Structure({chain.name: chain for chain in chains}, float(resolution))


def _is_protein(polymer: Any) -> bool:
    return polymer.check_polymer_type() == _library().PolymerType.PeptideL


def _chain(structure: Any, chain: Any) -> Chain:
    polymer = chain.get_polymer()
    entity = structure.get_entity_of(polymer)
    first = _library().Entity.first_mon
    named = [first(names) for names in entity.full_sequence] if entity else []
    places: dict[Any, list[Any]] = {}  # residues that share a position: microheterogeneity
    for residue in polymer:
        if named and residue.label_seq is None:
            raise BadSample(f"residue {residue.seqid} of chain {chain.name} is not in its SEQRES")
        place = residue.label_seq - 1 if named else (residue.seqid.num, residue.seqid.icode)
        places.setdefault(place, []).append(residue)
    chosen = [max(each, key=_occupancy) for each in places.values()]
    rows = list(places) if named else range(len(chosen))
    letters = [_letter(name) for name in named] or ["X"] * len(chosen)
    coords = np.full((len(letters), len(ATOMS), 3), np.nan, np.float32)
    for row, residue in zip(rows, chosen, strict=True):
        letters[row] = _letter(residue.name)
        coords[row] = _backbone(residue)
    number = np.arange(len(letters)) if named else _jumping(coords, chosen)
    return Chain(chain.name, "".join(letters), coords, number.astype(np.int32))


def _letter(name: str) -> str:
    """The letter of a residue, that of its parent where it is modified (MSE: M); X if unclear."""
    found = _library().find_tabulated_residue(name)
    letter = found.one_letter_code.upper()
    mirrored = found.kind == _library().ResidueKind.AAD
    return letter if letter in ALPHABET and letter.strip() and not mirrored else "X"


def _occupancy(atoms: Iterable[Any]) -> float:
    return sum(atom.occ for atom in atoms if atom.name in ATOMS)


def _backbone(residue: Any) -> np.ndarray:
    """N, CA, C, O of one residue, [4, 3], of one alternative location as far as it has them."""
    by_location: dict[str, list[Any]] = {}
    for atom in residue:
        if atom.name in ATOMS and atom.element.name == atom.name[0]:  # CA may be calcium
            by_location.setdefault(atom.altloc, []).append(atom)
    coords = np.full((len(ATOMS), 3), np.nan, np.float32)
    for atoms in sorted(by_location.values(), key=_occupancy, reverse=True):
        for atom in atoms:
            row = ATOMS.index(atom.name)
            if np.isnan(coords[row, 0]):
                coords[row] = atom.pos.tolist()
    return coords


def _jumping(coords: np.ndarray, residues: Sequence[Any]) -> np.ndarray:
    """Numbers of observed residues, which jump at a break of the chain, by 2 at the least."""
    apart = np.linalg.norm(np.diff(coords[:, 1], axis=0), axis=1)
    author = np.diff([residue.seqid.num for residue in residues])
    steps = np.where(apart > BREAK, np.maximum(author, 2), 1)  # NaN is no break
    return np.concatenate([[0], np.cumsum(steps)])


def _library() -> Any:
    return library("gemmi", "reading structures", "proteins")
