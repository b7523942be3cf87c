"""mmCIF: the table of atoms by its columns, sequences and the rest by gemmi."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Any

from reed.build.shard import BadSample
from reed.chem.residues import KEPT, Atom, Collector, Content, Site, Stated
from reed.weights import library

_NONE = ("", ".", "?")
_COLUMNS = {  # ours -> those of _atom_site, the first that is there
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
    """What the text of an mmCIF file holds, of its one block with atoms; BadSample for several."""
    gemmi = library("gemmi", "reading structures", "proteins")
    blocks = list(gemmi.cif.read_string(text))
    blocks = [each for each in blocks if len(each.find_values("_atom_site.Cartn_x"))]
    if not blocks:
        return Content([], nan, False)
    if len(blocks) > 1:
        names = ", ".join(each.name for each in blocks[:3])
        raise BadSample(f"holds {len(blocks)} entries ({names}, …); split it")
    block = blocks[0]
    models, entity_of = _atoms(_table(block))
    block.find_mmcif_category("_atom_site.").erase()  # gemmi reads what is left
    found = gemmi.make_structure_from_block(block)
    for each in found.entities:
        entity_of.update(dict.fromkeys(each.subchains, each.name))
    entities = {each.name: each for each in found.entities}
    named = {unit: entities[name] for unit, name in entity_of.items() if name in entities}
    letters = _letters(block)
    peptide = gemmi.PolymerType.PeptideL
    return Content(
        [model.residues for model in models.values()],
        found.resolution if found.resolution > 0 else nan,
        bool(len(block.find_values("_pdbx_struct_assembly.id"))),
        polymers={
            unit: each.polymer_type in (peptide, gemmi.PolymerType.Unknown)
            and each.entity_type == gemmi.EntityType.Polymer
            for unit, each in named.items()
            if each.entity_type != gemmi.EntityType.Unknown
        },
        sequences={
            unit: _stated(each, letters.get(each.name, ""))
            for unit, each in named.items()
            if each.full_sequence
        },
        parents=_parents(block, found),
    )


def _stated(entity: Any, letters: str) -> Stated:
    names = tuple(names.partition(",")[0] for names in entity.full_sequence)
    return Stated(names, letters if len(letters) == len(names) else "")


def _table(block: Any) -> dict[str, list[str]]:
    """The columns that are read, each of one length; empty text where a file lacks one."""
    rows = len(block.find_values("_atom_site.Cartn_x"))
    table = {}
    for ours, theirs in _COLUMNS.items():
        table[ours] = [""] * rows
        for name in reversed(theirs):  # the first overrides where it says something
            for row, value in enumerate(block.find_values(f"_atom_site.{name}")):
                if value not in _NONE:
                    table[ours][row] = value
    return table


def _atoms(table: Mapping[str, list[str]]) -> tuple[dict[str, Collector], dict[str, str]]:
    """The residues of every model, and the entity of every molecule."""
    models: dict[str, Collector] = {}
    model, site, name, is_het = Collector(), _site("", "", "0", "", ""), "", False
    there: tuple[str, ...] = ()
    of_residue = ("model", "name", "group", "asym", "chain", "number", "icode", "label")
    residues = zip(*(table[name] for name in of_residue), strict=True)
    of_atom = ("atom", "altloc", "occupancy", "x", "y", "z")
    atoms = zip(*(table[name] for name in of_atom), strict=True)
    for here, (raw, altloc, occupancy, x, y, z) in zip(residues, atoms, strict=True):
        if here == there and raw not in KEPT:
            continue
        if here != there:
            there, site, name = here, _site(*here[3:]), _plain(here[1])
            model, is_het = models.setdefault(here[0], Collector()), here[2].upper() == "HETATM"
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
    return value[1:-1] if value[:1] in ("'", '"') else value


def _real(value: str, otherwise: float) -> float:
    """A number, without its standard uncertainty: 1.234(5)."""
    try:
        return float(value.partition("(")[0])
    except ValueError:
        return otherwise


def _letters(block: Any) -> dict[str, str]:
    """Entity -> the letters of its sequence, where _entity_poly gives them."""
    gemmi = library("gemmi", "reading structures", "proteins")
    table = block.find("_entity_poly.", ["entity_id", "pdbx_seq_one_letter_code_can"])
    return {row.str(0): "".join(gemmi.cif.as_string(row[1]).split()) for row in table}


def _parents(block: Any, found: Any) -> dict[Any, str]:
    """The parents of modified residues by _pdbx_struct_mod_residue and by _chem_comp."""
    parents: dict[Any, str] = {}
    for table, name in (("_chem_comp.", "id"), ("_pdbx_struct_mod_residue.", "label_comp_id")):
        parent = "mon_nstd_parent_comp_id" if name == "id" else "parent_comp_id"
        for row in block.find(table, [name, parent]):
            parents.setdefault(row.str(0), row.str(1))
    for each in found.mod_residues:
        seqid, name = each.res_id.seqid, each.res_id.name
        parents[each.chain_name, seqid.num, seqid.icode.strip(), name] = each.parent_comp_id
        parents.setdefault(name, each.parent_comp_id)
    return parents
