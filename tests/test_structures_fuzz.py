"""Random structures written by one library are read alike by ours and by another."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reed.chem.letters import LETTERS
from reed.chem.protein import ATOMS
from reed.chem.structure import read_structure

pytestmark = pytest.mark.slow
MODIFIED = {"MSE": "M", "SEP": "S", "CSO": "C", "UNK": "X", "CSR": "C"}
NAMES = LETTERS | MODIFIED
PLACES = {"N": (-1.2, 0.5, 0.0), "CA": (0, 0, 0), "C": (1.2, 0.6, 0), "O": (1.3, 1.8, 0)}
many = settings(
    max_examples=2000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@dataclass(frozen=True)
class Residue:
    """One residue to write. missing: atoms that it lacks; weights: of its alternatives."""

    name: str
    step: int  # from the number before; 0: an insertion code
    missing: frozenset[str]
    weights: tuple[float, ...]


residues = st.builds(
    Residue,
    st.sampled_from(sorted(NAMES)),
    st.sampled_from([1, 1, 1, 1, 0, 2, 9]),
    st.sampled_from([frozenset(), frozenset(), frozenset("O"), frozenset(["CA"]), frozenset("NC")]),
    st.sampled_from([(1.0,), (1.0,), (0.7, 0.3), (0.3, 0.7)]),
)
chains = st.tuples(
    st.sampled_from("ABa"),
    st.integers(-3, 3000),
    st.lists(residues, min_size=2, max_size=9),
    st.booleans(),  # a ligand and water behind it
)
several = st.lists(chains, min_size=1, max_size=3)
apart = st.lists(chains, min_size=1, max_size=3, unique_by=lambda chain: chain[0])
seeds = st.integers(0, 2**32 - 1)
files = st.tuples(several, st.booleans(), seeds)
files_without_ter = st.tuples(apart, st.booleans(), seeds)  # nothing else ends a molecule


@dataclass(frozen=True)
class Written:
    """One atom record and what is read of it."""

    molecule: int
    chain: str
    number: int
    icode: str
    name: str
    atom: str
    altloc: str
    occupancy: float
    xyz: tuple[float, float, float]
    is_polymer: bool = True


def records(case) -> list[Written]:
    """The atoms of a case: molecules 90 A apart, residues where their numbers say."""
    found, seed = [], np.random.default_rng(case[2])
    shift = seed.uniform(-400, 400, 3)
    for molecule, (chain, number, members, has_more) in enumerate(case[0]):
        place, icode = 0, " "
        for i, residue in enumerate(members):
            inserted = residue.step == 0 and i > 0 and icode < "D"
            icode = ("A" if icode == " " else chr(ord(icode) + 1)) if inserted else " "
            step = 0 if inserted or i == 0 else max(residue.step, 1)
            number, place = number + step, place + (1 if inserted else step)
            name = residue.name if i + 1 < len(members) else "GLY"  # free residues are not last
            missing = residue.missing if name in LETTERS else residue.missing & {"O"}
            for atom in sorted(set(ATOMS) - missing, key=ATOMS.index):
                for k, weight in enumerate(residue.weights):
                    at = np.array([3.8 * place, 90 * molecule, 0]) + PLACES[atom] + shift
                    at = np.round(at + seed.uniform(-0.1, 0.1, 3) + [0, 0, k], 3)
                    altloc = "AB"[k] if len(residue.weights) > 1 else ""
                    site = (molecule, chain, number, icode, name, atom, altloc, weight)
                    found.append(Written(*site, tuple(at.tolist())))
        for extra, name, atom in ((1, "CA", "CA"), (2, "HOH", "O")) if has_more else ():
            site = (molecule, chain, number + 50 + extra, " ", name, atom, "", 1.0)
            at = tuple(np.round(shift + [extra, 90 * molecule, 40], 3).tolist())
            found.append(Written(*site, at, is_polymer=False))
    return found


def expected(rows: list[Written]) -> list[tuple[str, np.ndarray]]:
    """Letter and backbone of every residue, of the alternative of most occupancy."""
    groups: dict[tuple, list[Written]] = {}
    for row in rows:
        if row.is_polymer:
            groups.setdefault((row.molecule, row.number, row.icode), []).append(row)
    found = []
    for group in groups.values():
        coords = np.full((4, 3), np.nan)
        for row in sorted(group, key=lambda row: row.occupancy):
            coords[ATOMS.index(row.atom)] = row.xyz
        found.append((NAMES[group[0].name], coords))
    return found


def by_gemmi(rows: list[Written]) -> gemmi.Structure:
    structure, model = gemmi.Structure(), gemmi.Model(1)
    chain = residue = last = None
    for row in rows:
        where = (row.molecule, row.number, row.icode, row.name)
        if chain is None or last[0] != row.molecule:
            chain = model.add_chain(gemmi.Chain(row.chain))
        if residue is None or last != where:
            made = gemmi.Residue()
            made.name, made.seqid = row.name, gemmi.SeqId(row.number, row.icode)
            made.het_flag = "A" if row.name in LETTERS else "H"
            kind = gemmi.EntityType.Polymer if row.is_polymer else gemmi.EntityType.NonPolymer
            made.entity_type = kind
            made.subchain = f"{row.molecule}{'' if row.is_polymer else row.name}"
            residue = chain.add_residue(made)
        atom = gemmi.Atom()
        atom.name, atom.occ, atom.pos = row.atom, row.occupancy, gemmi.Position(*row.xyz)
        atom.altloc = row.altloc or "\0"
        atom.element = gemmi.Element("Ca" if row.name == "CA" else row.atom[0])
        residue.add_atom(atom)
        last = where
    structure.add_model(model)
    structure.ensure_entities()
    return structure


def state_sequences(structure: gemmi.Structure) -> None:
    """SEQRES of every molecule: its residues, after two that were not observed."""
    for chain in structure[0]:
        polymer = chain.get_polymer()
        names = [residue.name for residue in polymer.first_conformer()]
        structure.get_entity_of(polymer).full_sequence = ["LEU", "LEU", *names]
    structure.assign_label_seq_id()


def by_biotite(rows: list[Written]):
    import biotite.structure as bs

    array = bs.AtomArray(len(rows))
    array.coord = np.array([row.xyz for row in rows], np.float32)
    array.chain_id = np.array([row.chain for row in rows])
    array.res_id = np.array([row.number for row in rows])
    array.ins_code = np.array([row.icode.strip() for row in rows])
    array.res_name = np.array([row.name for row in rows])
    array.atom_name = np.array([row.atom for row in rows])
    array.hetero = np.array([row.name not in LETTERS for row in rows])
    array.element = np.array(["CA" if row.name == "CA" else row.atom[0] for row in rows])
    array.set_annotation("occupancy", np.array([row.occupancy for row in rows]))
    return array


def of_biotite(path: Path) -> list[tuple[str, np.ndarray]]:
    import biotite.structure as bs
    from biotite.structure.io import pdb, pdbx

    kind = {"altloc": "occupancy", "model": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix == ".cif":
            array = pdbx.get_structure(pdbx.CIFFile.read(path), **kind)
        else:
            array = pdb.PDBFile.read(path).get_structure(**kind)
    array = array[np.isin(array.res_name, list(NAMES))]
    found = []
    for residue in bs.residue_iter(array):
        coords = np.full((4, 3), np.nan)
        for atom, xyz in zip(residue.atom_name, residue.coord, strict=True):
            coords[ATOMS.index(atom)] = xyz
        found.append((NAMES[residue.res_name[0]], coords))
    return found


def of_gemmi(path: Path) -> list[tuple[str, np.ndarray]]:
    found = []
    for chain in gemmi.read_structure(str(path), merge_chain_parts=False)[0]:
        for residue in chain:
            if residue.name in NAMES:
                coords = np.full((4, 3), np.nan)
                for atom in residue:
                    coords[ATOMS.index(atom.name)] = atom.pos.tolist()
                found.append((NAMES[residue.name], coords))
    return found


def of_ours(path: Path, molecules: int) -> list[tuple[str, np.ndarray]]:
    chains = read_structure(path).chains.values()
    assert len(chains) == molecules
    found = [pair for each in chains for pair in zip(each.sequence, each.coords, strict=True)]
    return [(letter, xyz) for letter, xyz in found if np.isfinite(xyz).any()]


def compare(ours, theirs) -> None:
    assert "".join(letter for letter, _ in ours) == "".join(letter for letter, _ in theirs)
    got, want = (np.array([xyz for _, xyz in each]) for each in (ours, theirs))
    np.testing.assert_allclose(got, want, atol=6e-4)


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
@given(case=files)
@many
def test_what_gemmi_writes_is_read_as_biotite_reads_it(tmp_path, suffix, case):
    pytest.importorskip("biotite")
    rows, path = records(case), tmp_path / f"x{suffix}"
    structure = by_gemmi(rows)
    chains = [chain for chain, *_ in case[0]]
    if case[1] and len(set(chains)) == len(chains):
        state_sequences(structure)
    if suffix == ".pdb":
        structure.write_pdb(str(path))
    else:
        structure.make_mmcif_document().write_file(str(path))
    ours = of_ours(path, len(case[0]))
    compare(ours, expected(rows))
    if len(set(chains)) == len(chains):  # biotite puts molecules of one letter into one chain
        compare(ours, of_biotite(path))


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
@given(case=files_without_ter)
@many
def test_what_biotite_writes_is_read_as_gemmi_reads_it(tmp_path, suffix, case):
    pytest.importorskip("biotite")
    from biotite.structure.io import pdb, pdbx

    rows = [row for row in records(case) if row.altloc in ("", "A")]
    path = tmp_path / f"x{suffix}"
    file = pdb.PDBFile() if suffix == ".pdb" else pdbx.CIFFile()
    if suffix == ".pdb":
        file.set_structure(by_biotite(rows))
    else:
        pdbx.set_structure(file, by_biotite(rows), data_block="x")
    file.write(path)
    ours = of_ours(path, len(case[0]))
    compare(ours, expected(rows))
    compare(ours, of_gemmi(path))
