"""Reader of mmCIF files: atoms by the columns of their table, the rest by gemmi."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Any

from reed.build.shard import BadSample
from reed.chem.residues import KEPT, Atom, Collector, Content, Site, Stated
from reed.weights import library

_NONE = ("", ".", "?")
_COLUMNS = {  # local name -> columns of _atom_site in the order of preference
    "group": ("group_PDB",),
    "atom": ("label_atom_id", "auth_atom_id"),
    "altloc": ("label_alt_id",),
    "name": ("label_comp_id", "auth_comp_id"),
    "asym": ("label_asym_id",),
    "chain": ("auth_asym_id", "label_asym_id"),
    "entity": ("label_entity_id",),
    "label": ("label_seq_id",),
    "number": ("auth_seq_id", "label_seq_id"),
    "icode": ("pdbx_PDB_ins_code",),
    "x": ("Cartn_x",),
    "y": ("Cartn_y",),
    "z": ("Cartn_z",),
    "occupancy": ("occupancy",),
    "model": ("pdbx_PDB_model_num",),
}


def read_mmcif(text: str) -> Content:
    """Read the text of an mmCIF file, in which one block has atoms.

    Raises:
        BadSample: Several blocks have atoms, or an atom has no residue number.
    """
    gemmi = library("gemmi", "reading structures", "proteins")
    blocks = list(gemmi.cif.read_string(text))
    blocks = [block for block in blocks if len(block.find_values("_atom_site.Cartn_x"))]
    if not blocks:
        return Content([], nan, False)
    if len(blocks) > 1:
        names = ", ".join(block.name for block in blocks[:3])
        raise BadSample(f"holds {len(blocks)} entries ({names}, …); split it")

    # Without the atoms, which are read already, gemmi builds the structure quickly.
    block = blocks[0]
    models, entity_of = _atoms(_table(block))
    block.find_mmcif_category("_atom_site.").erase()
    structure = gemmi.make_structure_from_block(block)

    for entity in structure.entities:
        entity_of.update(dict.fromkeys(entity.subchains, entity.name))
    entities = {entity.name: entity for entity in structure.entities}
    by_unit = {unit: entities[name] for unit, name in entity_of.items() if name in entities}
    letters = _letters(block)
    peptide = gemmi.PolymerType.PeptideL
    return Content(
        [model.residues for model in models.values()],
        structure.resolution if structure.resolution > 0 else nan,
        bool(len(block.find_values("_pdbx_struct_assembly.id"))),
        polymers={
            unit: entity.polymer_type in (peptide, gemmi.PolymerType.Unknown)
            and entity.entity_type == gemmi.EntityType.Polymer
            for unit, entity in by_unit.items()
            if entity.entity_type != gemmi.EntityType.Unknown
        },
        sequences={
            unit: _stated(entity, letters.get(entity.name, ""))
            for unit, entity in by_unit.items()
            if entity.full_sequence
        },
        parents=_parents(block, structure),
    )


def _stated(entity: Any, letters: str) -> Stated:
    """Return the sequence of an entity; of alternatives at one position, the first."""
    names = tuple(names.partition(",")[0] for names in entity.full_sequence)
    return Stated(names, letters if len(letters) == len(names) else "")


def _table(block: Any) -> dict[str, list[str]]:
    """Return the columns in use, all of one length; values that the file lacks are empty text."""
    rows = len(block.find_values("_atom_site.Cartn_x"))
    table = {}
    for local, columns in _COLUMNS.items():
        table[local] = [""] * rows
        for name in reversed(columns):  # the first column overrides the others where it has a value
            for row, value in enumerate(block.find_values(f"_atom_site.{name}")):
                if value not in _NONE:
                    table[local][row] = value
    return table


def _atoms(table: Mapping[str, list[str]]) -> tuple[dict[str, Collector], dict[str, str]]:
    """Return the residues of every model, and the entity of every molecule."""
    models: dict[str, Collector] = {}
    model, site, name, is_het = Collector(), _site("", "", "0", "", ""), "", False
    previous: tuple[str, ...] = ()
    residue_columns = ("model", "name", "group", "asym", "chain", "number", "icode", "label")
    residues = zip(*(table[column] for column in residue_columns), strict=True)
    atom_columns = ("atom", "altloc", "occupancy", "x", "y", "z")
    atoms = zip(*(table[column] for column in atom_columns), strict=True)

    # Most atoms belong to the residue of the atom before, and are not kept: both tests save time.
    for residue, (raw, altloc, occupancy, x, y, z) in zip(residues, atoms, strict=True):
        if residue == previous and raw not in KEPT:
            continue
        if residue != previous:
            previous, site, name = residue, _site(*residue[3:]), _plain(residue[1])
            model = models.setdefault(residue[0], Collector())
            is_het = residue[2].upper() == "HETATM"
        xyz = (_real(x, nan), _real(y, nan), _real(z, nan))
        model.add(site, name, Atom(_plain(raw), altloc, _real(occupancy, 1.0), xyz), is_het)

    pairs = zip(table["asym"], table["entity"], strict=True)
    return models, {_plain(unit): _plain(entity) for unit, entity in set(pairs) if unit and entity}


def _site(asym: str, chain: str, number: str, icode: str, label: str) -> Site:
    if not number:
        raise BadSample("has an atom without the number of its residue")
    position = int(label) if label else None
    return Site(_plain(asym or chain), _plain(chain), int(number), icode, position, 0)


def _plain(value: str) -> str:
    """Return a value without its quotes."""
    return value[1:-1] if value[:1] in ("'", '"') else value


def _real(value: str, otherwise: float) -> float:
    """Parse a number, without its standard uncertainty, as in 1.234(5)."""
    try:
        return float(value.partition("(")[0])
    except ValueError:
        return otherwise


def _letters(block: Any) -> dict[str, str]:
    """Return the letters of the sequence of every entity for which _entity_poly states them."""
    gemmi = library("gemmi", "reading structures", "proteins")
    table = block.find("_entity_poly.", ["entity_id", "pdbx_seq_one_letter_code_can"])
    return {row.str(0): "".join(gemmi.cif.as_string(row[1]).split()) for row in table}


def _parents(block: Any, structure: Any) -> dict[Any, str]:
    """Return the parents of modified residues by _pdbx_struct_mod_residue and by _chem_comp.

    See Content for the keys.
    """
    parents: dict[Any, str] = {}
    for table, name in (("_chem_comp.", "id"), ("_pdbx_struct_mod_residue.", "label_comp_id")):
        parent = "mon_nstd_parent_comp_id" if name == "id" else "parent_comp_id"
        for row in block.find(table, [name, parent]):
            parents.setdefault(row.str(0), row.str(1))
    for modified in structure.mod_residues:
        seqid, name = modified.res_id.seqid, modified.res_id.name
        parents[modified.chain_name, seqid.num, seqid.icode.strip(), name] = modified.parent_comp_id
        parents.setdefault(name, modified.parent_comp_id)
    return parents
