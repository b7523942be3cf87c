"""Structure files as people have them: two molecules of one letter, names, dummies, endings."""

from __future__ import annotations

import gzip
import json
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import gemmi
import numpy as np
import pytest
from click.testing import CliRunner

from reed.build.shard import BadSample
from reed.cache import plan, schema
from reed.chem import letters
from reed.chem.letters import COMPONENT, FORCE_FIELD, STANDARD, STATED, UNKNOWN, letter_of
from reed.chem.structure import Structure, read_structure
from reed.cli.cache import main
from reed.errors import ReedError
from reed.sample.outputs.protein import structure_in
from reed.sources.protein.proteins import Proteins

DATA = Path(__file__).with_name("data") / "structures"
TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_proteins.py"))))
FIRST = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQ"
SECOND_OF_ASSEMBLY = FIRST[5:]
SECOND = "QISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAE"


def lines_of(name: str) -> list[str]:
    return gzip.decompress((DATA / f"{name}.pdb.gz").read_bytes()).decode().splitlines()


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def as_mmcif(path: Path, out: Path, change=lambda block: None) -> Path:
    """The same molecules as mmCIF by gemmi, one label_asym for each, the author's chain kept."""
    structure = gemmi.read_pdb(str(path), split_chain_on_ter=True)
    for number, chain in enumerate(structure[0]):
        for residue in chain:
            residue.subchain, residue.entity_type = f"{number + 1}", gemmi.EntityType.Polymer
    structure.ensure_entities()
    document = structure.make_mmcif_document()
    change(document.sole_block())
    document.write_file(str(out))
    return out


def sequences(found: Structure) -> dict[str, str]:
    return {name: chain.sequence for name, chain in found.chains.items()}


def observed(found: Structure, name: str = "A") -> np.ndarray:
    return np.isfinite(found.chains[name].coords).all((1, 2))


# ---- two molecules in one chain


@pytest.mark.parametrize("name", ["tersame", "chimera"])
def test_a_second_molecule_of_one_letter_is_a_chain_of_its_own(name, tmp_path):
    lines = lines_of(name)
    without_ter = [line for line in lines if not line.startswith("TER")]
    packed = shutil.copy(DATA / f"{name}.pdb.gz", tmp_path / "x.pdb.gz")
    paths = [
        packed,
        write(tmp_path / "noter.pdb", without_ter),
        as_mmcif(write(tmp_path / "x.pdb", lines), tmp_path / "x.cif"),
    ]
    for path in paths:
        found = read_structure(Path(path))
        assert sequences(found) == {"A": FIRST, "A-2": SECOND}, path
        for chain in found.chains.values():
            steps = np.linalg.norm(np.diff(chain.coords[:, 1], axis=0), axis=1)
            assert 3.7 < steps.min() and steps.max() < 3.9, path
            assert chain.number.tolist() == list(range(len(chain.sequence)))


def test_two_copies_of_one_molecule_do_not_share_residues(tmp_path):
    """Same letter, numbers and names, no TER: gemmi puts eight atoms into each residue."""
    lines = [line for line in lines_of("leftjust") if line.startswith("ATOM")]
    moved = [f"{line[:30]}{float(line[30:38]) + 60:8.3f}{line[38:]}" for line in lines]
    found = read_structure(write(tmp_path / "x.pdb", lines + moved))
    assert sequences(found) == {"A": FIRST, "A-2": FIRST}
    apart = found.chains["A-2"].coords - found.chains["A"].coords
    np.testing.assert_allclose(apart, np.broadcast_to([60.0, 0, 0], apart.shape), atol=2e-3)
    segments = [f"{line:<72}P{i}  " for i, group in enumerate((lines, moved)) for line in group]
    numbered = segments[: len(lines)] + [
        f"{line[:22]}{int(line[22:26]) + 45:4d}{line[26:]}" for line in segments[len(lines) :]
    ]
    found = read_structure(write(tmp_path / "segid.pdb", numbered))
    assert sequences(found) == {"A": FIRST, "A-2": FIRST}  # by the segment alone


def test_numbers_that_go_on_do_not_join_what_lies_far_apart(tmp_path):
    far = [*sum((TINY.residue(i, "ALA") for i in range(30)), [])]
    far += sum((TINY.residue(i + 20, "GLY", number=i + 1) for i in range(30, 60)), [])
    found = read_structure(TINY.write(tmp_path / "x.pdb", far))
    assert sequences(found) == {"A": "A" * 30, "A-2": "G" * 30}
    near = [*sum((TINY.residue(i, "ALA") for i in range(30)), [])]
    near += sum((TINY.residue(i + 4, "GLY", number=i + 1) for i in range(30, 60)), [])
    chain = read_structure(TINY.write(tmp_path / "y.pdb", near)).chains["A"]
    assert chain.sequence == "A" * 30 + "G" * 30 and chain.number[30] == 31  # a loop is missing


@pytest.mark.parametrize("end", ["OXT", "OT2", "OC2"])
def test_numbers_that_go_on_behind_a_terminus_are_of_another_molecule(tmp_path, end):
    """Behind a gap there is no second oxygen, and in a chain that goes on there is a bond."""
    first = sum((TINY.residue(i, "ALA") for i in range(30)), [])
    oxygen = first[-1][:12] + f" {end:3s}" + first[-1][16:]
    near = sum((TINY.residue(i + 4, "GLY", number=i + 1) for i in range(30, 60)), [])
    path = TINY.write(tmp_path / "x.pdb", [*first, oxygen, *near])
    assert sequences(read_structure(path)) == {"A": "A" * 30, "A-2": "G" * 30}
    bonded = sum((TINY.residue(i, "GLY") for i in range(30, 60)), [])
    path = TINY.write(tmp_path / "y.pdb", [*first, oxygen, *bonded])
    assert sequences(read_structure(path)) == {"A": "A" * 30 + "G" * 30}
    gap = sum((TINY.residue(i + 4, "GLY", number=i + 5) for i in range(30, 60)), [])
    path = TINY.write(tmp_path / "z.pdb", [*first, oxygen, *gap])
    assert sequences(read_structure(path)) == {"A": "A" * 30 + "G" * 30}


@pytest.mark.parametrize("place", [slice(10, 14), slice(36, 40)])
def test_residues_without_occupancy_far_away_do_not_cut_a_chain(tmp_path, place):
    """They lie on a line, as programs draw what was not observed; bonded ones are modelled."""
    occupancies = [0.0 if i in range(40)[place] else 1.0 for i in range(40)]
    residues = [TINY.residue(i, "ALA", occ=occ) for i, occ in enumerate(occupancies)]
    path = TINY.write(tmp_path / "x.pdb", sum(residues, []))
    assert observed(read_structure(path)).all()
    for residue in residues[place]:
        residue[:] = [f"{line[:30]}{float(line[30:38]) + 500:8.3f}{line[38:]}" for line in residue]
    found = read_structure(TINY.write(tmp_path / "y.pdb", sum(residues, [])))
    assert sequences(found) == {"A": "A" * 40}
    assert np.flatnonzero(~observed(found)).tolist() == list(range(40)[place])
    occupied = [line[:54] + "  1.00" + line[60:] for line in sum(residues, [])]
    assert len(sequences(read_structure(TINY.write(tmp_path / "z.pdb", occupied)))) > 1


def test_what_a_bond_joins_is_one_molecule(tmp_path):
    """A TER, or numbers that fall (an insertion by fusion), within a chain that goes on."""
    r = TINY.residue
    body = [*sum((r(i, "ALA") for i in range(10)), []), "TER"]
    body += sum((r(i, "GLY", number=1000 + i) for i in range(10, 20)), [])
    body += sum((r(i, "SER", number=i - 9) for i in range(20, 30)), [])
    chain = read_structure(TINY.write(tmp_path / "x.pdb", body)).chains["A"]
    assert chain.sequence == "A" * 10 + "G" * 10 + "S" * 10
    assert chain.number.tolist() == list(range(30))


@pytest.mark.parametrize("ter", [["TER"], []])
@pytest.mark.parametrize("number", [1, 8, 45])
def test_modified_residues_behind_a_chain_are_put_where_their_bonds_are(tmp_path, ter, number):
    lines = [line for line in lines_of("leftjust") if line.startswith("ATOM")]
    there = [line for line in lines if int(line[22:26]) != number]
    moved = [f"HETATM{x[6:17]}MSE{x[20:]}" for x in lines if int(x[22:26]) == number]
    free = [line for i in (300, 301) for line in TINY.residue(i, "GLY", number=i, het=True)]
    found = read_structure(write(tmp_path / "x.pdb", [*there, *ter, *moved, *free]))
    assert sequences(found) == {"A": FIRST[: number - 1] + "M" + FIRST[number:]}
    assert found.chains["A"].number.tolist() == list(range(45))


def test_seqres_joins_parts_that_a_gap_can_bridge(tmp_path):
    r, names = TINY.residue, ["ALA"] * 10 + ["LEU"] * 5 + ["GLY"] * 10
    parts = [*sum((r(i, "ALA") for i in range(10)), []), "TER"]
    parts += sum((r(i, "GLY", number=i - 14) for i in range(15, 25)), [])
    chain = read_structure(TINY.write(tmp_path / "x.pdb", TINY.seqres(names), parts)).chains["A"]
    assert chain.sequence == "A" * 10 + "L" * 5 + "G" * 10
    assert np.isnan(chain.coords[10:15]).all() and np.isfinite(chain.coords[15:]).all()


def test_a_blank_chain_is_a_chain_and_not_all_of_them(tmp_path):
    shutil.copy(DATA / "blank2.pdb.gz", tmp_path / "x.pdb.gz")
    source = Proteins(tmp_path)
    assert list(source.listing()) == ["x.pdb.gz/_", "x.pdb.gz/B"]
    assert source.read("x.pdb.gz/_")["sequence"] == FIRST
    assert source.read("x.pdb.gz/B")["sequence"] == SECOND[:40]


def test_names_of_chains_fit_into_keys(tmp_path):
    lines = [line for line in lines_of("leftjust") if line.startswith("ATOM")]
    path = write(tmp_path / "x.pdb", lines + [line.replace(" A ", " B ") for line in lines])

    def rename(block):
        column = block.find_values("_atom_site.auth_asym_id")
        for i, name in enumerate(column):
            column[i] = "'A/1 x'" if name == "A" else "A-2"

    found = read_structure(as_mmcif(path, tmp_path / "x.cif", rename))
    assert list(found.chains) == ["A_1_x", "A-2"]


@pytest.mark.parametrize("order", ["mixed", "blocks"])
def test_alternatives_share_a_place_if_they_are_adjacent(tmp_path, order):
    r = TINY.residue
    ser, thr = (r(5, n, alt=a, occ=o) for n, a, o in (("SER", "A", 0.4), ("THR", "B", 0.6)))
    both = [line for pair in zip(ser, thr, strict=True) for line in pair]
    body = [*sum((r(i, "ALA") for i in range(5)), []), *(both if order == "mixed" else ser + thr)]
    body += sum((r(i, "GLY") for i in range(6, 10)), [])
    assert sequences(read_structure(TINY.write(tmp_path / "x.pdb", body))) == {"A": "AAAAATGGGG"}
    same = [line[:16] + " " + line[17:] for line in ser + thr]  # not alternatives: two residues
    body = [*sum((r(i, "ALA") for i in range(5)), []), *same]
    assert sequences(read_structure(TINY.write(tmp_path / "y.pdb", body))) == {"A": "AAAAAST"}


def test_conformations_one_after_the_other_are_of_one_residue(tmp_path):
    r = TINY.residue
    a, b = (
        sum((r(i, "SER", alt=alt, occ=occ) for i in range(4, 8)), [])
        for alt, occ in (("A", 0.3), ("B", 0.7))
    )
    b = [f"{line[:46]}{float(line[46:54]) + 1:8.3f}{line[54:]}" for line in b]
    head = sum((r(i, "ALA") for i in range(4)), [])
    tail = sum((r(i, "GLY") for i in range(8, 12)), [])
    found = read_structure(TINY.write(tmp_path / "x.pdb", head, a, tail, b))
    assert sequences(found) == {"A": "AAAASSSSGGGG"}
    assert (found.chains["A"].coords[4:8, :, 2] == 1).all()  # B, of more occupancy


# ---- columns


def test_names_of_four_letters_do_not_shift_the_columns():
    found = read_structure(DATA / "four.pdb.gz")
    assert sequences(found) == {"A": FIRST}
    assert found.chains["A"].ways == {STANDARD: 41, FORCE_FIELD: 4}


def test_chains_of_two_letters_are_none_of_them(tmp_path):
    lines = [f"{line[:20]}X{line[21:]}" for line in lines_of("leftjust") if line[:4] == "ATOM"]
    assert sequences(read_structure(write(tmp_path / "x.pdb", lines))) == {"XA": FIRST}


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_atoms_without_element_and_line_ends(tmp_path, end):
    path = tmp_path / "x.pdb"
    path.write_bytes(end.join(lines_of("leftjust")).encode())
    found = read_structure(path)
    assert sequences(found) == {"A": FIRST} and observed(found).all()


# ---- letters


def test_names_of_force_fields():
    found = read_structure(DATA / "ffnames.pdb.gz")
    assert sequences(found) == {"A": "MKTHHIHHHRCCDEKKSHFSCQWEHRXGXIXVXAXILSRVGDGTQ"}
    assert found.chains["A"].ways == {STANDARD: 28, FORCE_FIELD: 11, COMPONENT: 1, UNKNOWN: 5}


def test_a_file_says_what_a_residue_was_made_from(tmp_path):
    found = read_structure(DATA / "modres_csr.pdb.gz")
    assert found.chains["A"].sequence == FIRST[:7] + "C" + FIRST[8:]
    assert found.chains["A"].ways == {STANDARD: 44, STATED: 1}
    odd = [line.replace("CSR", "QQ9") for line in lines_of("modres_csr")]
    path = write(tmp_path / "odd.pdb", odd)  # a name that no table has, but MODRES
    assert read_structure(path).chains["A"].sequence == FIRST[:7] + "C" + FIRST[8:]
    silent = [line for line in odd if not line.startswith("MODRES")]
    chain = read_structure(write(tmp_path / "silent.pdb", silent)).chains["A"]
    assert chain.sequence == FIRST[:7] + "X" + FIRST[8:] and chain.ways[UNKNOWN] == 1
    unseen = [line for line in odd if not (line.startswith("HETATM") and "QQ9" in line)]
    chain = read_structure(write(tmp_path / "unseen.pdb", unseen)).chains["A"]
    assert chain.sequence[7] == "C" and np.isnan(chain.coords[7]).all()


@pytest.mark.parametrize(
    "says",
    [
        "_entity_poly.pdbx_seq_one_letter_code_can",
        "_pdbx_struct_mod_residue.parent_comp_id",
        "_chem_comp.mon_nstd_parent_comp_id",
    ],
)
def test_an_mmcif_file_says_it_in_three_ways(tmp_path, says):
    odd = [line.replace("CSR", "QQ9") for line in lines_of("modres_csr")]
    structure = gemmi.read_structure(str(write(tmp_path / "x.pdb", odd)))
    structure.setup_entities()
    structure.assign_label_seq_id()
    block = structure.make_mmcif_document().sole_block()
    for name in ("_pdbx_struct_mod_residue.", "_chem_comp.", "_entity_poly."):
        block.find_mmcif_category(name).erase()
    poly = {"entity_id": ["A"], "type": ["polypeptide(L)"]}
    if says.startswith("_entity_poly"):
        poly["pdbx_seq_one_letter_code_can"] = [FIRST[:7] + "C" + FIRST[8:]]
    elif says.startswith("_chem"):
        block.init_loop("_chem_comp.", ["id", "mon_nstd_parent_comp_id"]).add_row(["QQ9", "CYS"])
    else:
        names = ["label_comp_id", "parent_comp_id"]
        block.init_loop("_pdbx_struct_mod_residue.", names).add_row(["QQ9", "CYS"])
    block.set_mmcif_category("_entity_poly.", poly)
    document = gemmi.cif.Document()
    document.add_copied_block(block)
    document.write_file(str(tmp_path / "x.cif"))
    chain = read_structure(tmp_path / "x.cif").chains["A"]
    assert chain.sequence == FIRST[:7] + "C" + FIRST[8:] and chain.ways[STATED] == 1


@pytest.mark.parametrize(
    ("name", "more", "want"),
    [
        ("MSE", {}, ("M", COMPONENT)),  # in gemmi's table
        ("CSR", {}, ("C", COMPONENT)),  # in the dictionary of all components
        ("HSE", {}, ("H", FORCE_FIELD)),
        ("HSE", {"is_het": True}, ("S", COMPONENT)),  # homoserine
        ("HSE", {"is_het": True, "atoms": {"ND1"}}, ("H", FORCE_FIELD)),
        ("NHIE", {}, ("H", FORCE_FIELD)),
        ("CCYX", {}, ("C", FORCE_FIELD)),
        ("LYSH", {}, ("K", FORCE_FIELD)),
        ("QQ9", {"stated": "CYS"}, ("C", STATED)),
        ("QQ9", {"stated": "C"}, ("C", STATED)),
        ("HSE", {"stated": "SER"}, ("S", STATED)),
        ("DAL", {"stated": "ALA"}, ("X", UNKNOWN)),  # of the other hand
        ("SEC", {}, ("X", UNKNOWN)),
        ("UNK", {}, ("X", UNKNOWN)),
        ("QQ9", {}, ("X", UNKNOWN)),
    ],
)
def test_a_letter_and_how_it_came(name, more, want):
    assert letter_of(name, **more) == want


def test_a_letter_that_only_the_dictionary_has_needs_biotite(monkeypatch):
    monkeypatch.setitem(sys.modules, "biotite.structure.info", None)
    letters._of_component.cache_clear()
    with pytest.raises(ReedError, match=r"letter of residue CSR needs biotite, .*'\.\[proteins\]'"):
        letter_of("CSR")
    assert letter_of("MSE") == ("M", COMPONENT)


def test_a_name_of_two_components_in_the_chain_stays(tmp_path):
    """GLO is glucose to the PDB, and an end of glutamate in files of docking programs."""
    body = sum((TINY.residue(i, "GLO" if i == 4 else "ALA") for i in range(9)), [])
    assert sequences(read_structure(TINY.write(tmp_path / "x.pdb", body))) == {"A": "AAAAXAAAA"}


# ---- what was not observed


def test_dummies_are_not_observed(tmp_path):
    """Occupancy 0 at 9999 and at the origin; then at other places that programs write."""
    found = read_structure(DATA / "dummy.pdb.gz")
    assert sequences(found) == {"A": FIRST}
    assert np.flatnonzero(~observed(found)).tolist() == [5, 6, 30, 31]
    assert np.isnan(found.chains["A"].coords[[5, 6, 30, 31]]).all()
    lines = lines_of("leftjust")

    def put(number, *places):
        rows = [i for i, line in enumerate(lines) if line[22:26].strip() == str(number)]
        for row, xyz in zip(rows, places * (4 // len(places)), strict=True):
            lines[row] = lines[row][:30] + "".join(f"{x:8.3f}" for x in xyz) + lines[row][54:]

    put(3, (999.999, 999.999, 999.999))
    put(5, (12.5, 3.25, 7.0))  # all four atoms at one place
    ideal = [(50 + x, 50 + y, 50.0) for x, y in ((0, 0), (1.4, 0), (2, 1.4), (1.3, 2.4))]
    put(10, *ideal)
    put(20, *ideal)  # two residues at one place
    path = write(tmp_path / "x.pdb", lines)
    assert np.flatnonzero(~observed(read_structure(path))).tolist() == [2, 4, 9, 19]
    as_mmcif(path, tmp_path / "x.cif")
    assert np.flatnonzero(~observed(read_structure(tmp_path / "x.cif"))).tolist() == [2, 4, 9, 19]


def test_an_atom_at_the_origin_is_one_where_it_is_occupied():
    found = read_structure(DATA / "leftjust.pdb.gz").chains["A"]
    assert found.coords[0, 0].tolist() == [0, 0, 0]


def test_coordinates_that_do_not_fit_their_columns_are_none(tmp_path):
    lines = lines_of("leftjust")
    lines[1] = lines[1][:30] + "********" + lines[1][38:]
    found = read_structure(write(tmp_path / "x.pdb", lines))
    assert np.flatnonzero(~observed(found)).tolist() == [0]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("caonly", "0 of 45 residues have N, CA, C, O and a letter; N of 45, C of 45, O of 45 is"),
        ("noO", "0 of 45 residues have N, CA, C, O and a letter; O of 45 is missing"),
    ],
)
def test_a_backbone_with_nothing_to_learn_or_design(tmp_path, capfd, name, reason):
    shutil.copy(DATA / f"{name}.pdb.gz", tmp_path / "x.pdb.gz")
    source = Proteins(tmp_path)
    assert source.listing() == {}
    said = "0 samples; left out: 1 without a residue that has N, CA, C, O and a letter"
    assert said in "".join(capfd.readouterr())
    with pytest.raises(BadSample, match=f"nothing to learn or design: {reason}"):
        source.read("x.pdb.gz/A")
    with pytest.raises(ReedError, match=f"cannot design for .*x.pdb.gz: .*{reason}"):
        structure_in(tmp_path / "x.pdb.gz")


def test_letters_that_are_all_unknown_are_nothing_to_design(tmp_path):
    TINY.straight(tmp_path / "x.pdb", residues=["UNK"] * 40)
    with pytest.raises(BadSample, match="0 of 40 residues have .*; all are X"):
        Proteins(tmp_path).read("x.pdb/A")


# ---- one chain, several models, several entries


def test_a_chain_that_seqres_does_not_fit_does_not_lose_the_others(tmp_path):
    shutil.copy(DATA / "seqres_bad_b.pdb.gz", tmp_path / "x.pdb.gz")
    source = Proteins(tmp_path)
    assert list(source.listing()) == ["x.pdb.gz/B", "x.pdb.gz/A"]
    assert source.read("x.pdb.gz/A")["sequence"] == FIRST
    reason = "x.pdb.gz: residue 21 of chain B is not in its SEQRES"
    with pytest.raises(BadSample, match=reason):
        source.read("x.pdb.gz/B")
    whole = Proteins(tmp_path, assembly=True)
    assert list(whole.listing()) == ["x.pdb.gz"]
    with pytest.raises(BadSample, match=reason):
        whole.read("x.pdb.gz")


def test_models_of_an_assembly_are_side_by_side(tmp_path):
    lines = lines_of("assembly")
    names = ["A", "B", "A-2", "B-2"]
    want = {name: text for name, text in zip(names, [FIRST, SECOND_OF_ASSEMBLY] * 2, strict=True)}
    undeclared = [line for line in lines if not line.startswith("REMARK 350")]
    declared = write(tmp_path / "x.pdb", lines)
    paths = [declared, write(tmp_path / "copies.pdb", undeclared)]
    paths.append(write(tmp_path / "x.pdb1", undeclared))
    structure = gemmi.read_structure(str(declared))
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(tmp_path / "x.cif"))
    for path in [*paths, tmp_path / "x.cif"]:
        found = read_structure(path)
        assert sequences(found) == want, path
        apart = found.chains["A"].coords[:, 1] - found.chains["A-2"].coords[:, 1]
        assert np.linalg.norm(apart, axis=1).min() > 10, path
    assert len(Proteins(tmp_path, assembly=True).read("x.pdb")["sequence"]) == 170


def test_of_models_that_are_alternatives_the_first_is_taken(tmp_path):
    first = [line for line in lines_of("leftjust") if line.startswith("ATOM")]
    rng, frames = np.random.default_rng(0), []
    for move in rng.normal(0, 0.5, (3, 3)):
        pairs = list(zip((30, 38, 46), move, strict=True))
        frames.append(
            [
                line[:30]
                + "".join(f"{float(line[i : i + 8]) + d:8.3f}" for i, d in pairs)
                + line[54:]
                for line in first
            ]
        )
    remark = ["REMARK 350 BIOMOLECULE: 1"]
    models = [[f"MODEL     {i + 1:4d}", *frame, "ENDMDL"] for i, frame in enumerate(frames)]
    ended = [[*frame, "END"] for frame in frames]  # as trajectories are written
    for name, parts in (("nmr", [remark, *models]), ("md", ended)):
        found = read_structure(write(tmp_path / f"{name}.pdb", sum(parts, [])))
        assert sequences(found) == {"A": FIRST}, name
        want = [float(frames[0][1][i : i + 8]) for i in (30, 38, 46)]
        np.testing.assert_allclose(found.chains["A"].coords[0, 1], want, atol=1e-3)


def test_several_entries_in_one_file_are_refused(tmp_path):
    one = lines_of("seqres_bad_b")
    with pytest.raises(BadSample, match="x.pdb holds several entries one after the other; split"):
        read_structure(write(tmp_path / "x.pdb", one + ["END"] + one))
    bare, other = (
        [line for line in lines_of(name) if line.startswith("ATOM")]
        for name in ("leftjust", "ffnames")
    )
    other = [line.replace("ILE", "TRP").replace("SER", "PHE") for line in other]
    with pytest.raises(BadSample, match="y.pdb holds other molecules in model 2 than in 1"):
        read_structure(write(tmp_path / "y.pdb", [*bare, "END", *other]))
    text = gzip.decompress((DATA / "cif0block.cif.gz").read_bytes()).decode()
    (tmp_path / "z.cif").write_text(text + text.replace("data_", "data_other_"))
    with pytest.raises(
        BadSample, match=r"z.cif holds 2 entries \(string, other_string, …\); split it"
    ):
        read_structure(tmp_path / "z.cif")


def test_a_block_without_coordinates_may_come_first():
    found = read_structure(DATA / "cif0block.cif.gz")
    assert sequences(found) == {"A": FIRST, "B": SECOND}


# ---- files


def test_endings_are_compared_in_lower_case_and_content_decides(tmp_path):
    text = "\n".join(lines_of("leftjust")).encode()
    names = ["A.PDB", "b.pdb", "c.pdb1", "e.Ent", "f.CIF", "deep/g.mmCIF", "h.pdb.gz"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text)
    (tmp_path / "d.PDB.GZ").write_bytes(gzip.compress(text))
    (tmp_path / "i.pdb").write_bytes(gzip.compress(text))
    mmcif = gzip.decompress((DATA / "cif0block.cif.gz").read_bytes())
    (tmp_path / "j.ent").write_bytes(b"\xef\xbb\xbf" + mmcif)
    for name in ("k.pdbqt", "l.bcif", "LICENSE", "._b.pdb", "m.pdb.bz2", "n.PDBQT"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.pdb").mkdir()
    source = Proteins(tmp_path)
    found = source.listing()
    keys = [f"{name}/A" for name in [*names, "d.PDB.GZ", "i.pdb", "j.ent"]] + ["j.ent/B"]
    assert sorted(found) == sorted(keys)
    assert all(source.read(key)["sequence"] == FIRST for key in keys[:-1])
    assert found.passed == {
        "hidden": ("._b.pdb",),
        "no ending": ("LICENSE",),
        "ending .pdbqt": ("k.pdbqt", "n.PDBQT"),
        "ending .bcif": ("l.bcif",),
        "ending .bz2": ("m.pdb.bz2",),
    }


def test_text_may_be_utf_16(tmp_path):
    path = write(tmp_path / "x.pdb", lines_of("leftjust"))
    as_mmcif(path, tmp_path / "y.cif")
    for name in ("x.pdb", "y.cif"):
        (tmp_path / name).write_bytes((tmp_path / name).read_text().encode("utf-16"))
        assert sequences(read_structure(tmp_path / name)) == {"A": FIRST}


def test_a_build_that_stores_nothing_fails(tmp_path):
    """One failure of one sample was within the share that may fail."""
    (tmp_path / "x.pdb").write_text("<html>404</html>\n")
    result = build(tmp_path / "c", tmp_path)
    assert result.exit_code == 2 and "1 of the 1 sample so far failed" in result.output
    assert "1 holds no atoms ('x.pdb')" in result.output
    write(tmp_path / "y.pdb", lines_of("leftjust"))
    assert build(tmp_path / "d", tmp_path).exit_code == 0


def test_a_listing_counts_how_letters_came(tmp_path, capfd):
    for name in ("ffnames", "modres_csr", "caonly"):  # the last is left out
        shutil.copy(DATA / f"{name}.pdb.gz", tmp_path)
    counts = Proteins(tmp_path, max_x=0.5).listing().counts
    assert counts == {
        "letters: standard": 28 + 44,
        "letters: stated by the file": 1,
        "letters: names of force fields": 11,
        "letters: components of the PDB": 1,
        "letters: X": 5,
    }
    said = "letters: 72 standard, 1 stated by the file, 11 names of force fields, 1 components"
    assert said in "".join(capfd.readouterr())


def test_info_and_the_account_show_how_letters_came(tmp_path):
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    shutil.copy(DATA / "modres_csr.pdb.gz", data)
    write(data / "x.pdb", lines_of("leftjust"))
    result = build(cache, data, "--json")
    told = json.loads(result.stdout)
    want = {"letters: standard": 89, "letters: stated by the file": 1}
    assert told["counted"] == want and told["passed_over"] == {}
    shown = CliRunner().invoke(main, ["info", str(cache)]).output
    assert "  letters: 89 standard, 1 stated by the file" in shown


def test_names_that_differ_behind_a_dot_stay_apart(tmp_path):
    for name, text in (("raw", "leftjust"), ("relaxed", "four")):
        write(tmp_path / f"1abc.{name}.pdb", lines_of(text))
    names = {structure_in(path).name for path in tmp_path.iterdir()}
    assert names == {"1abc.raw", "1abc.relaxed"}
    cache = tmp_path / "cache"
    assert (result := build(cache, tmp_path)).exit_code == 0, result.output
    column = schema.load_column(cache, "chain")
    keys = schema.load_marker(cache, column, 0).keys
    assert sorted(keys) == ["1abc.raw.pdb/A", "1abc.relaxed.pdb/A"]


def test_files_of_one_name_are_samples_of_their_own_and_named(tmp_path, capfd):
    lines = lines_of("leftjust")
    for name in ("1abc.pdb", "2abc.pdb1", "2abc.pdb2", "3abc.ent"):
        write(tmp_path / name, lines)
    as_mmcif(tmp_path / "1abc.pdb", tmp_path / "1abc.cif")
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "3abc.pdb", lines)  # another folder
    listing = Proteins(tmp_path).listing()
    assert {"1abc.pdb/A", "1abc.cif/A"} < set(listing) and len(listing) == 6
    assert listing.counts["names with several endings"] == 1
    said = "proteins: 1 name with several endings (1abc.cif, 1abc.pdb): all files are samples"
    assert said in capfd.readouterr().err


def test_a_structure_is_designed_for_whatever_lies_beside_it(tmp_path):
    (tmp_path / "list.csv").write_text("CHAINID,RESOLUTION,CLUSTER,SEQUENCE\n")
    path = write(tmp_path / "model", lines_of("leftjust"))
    assert structure_in(path).name == "model" and structure_in(path).resolved.all()


# ---- caches of before


def build(cache: Path, data: Path, *more: str):
    command = ["build", "pdb", "--cache", str(cache), "--device", "cpu", "--encoder", "chain"]
    return CliRunner().invoke(main, [*command, "--data", str(data), *more])


def test_a_cache_that_was_planned_by_another_reading_is_not_added_to(tmp_path):
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    write(data / "x.pdb", lines_of("leftjust"))
    assert (result := build(cache, data)).exit_code == 0, result.output
    frozen = plan.load(cache)
    assert frozen.stamps == (f"{(data / 'x.pdb').stat().st_size}-2",)
    pairs = zip(frozen.keys, frozen.stamps, strict=True)
    old = {key: stamp.removesuffix("-2") for key, stamp in pairs}
    # The shards stay, so the old plan binds.
    shutil.copytree(cache, tmp_path / "built")
    plan.discard(cache)
    plan.freeze(cache, old, pipeline="pdb", domain="protein", source="proteins", shard_size=1000)
    for column in (path for path in (tmp_path / "built").iterdir() if path.is_dir()):
        shutil.copytree(column, cache / column.name)
    write(data / "y.pdb", lines_of("four"))
    for more in ((), ("--extend",)):
        result = build(cache, data, *more)
        assert result.exit_code == 2 and "1 changed (first: 'x.pdb/A')" in result.output
