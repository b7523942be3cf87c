"""The PDB format: fixed columns of atoms by hand, all the rest by gemmi."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import nan
from typing import Any

from reed.build.shard import BadSample
from reed.chem.residues import KEPT, Atom, Collector, Content, Site, Stated
from reed.weights import library

_HEADER = ("REMARK", "SEQRES", "MODRES")  # what gemmi is given to read
_SEGMENT = re.compile(r"[A-Za-z][\w ]*")
_ENTRY = ("HEADER", "SEQRES")  # records that begin an entry, not one more frame


def read_pdb(lines: Sequence[str]) -> Content:
    """What the lines of a PDB file hold; BadSample for one of several entries.

    Models are those of MODEL records, or what an END separates. Atoms are read here because
    gemmi puts the atoms of two molecules with one letter and one number into one residue.
    """
    name_end = 21 if _has_names_of_four(lines) else 20
    models: list[Collector] = []
    part, closed, ended, is_open = 0, set(), False, False
    for line in lines:
        record = line[:6].rstrip().upper()
        if record[:4] == "ATOM" or record == "HETATM":
            if not is_open:
                models.append(Collector())
                is_open = True
            name, segment = line[17:name_end].strip(), line[72:76].strip()
            if not _SEGMENT.fullmatch(segment):  # others write numbers there
                segment = ""
            site = _site(line, name_end, part)
            models[-1].add(site, name, _atom(line), record == "HETATM", segment)
        elif record[:3] == "TER":
            closed.add(part)
            part += 1
        elif record in ("MODEL", "ENDMDL", "END"):
            is_open, ended, part = False, ended or (record == "END" and bool(models)), part + 1
        elif ended and record in _ENTRY:
            raise BadSample("holds several entries one after the other; split it")
    header = [line for line in lines if line.startswith(_HEADER)]
    found = library("gemmi", "reading structures", "proteins").read_pdb_string("\n".join(header))
    parents: dict[Any, str] = {}
    for each in found.mod_residues:
        seqid, name = each.res_id.seqid, each.res_id.name
        parents[each.chain_name, seqid.num, seqid.icode.strip(), name] = each.parent_comp_id
        parents.setdefault(name, each.parent_comp_id)
    return Content(
        [model.residues for model in models],
        found.resolution if found.resolution > 0 else nan,
        any(line.startswith("REMARK 350") for line in header),
        frozenset(closed),
        sequences={each.name: Stated(tuple(each.full_sequence)) for each in found.entities},
        parents=parents,
    )


def _site(line: str, name_end: int, part: int) -> Site:
    chain = line[name_end:22].strip()
    return Site(chain, chain, _number(line[22:26]), line[26:27].strip(), None, part)


def _number(text: str) -> int:
    """A residue number, also of the hybrid-36 extension."""
    try:
        return int(text)
    except ValueError:
        try:
            return int(text, 36) - 466560 + 10000
        except ValueError:
            raise BadSample(f"has a residue numbered {text!r}") from None


def _atom(line: str) -> Atom:
    """The atom of a record; NaN for coordinates that are no numbers, as where a field is full."""
    name = line[12:16].strip()
    if name not in KEPT:
        return Atom(name, line[16:17].strip(), 0.0, (nan, nan, nan))
    try:
        xyz = (float(line[30:38]), float(line[38:46]), float(line[46:54]))
    except ValueError:
        xyz = (nan, nan, nan)
    try:
        occupancy = float(line[54:60])
    except ValueError:
        occupancy = 1.0
    return Atom(name, line[16:17].strip(), occupancy, xyz)


def _has_names_of_four(lines: Sequence[str]) -> bool:
    """Whether column 21 ends the names of residues, as force fields have it, or begins chains'.

    It ends names where it changes from one residue to the next within what columns 22 to 26
    number as one chain: a chain's name does not.
    """
    last, was_atom = "", False
    for line in lines:
        is_atom = line[:4].upper() == "ATOM"
        if is_atom or line[:6].upper() == "HETATM":
            here = line[20:26]
            if last and here[0] != last[0] and here[1] == last[1] and (is_atom or was_atom):
                if _goes_on(last[2:], here[2:]):
                    return True
            last, was_atom = here, is_atom
        elif line[:3].upper() in ("TER", "END"):
            last = ""
    return False


def _goes_on(before: str, after: str) -> bool:
    try:
        return 0 <= int(after) - int(before) <= 1
    except ValueError:
        return False
