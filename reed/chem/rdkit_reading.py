"""Molecules of RDKit from SMILES and mol blocks, and RDKit's own reason where there is none."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from reed.build.shard import BadSample
from reed.chem import delocalised, sdf_files
from reed.chem.molecule import Molecule
from reed.chem.rdkit import has_aromatic_bond_outside_rings, library, plain_arrays, to_mol
from reed.errors import ReedError

# a bond line of type 4, in a V2000 and in a V3000 block
_TYPE_4 = re.compile(r"^(?:[ \d]{6}  4|M  V30 \d+ 4 )", re.MULTILINE)
_LOCK = Lock()  # RDKit's log is one for the process
_TIME = re.compile(r"^\[[\d:]+\] ")
_LONGEST = 200  # characters of a reason
_WHERE = "check for mistakes around"  # a picture of the place follows


def from_smiles(text: str) -> Any:
    """Return the sanitised molecule of a SMILES; BadSample with RDKit's reason."""
    chem = library()
    if "\0" in text:  # RDKit would end there
        raise BadSample(f"{text[:80]!r} is no SMILES: it holds a zero character")
    mol = chem.MolFromSmiles(text) if text else None
    if mol is None:
        reason = _reason(lambda: chem.MolFromSmiles(text)) if text else "it is empty"
        raise BadSample(f"{text[:80]!r} is no SMILES: {reason}")
    return mol


def from_block(block: str) -> Any:
    """Return the sanitised molecule of a mol block, hydrogens as written.

    Bonds of type 4 (aromatic) outside rings become single and double ones, see
    reed.chem.delocalised. BadSample with RDKit's reason, or because these fit nothing.
    """
    chem = library()
    mol = chem.MolFromMolBlock(block, removeHs=False)
    is_suspect = bool(_TYPE_4.search(block))
    if mol is not None and not is_suspect and not has_aromatic_bond_outside_rings(mol):
        return mol

    # Where such bonds are, RDKit counts valences, and so hydrogens, that the atoms do not have.
    raw = chem.MolFromMolBlock(block, removeHs=False, sanitize=False)
    try:
        is_resolved = raw is not None and delocalised.resolve(raw)
    except delocalised.UnclearBonds:
        if mol is None or has_aromatic_bond_outside_rings(mol) or _adds_hydrogens(mol):
            raise
        is_resolved = False
    if not is_resolved:
        if mol is not None:
            return mol  # all such bonds lie in rings, or RDKit's reading agrees with the hydrogens
        reason = _reason(lambda: chem.MolFromMolBlock(block, removeHs=False))
        raise BadSample(f"is no molecule that RDKit accepts: {reason}")
    if reason := _unsound(raw):
        raise BadSample(f"is no molecule that RDKit accepts: {reason}")
    chem.AssignStereochemistryFrom3D(raw)
    return raw


def _adds_hydrogens(mol: Any) -> bool:
    """Return whether RDKit adds hydrogens to a molecule whose file writes some."""
    atoms = list(mol.GetAtoms())
    writes_some = any(atom.GetAtomicNum() == 1 for atom in atoms)
    return writes_some and any(atom.GetTotalNumHs() for atom in atoms)


def read_sdf(path: Path) -> Iterator[Molecule]:
    """Yield the molecules of an SDF file, found as stage one finds them, sound or not.

    What is measured is not mended: bonds of type 4 outside rings stay, and so do missing hydrogens,
    unless the whole file writes none.

    Raises:
        ReedError: RDKit cannot read an entry, or our arrays cannot hold it.
    """
    chem = library()
    mols = [_sound_or_not(block) for block in sdf_files.blocks(path)]
    writes_some = any(mol and any(a.GetAtomicNum() == 1 for a in mol.GetAtoms()) for mol in mols)
    if not mols:
        raise ReedError(f"{path} holds no molecule")

    for number, mol in enumerate(mols):
        if mol is None or not mol.GetNumConformers():
            arrays = path.with_suffix(".npz")
            hint = f"; measure {arrays}, which holds all" if arrays.is_file() else ""
            raise ReedError(f"{path}: RDKit cannot read entry {number} with coordinates{hint}")

        # RDKit knows the missing hydrogens of sanitised molecules only.
        if not writes_some and not mol.NeedsUpdatePropertyCache():
            mol = chem.AddHs(mol, addCoords=True)
        try:
            yield plain_arrays(mol)
        except ValueError as error:
            problem = f"{path}: entry {number} cannot be measured, it has {error}"
            raise ReedError(f"{problem}; leave it out") from error


def _sound_or_not(block: str) -> Any | None:
    """Return the molecule of a mol block, not sanitised if that fails; None if RDKit refuses it."""
    mol = library().MolFromMolBlock(block, sanitize=False, removeHs=False)
    if mol is None:
        return None
    sound = library().Mol(mol)  # Sanitising finds aromatic bonds, written as single and double.
    return mol if _unsound(sound) else sound


def why_unsound(molecule: Molecule) -> str:
    """Return why RDKit does not sanitise a molecule, in one line; empty where it does."""
    return _unsound(to_mol(molecule))


def _unsound(mol: Any) -> str:
    """Sanitise in place; the reason where that fails."""
    try:
        library().SanitizeMol(mol)
    except (ValueError, RuntimeError) as error:
        return _line(str(error).splitlines())
    return ""


def _reason(fails: Callable[[], Any]) -> str:
    """Return the errors that RDKit logs while something fails, else the warnings, in one line."""
    with _listening() as records:
        fails()
    errors = [record for record in records if record.levelno >= logging.ERROR]
    return _line([record.getMessage() for record in errors or records]) or "RDKit gives no reason"


def _line(messages: list[str]) -> str:
    """Return messages of RDKit in one line, without times, repetition and pictures."""
    found: list[str] = []
    for message in messages:
        text = " ".join(_TIME.sub("", message).removeprefix("SMILES Parse Error: ").split())
        text = _TIME.sub("", text).removeprefix("SMILES Parse Error: ").rstrip(":")
        if text and text not in found:
            found.append(text)
        if text.startswith(_WHERE):
            break
    line = "; ".join(found)
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"


class _Collector(logging.Handler):
    """A handler that keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _listening() -> Generator[list[logging.LogRecord]]:
    """Collect what RDKit logs, and print none of it."""
    base, log, collector = library("rdBase"), logging.getLogger("rdkit"), _Collector()
    handlers: list[logging.Handler] = [collector]  # RDKit's own handler would print.
    with _LOCK:
        before, log.handlers = log.handlers, handlers
        does_propagate, log.propagate = log.propagate, False
        base.LogToPythonLogger()  # This enables all of RDKit's logs.
        try:
            yield collector.records
        finally:
            base.LogToCppStreams()
            base.DisableLog("rdApp.*")
            log.handlers, log.propagate = before, does_propagate
