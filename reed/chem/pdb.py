"""Reader of PDB files: atoms by their fixed columns, the header by gemmi."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import nan
from typing import Any

from reed.build.shard import BadSample
from reed.chem.residues import KEPT, Atom, Collector, Content, Site, Stated
from reed.weights import library

_HEADER = ("REMARK", "SEQRES", "MODRES")  # records that gemmi reads
_SEGMENT = re.compile(r"[A-Za-z][\w ]*")
_ENTRY = ("HEADER", "SEQRES")  # records that begin another entry, not one more frame


def read_pdb(lines: Sequence[str]) -> Content:
    """Read the lines of a PDB file.

    MODEL records begin models, and END records separate them. The atoms are not read by gemmi,
    because it merges the residues of two molecules that share a chain letter and a number.

    Raises:
        BadSample: The file holds several entries, or a residue number that is not a number.
    """
    name_end = 21 if _has_names_of_four(lines) else 20
    models: list[Collector] = []
    part, closed, ended, is_open = 0, set(), False, False  # part: see Site
    for line in lines:
        record = line[:6].rstrip().upper()
        if record[:4] == "ATOM" or record == "HETATM":
            if not is_open:
                models.append(Collector())
                is_open = True
            name, segment = line[17:name_end].strip(), line[72:76].strip()
            if not _SEGMENT.fullmatch(segment):  # some programs write numbers there
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
    gemmi = library("gemmi", "reading structures", "proteins")
    structure = gemmi.read_pdb_string("\n".join(header))
    parents: dict[Any, str] = {}
    for modified in structure.mod_residues:
        seqid, name = modified.res_id.seqid, modified.res_id.name
        parents[modified.chain_name, seqid.num, seqid.icode.strip(), name] = modified.parent_comp_id
        parents.setdefault(name, modified.parent_comp_id)

    return Content(
        [model.residues for model in models],
        structure.resolution if structure.resolution > 0 else nan,
        any(line.startswith("REMARK 350") for line in header),
        frozenset(closed),
        sequences={
            entity.name: Stated(tuple(entity.full_sequence)) for entity in structure.entities
        },
        parents=parents,
    )


def _site(line: str, name_end: int, part: int) -> Site:
    chain = line[name_end:22].strip()
    return Site(chain, chain, _number(line[22:26]), line[26:27].strip(), None, part)


def _number(text: str) -> int:
    """Parse a residue number, also one of the hybrid-36 extension."""
    try:
        return int(text)
    except ValueError:
        try:
            return int(text, 36) - 466560 + 10000
        except ValueError:
            raise BadSample(f"has a residue numbered {text!r}") from None


def _atom(line: str) -> Atom:
    """Parse the atom of a record; NaN for coordinates that are not numbers (a field too small)."""
    name = line[12:16].strip()
    if name not in KEPT:  # only its name matters
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
    """Whether column 21 belongs to the residue name, as force fields write it, or to the chain.

    It belongs to the name if it changes from one residue to the next while column 22 and the
    numbers in columns 23 to 26 go on as in one chain: the name of a chain does not change there.
    """
    last, was_atom = "", False
    for line in lines:
        is_atom = line[:4].upper() == "ATOM"
        if is_atom or line[:6].upper() == "HETATM":
            columns = line[20:26]
            if last and columns[0] != last[0] and columns[1] == last[1] and (is_atom or was_atom):
                if _goes_on(last[2:], columns[2:]):
                    return True
            last, was_atom = columns, is_atom

        # Another chain may follow, whose name may differ.
        elif line[:3].upper() in ("TER", "END"):
            last = ""
    return False


def _goes_on(before: str, after: str) -> bool:
    """Whether a residue number is equal to the one before or follows it."""
    try:
        return 0 <= int(after) - int(before) <= 1
    except ValueError:
        return False
