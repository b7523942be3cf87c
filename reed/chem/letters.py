"""One-letter codes of residues, and where each code comes from."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

from reed.chem.protein import ALPHABET
from reed.weights import library

# How the letter of a residue was found; the texts appear in listings.
STANDARD, STATED, FORCE_FIELD, COMPONENT, UNKNOWN = WAYS = (
    "standard",
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
# Names for states of protonation, bonding and glycosylation in AMBER, CHARMM, GLYCAM, OPLS, GROMOS
# and Rosetta, by the letter of the residue.
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
# Names that the PDB gave to other components, each with an atom that only the residue of the force
# fields has: in a HETATM record the name alone is ambiguous.
_CLASHES = {"HSE": "ND1", "GLH": "OE2"}
TELLING = frozenset(_CLASHES.values())


def letter_of(
    name: str, stated: str = "", is_het: bool = False, atoms: Collection[str] = ()
) -> tuple[str, str]:
    """Return the letter of a residue in ALPHABET, and the entry of WAYS that says how it was found.

    Args:
        name: Name of the residue.
        stated: A letter or the name of the parent that the file states; empty if it states none.
        is_het: Whether its records are HETATM.
        atoms: Names of its atoms.
    """
    if letter := LETTERS.get(name):
        return letter, STANDARD
    if is_mirrored(name):  # the backbone of a D residue differs from that of its parent
        return "X", UNKNOWN

    # The file knows best what a name that is not standard means in it.
    if letter := LETTERS.get(stated, stated if stated in LETTERS.values() else ""):
        return letter, STATED
    is_other = is_het and name in _CLASHES and _CLASHES[name] not in atoms
    if not is_other and (letter := _of_force_field(name)):
        return letter, FORCE_FIELD
    letter = _of_component(name)
    return letter, COMPONENT if letter != "X" else UNKNOWN


def is_amino(name: str) -> bool | None:
    """Whether a name is that of an amino acid; None if gemmi's table does not list it."""
    if name in LETTERS or _of_force_field(name):
        return True
    entry = library("gemmi", "reading structures", "proteins").find_tabulated_residue(name)
    return bool(entry.is_amino_acid()) if entry.found() else None


def _of_force_field(name: str) -> str:
    """Return the letter of a force field's name; empty if it is not one."""
    if letter := FORCE_FIELDS.get(name):
        return letter
    if len(name) != 4:
        return ""
    if name[0] in "NC" and (end := LETTERS.get(name[1:]) or FORCE_FIELDS.get(name[1:])):
        return end  # AMBER's names at the ends of a chain, such as NMET, CGLN, NHIE
    return LETTERS.get(name[:3], "")  # such as LYSH, CYS2, HISB, ASPP


@lru_cache(maxsize=4096)
def is_mirrored(name: str) -> bool:
    """Whether a name is that of a D amino acid, by gemmi's table."""
    gemmi = library("gemmi", "reading structures", "proteins")
    return gemmi.find_tabulated_residue(name).kind == gemmi.ResidueKind.AAD


@lru_cache(maxsize=4096)
def _of_component(name: str) -> str:
    """Return the letter of a component of the PDB by gemmi's table, else by biotite's; else X.

    Biotite's dictionary has all components, but is slow to open.
    """
    entry = library("gemmi", "reading structures", "proteins").find_tabulated_residue(name)
    letter = entry.one_letter_code.upper() if entry.found() else _of_dictionary(name)
    return letter if letter in LETTERS.values() else "X"


def _of_dictionary(name: str) -> str:
    """Return the letter of a component by biotite's dictionary; empty for a D residue or none."""
    info: Any = library("biotite.structure.info", f"the letter of residue {name}", "proteins")
    try:
        mirrored = "D-PEPTIDE" in info.link_type(name).upper()
        return "" if mirrored else info.one_letter_code(name) or ""
    except (KeyError, AttributeError):  # the dictionary lacks the name
        return ""
