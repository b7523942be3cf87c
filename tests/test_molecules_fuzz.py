"""Random SDF files and lists of SMILES that one library writes are read alike by ours and another.

OpenBabel is GPL and is not among the dependencies: `pip install openbabel-wheel` for its half.
"""

from __future__ import annotations

import csv
import io
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from reed.chem import rdkit
from reed.sources.molecule import entries
from reed.sources.molecule.faults import parsed

chem = rdkit.library()
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
CASES = settings(
    max_examples=2000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Symbol, charge and valence of the atoms that molecules are made of.
ATOMS = (
    *[("C", 0, 4)] * 6,
    *[("N", 0, 3), ("O", 0, 2)] * 2,
    *(("N", 1, 4), ("O", -1, 1), ("S", 0, 2), ("P", 0, 3), ("F", 0, 1), ("Cl", 0, 1), ("B", 0, 3)),
    *(("Si", 0, 4), ("Br", 0, 1), ("S", -1, 1), ("B", -1, 4)),
)
SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.integers(1, 4)


def random_mol(draw: random.Random, hydrogens: bool = True) -> Any:
    """A molecule of RDKit: a random tree of atoms with rings, and coordinates in a box."""
    while True:
        mol, free = chem.RWMol(), []
        for number in range(draw.randrange(1, 10)):
            symbol, charge, valence = draw.choice(ATOMS)
            open_atoms = [i for i, left in enumerate(free) if left]
            if number and not open_atoms:
                break
            atom = chem.Atom(symbol)
            atom.SetFormalCharge(charge)
            mol.AddAtom(atom)
            free.append(valence)
            if number:
                _join(mol, free, draw.choice(open_atoms), number, draw)
        for _ in range(draw.randrange(3)):
            a, b = (draw.randrange(len(free)) for _ in "ab")
            if a != b and mol.GetBondBetweenAtoms(a, b) is None and free[a] and free[b]:
                _join(mol, free, a, b, draw)
        if chem.SanitizeMol(mol, catchErrors=True) == chem.SanitizeFlags.SANITIZE_NONE:
            break
    made = chem.AddHs(mol) if hydrogens else mol.GetMol()
    conformer = chem.Conformer(made.GetNumAtoms())
    places = [[round(draw.uniform(-50, 50), 4) for _ in "xyz"] for _ in range(made.GetNumAtoms())]
    conformer.SetPositions(np.array(places))
    conformer.Set3D(True)
    made.AddConformer(conformer, assignId=True)
    return made


def _join(mol: Any, free: list[int], a: int, b: int, draw: random.Random) -> None:
    kinds = chem.BondType
    order = min(draw.choice((1, 1, 1, 2, 3)), free[a], free[b])
    mol.AddBond(a, b, (kinds.SINGLE, kinds.DOUBLE, kinds.TRIPLE)[order - 1])
    free[a], free[b] = free[a] - order, free[b] - order


def plain(mol: Any) -> dict[str, Any]:
    """What two readings of one molecule have in common, whatever Kekulé form they choose."""
    copy = chem.Mol(mol)
    chem.Kekulize(copy, clearAromaticFlags=True)
    bonds = [
        (*sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())), int(b.GetBondTypeAsDouble()))
        for b in copy.GetBonds()
    ]
    return {
        "numbers": [atom.GetAtomicNum() for atom in copy.GetAtoms()],
        "charges": [atom.GetFormalCharge() for atom in copy.GetAtoms()],
        "hydrogens": [atom.GetTotalNumHs() for atom in copy.GetAtoms()],
        "coords": copy.GetConformer().GetPositions().tolist() if copy.GetNumConformers() else [],
        "bonds": sorted(bonds),
    }


def agree(found: dict[str, Any], want: dict[str, Any], *, coords: bool = True) -> None:
    """Two readings agree; bonds in pairs, and in the sum of orders at every atom."""
    for name in ("numbers", "charges", "hydrogens"):
        assert list(found[name]) == list(want[name]), name
    assert [tuple(b)[:2] for b in found["bonds"]] == [tuple(b)[:2] for b in want["bonds"]]
    assert _sums(found["bonds"]) == _sums(want["bonds"])
    if coords:
        np.testing.assert_allclose(found["coords"], want["coords"], atol=6e-5)


def _sums(bonds: list) -> dict[int, int]:
    sums: dict[int, int] = {}
    for a, b, order in bonds:
        sums[a], sums[b] = sums.get(a, 0) + order, sums.get(b, 0) + order
    return sums


class OpenBabel:
    """OpenBabel in a process of its own, asked by a line of JSON."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("openbabel_reader.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **order: str) -> list[dict[str, Any]]:
        """What it answers; the reader says what orders there are."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def babel() -> Iterator[OpenBabel]:
    pytest.importorskip("openbabel")
    reader = OpenBabel()
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


# ---- SDF


PROPERTIES = st.dictionaries(
    st.text("abZ_ é", min_size=1, max_size=5).map(str.strip).filter(bool),
    st.text("abZ09 éß.:>M\n", max_size=12).map(lambda text: "\n".join(text.split("\n"))),
    max_size=2,
)


def sdf_of(mols: list[Any], properties: dict[str, str], v3000: bool, draw: random.Random) -> str:
    """The SDF of molecules by RDKit."""
    file = io.StringIO()
    writer = chem.SDWriter(file)
    writer.SetForceV3000(v3000)
    for mol in mols:
        mol.SetProp("_Name", draw.choice(["", "name", "M  ENDE", "V2000 x"]))
        for name, value in properties.items():
            mol.SetProp(name, "\n".join(line for line in value.split("\n") if line.strip()))
        writer.write(mol)
    writer.close()
    return file.getvalue()


def ours(path: Path) -> list[dict[str, Any]]:
    return [plain(parsed(path, number)) for number in range(entries.count(path))]


@CASES
@given(SEEDS, COUNTS, PROPERTIES, st.booleans(), st.booleans())
def test_sdf_of_rdkit_is_read_as_openbabel_reads_it(
    babel, folder, seed, count, properties, v3000, hydrogens
):
    draw = random.Random(seed)
    mols = [random_mol(draw, hydrogens) for _ in range(count)]
    path = folder / "x.sdf"
    path.write_text(sdf_of(mols, properties, v3000, draw))
    found, theirs = ours(path), babel.ask(path=str(path), form="sdf")
    assert len(found) == len(theirs) == count
    for one, other in zip(found, theirs, strict=True):
        agree(one, other)


@CASES
@given(SEEDS, COUNTS)
def test_sdf_of_openbabel_is_read_as_rdkit_reads_it(babel, folder, seed, count):
    draw = random.Random(seed)
    mols = [random_mol(draw) for _ in range(count)]
    first, path = folder / "first.sdf", folder / "y.sdf"
    first.write_text(sdf_of(mols, {}, False, draw))
    babel.ask(path=str(first), out=str(path))
    theirs = [plain(mol) for mol in chem.SDMolSupplier(str(path), removeHs=False)]
    found = ours(path)
    assert len(found) == len(theirs) == count
    for one, other, mol in zip(found, theirs, mols, strict=True):
        agree(one, other)
        agree(one, plain(mol))


@CASES
@given(
    SEEDS,
    COUNTS,
    PROPERTIES,
    st.booleans(),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "latin-1"]),
    st.booleans(),
)
def test_sdf_in_other_forms_is_read_as_rdkit_reads_the_plain_one(
    folder, seed, count, properties, v3000, ends, encoding, closed
):
    """Line ends, encodings, and mol blocks that nothing separates."""
    draw = random.Random(seed)
    mols = [random_mol(draw) for _ in range(count)]
    text = sdf_of(mols, properties, v3000, draw)
    supplier = chem.SDMolSupplier()
    supplier.SetData(text, removeHs=False)
    theirs = [plain(mol) for mol in supplier]
    if not closed:
        text = text.replace("$$$$\n", "")
    path = folder / "z.SDF"
    path.write_bytes(text.replace("\n", ends).encode(encoding))
    found = ours(path)
    assert len(found) == len(theirs) == count
    for one, other in zip(found, theirs, strict=True):
        agree(one, other)


# ---- lists of SMILES


CELLS = st.text("abZ09 é,;\t\"'\n\r|.-", max_size=8)
NAMES = st.text('abZ09 é,;\t"_-', max_size=6)


def smiles(draw: random.Random) -> str:
    return chem.MolToSmiles(random_mol(draw, hydrogens=False), doRandom=True)


@CASES
@given(
    SEEDS,
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5),
    st.sampled_from(["smiles", "SMILES", "canonical_smiles", "Isomeric Smiles", ""]),
    st.tuples(NAMES, NAMES),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
)
def test_tables_are_read_as_the_csv_module_reads_them(
    folder, seed, rows, name, names, separator, quoting, ends, encoding
):
    draw = random.Random(seed)
    place = draw.randrange(3) if name else 0
    table = [[a, b] for a, b in ([names] if name else []) + rows]
    for number, row in enumerate(table):
        row.insert(place, name if name and not number else smiles(draw))
    file = io.StringIO()
    csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=ends).writerows(table)
    text = file.getvalue()
    theirs = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    assume(all(len(row) == 3 for row in theirs))  # Python's writer left a line break bare
    path = folder / draw.choice(["x.csv", "x.tsv", "x.CSV"])
    path.write_bytes(text.encode(encoding))
    count = entries.count(path)
    found = [entries.smiles_of(path, number) for number in range(count)]
    assert found == [row[place] for row in theirs[bool(name) :]]


@CASES
@given(
    SEEDS,
    st.lists(st.text("abZ09_é", min_size=1, max_size=6), min_size=1, max_size=5),
    st.sampled_from([" ", "\t"]),
    st.booleans(),
)
def test_lists_of_rdkit_are_read_as_openbabel_reads_them(
    babel, folder, seed, names, separator, header
):
    draw = random.Random(seed)
    mols = [random_mol(draw, hydrogens=False) for _ in names]
    path, bare = folder / "x.smi", folder / "bare.smi"
    for place, has_header in ((path, header), (bare, False)):
        writer = chem.SmilesWriter(str(place), delimiter=separator, includeHeader=has_header)
        for mol, name in zip(mols, names, strict=True):
            mol.SetProp("_Name", name)
            writer.write(mol)
        writer.close()
    theirs = babel.ask(path=str(bare), form="smi")
    assert entries.count(path) == len(theirs) == len(mols)
    for number, other in enumerate(theirs):
        agree(plain(parsed(path, number)), other, coords=False)
