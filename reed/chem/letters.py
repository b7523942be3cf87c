"""The letter of a residue: as its file states it, of force fields, of the PDB's components."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

from reed.chem.protein import ALPHABET
from reed.weights import library

STANDARD, STATED, FORCE_FIELD, COMPONENT, UNKNOWN = WAYS = (
    "of the 20",
    "stated by the file",
    "names of force fields",
    "components of the PDB",
    "X",
)
LETTERS = dict(
    zip(
        "ALA CYS ASP GLU PHE GLY HIS ILE LYS LEU MET ASN PRO GLN ARG SER THR VAL TRP TYR".split(),
        ALPHABET,
        strict=False,
    )
)
# Names of protonation, bonding and glycosylation in AMBER, CHARMM, GLYCAM, OPLS, GROMOS and Rosetta
_VARIANTS = {
    "H": "HSD HSE HSP HID HIE HIP H1D H2D H1E H2E",
    "C": "CYX CYM CYN CYH CYZ CYD CSS",
    "D": "ASH",
    "E": "GLH PGLU",
    "K": "LYN LYP LSN",
    "N": "NLN",
    "P": "OLP",
    "R": "ARN",
    "S": "S1P OLS",
    "T": "T1P OLT",
    "Y": "TYM Y1P",
}
FORCE_FIELDS = {name: letter for letter, names in _VARIANTS.items() for name in names.split()}
# Names that the PDB gave to other components: in a HETATM record these atoms tell them apart
_CLASHES = {"HSE": "ND1", "GLH": "OE2"}
TELLING = frozenset(_CLASHES.values())


def letter_of(
    name: str, stated: str = "", is_het: bool = False, atoms: Collection[str] = ()
) -> tuple[str, str]:
    """The letter of a residue in ALPHABET, and which of WAYS it came by.

    Args:
        name: That of the residue.
        stated: What the file says of it: a letter, or the name of its parent; empty for nothing.
        is_het: Whether its record is HETATM.
        atoms: Names of its atoms.
    """
    if letter := LETTERS.get(name):
        return letter, STANDARD
    if is_mirrored(name):  # the backbone of a D residue is not that of its parent
        return "X", UNKNOWN
    if letter := LETTERS.get(stated, stated if stated in LETTERS.values() else ""):
        return letter, STATED
    clashes = is_het and name in _CLASHES and _CLASHES[name] not in atoms
    if not clashes and (letter := _of_force_field(name)):
        return letter, FORCE_FIELD
    letter = _of_component(name)
    return letter, COMPONENT if letter != "X" else UNKNOWN


def is_amino(name: str) -> bool | None:
    """Whether a name is that of an amino acid; None where gemmi's table does not have it."""
    if name in LETTERS or _of_force_field(name):
        return True
    found = library("gemmi", "reading structures", "proteins").find_tabulated_residue(name)
    return bool(found.is_amino_acid()) if found.found() else None


def _of_force_field(name: str) -> str:
    if letter := FORCE_FIELDS.get(name):
        return letter
    if len(name) != 4:
        return ""
    if name[0] in "NC" and (end := LETTERS.get(name[1:]) or FORCE_FIELDS.get(name[1:])):
        return end  # AMBER's ends of a chain: NMET, CGLN, NHIE
    return LETTERS.get(name[:3], "")  # LYSH, CYS2, HISB, ASPP


@lru_cache(maxsize=4096)
def is_mirrored(name: str) -> bool:
    """Whether a name is that of a D amino acid, by gemmi's table."""
    gemmi = library("gemmi", "reading structures", "proteins")
    return gemmi.find_tabulated_residue(name).kind == gemmi.ResidueKind.AAD


@lru_cache(maxsize=4096)
def _of_component(name: str) -> str:
    """By gemmi's table, then by the dictionary of all components, which is slow to open."""
    found = library("gemmi", "reading structures", "proteins").find_tabulated_residue(name)
    letter = found.one_letter_code.upper() if found.found() else _of_dictionary(name)
    return letter if letter in LETTERS.values() else "X"


def _of_dictionary(name: str) -> str:
    info: Any = library("biotite.structure.info", f"the letter of residue {name}", "proteins")
    try:
        mirrored = "D-PEPTIDE" in info.link_type(name).upper()
        return "" if mirrored else info.one_letter_code(name) or ""
    except (KeyError, AttributeError):  # a name that it does not have
        return ""
