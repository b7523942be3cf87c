"""RDKit as a teacher: shapes, invariance, and settings; arrays of the user's by key."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from reed.build.shard import BadSample
from reed.chem import rdkit
from reed.chem.molecule import to_lists
from reed.encoders.array_file import ArrayFile
from reed.encoders.molecule import rdkit as molecule_rdkit
from reed.encoders.molecule.molecule import NewConformer
from reed.encoders.molecule.rdkit import SAMPLE, TOKEN, RDKit3D, surroundings
from reed.errors import ReedError

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny_molecules.py")))
TEXTS = ("CC(=O)Nc1ccc(O)cc1", "C[C@H](N)C(=O)O", "C[Si](C)(C)I")


def record(molecule) -> dict:
    partners, orders = to_lists(molecule.bonds)
    return {
        "molecule/coords": molecule.coords,
        "molecule/atoms": molecule.atoms,
        "molecule/charges": molecule.charges,
        "molecule/partners": partners,
        "molecule/orders": orders,
        "key": "x",
    }


@pytest.fixture(scope="module")
def records():
    return [record(rdkit.to_arrays(TINY.mol(text))) for text in TEXTS]


def test_descriptors_have_their_shapes(records):
    found = RDKit3D().encode(records)
    assert (SAMPLE, TOKEN, molecule_rdkit.LOCAL) == (1217, 755, 243)
    for sample, token, given in zip(found["sample"], found["token"], records, strict=True):
        assert sample.shape == (SAMPLE,) and token.shape == (len(given["molecule/atoms"]), TOKEN)
        assert np.isfinite(sample).all() and np.isfinite(token).all()


def test_turning_moving_and_renumbering_change_nothing(records):
    turn = Rotation.random(rng=np.random.default_rng(0))
    found = RDKit3D().encode(records)
    for row, text in enumerate(TEXTS):
        mol = TINY.mol(text)
        order = np.random.default_rng(row).permutation(mol.GetNumAtoms())
        moved = rdkit.library().RenumberAtoms(mol, order.tolist())
        places = moved.GetConformer()
        places.SetPositions(turn.apply(places.GetPositions()) + [1.0, -2.0, 3.0])
        again = RDKit3D().encode([record(rdkit.to_arrays(moved))])
        np.testing.assert_allclose(again["sample"][0], found["sample"][row], atol=2e-2)
        np.testing.assert_allclose(again["token"][0], found["token"][row][order], atol=1e-4)


def test_surroundings_are_what_the_formula_says():
    """Two atoms 1.5 angstroms apart: one Gaussian, one direction of length 1."""
    coords = np.array([[0.0, 0, 0], [0, 1.5, 0]])
    found = surroundings(np.array([3, 5]), coords)  # C and O
    fade = 0.5 + 0.5 * np.cos(np.pi * 1.5 / 6)
    radial = fade * np.exp(-np.square((1.5 - molecule_rdkit.CENTRES) / 0.3))
    shells = fade * np.exp(-np.square((1.5 - molecule_rdkit.SHELLS) / 0.6))
    by_kind = found[0, :144].reshape(16, 9)
    np.testing.assert_allclose(by_kind[:, 3], radial)
    assert not np.delete(by_kind, 3, axis=1).any()
    np.testing.assert_allclose(found[0, 144:189].reshape(5, 9)[:, 3], shells)
    np.testing.assert_allclose(found[0, 189:234].reshape(5, 9)[:, 3], shells * np.sqrt(2 / 3))
    np.testing.assert_array_equal(found[:, 234:], np.eye(9)[[1, 3]])


def test_what_rdkit_refuses_is_a_bad_sample(records):
    broken = records[0] | {"molecule/atoms": np.full_like(records[0]["molecule/atoms"], 6)}
    with pytest.raises(BadSample, match="no molecule that RDKit accepts"):
        RDKit3D().encode([broken])
    with pytest.raises(BadSample, match="not finite"):
        coords = np.zeros_like(records[0]["molecule/coords"])
        RDKit3D().encode([records[0] | {"molecule/coords": coords}])


def test_where_coordinates_come_from_is_checked():
    with pytest.raises(ReedError, match="coords is 'conformer'; name a column and field"):
        RDKit3D(coords="conformer")
    assert RDKit3D(coords="conformer/coords").reads[0] == "conformer/coords"


def test_a_new_conformer_has_the_same_stereo(records):
    (coords,) = NewConformer().encode(records[1:2])["coords"]
    assert (NewConformer().encode(records[1:2])["coords"][0] == coords).all()
    assert (NewConformer(seed=2).encode(records[1:2])["coords"][0] != coords).any()
    molecule = rdkit.to_arrays(TINY.mol(TEXTS[1]))
    again = rdkit.sanitised(type(molecule)(coords, *list(vars(molecule).values())[1:]))
    assert rdkit.smiles(again) == rdkit.smiles(TINY.mol(TEXTS[1])) == "C[C@H](N)C(=O)O"


# ---- arrays by key


@pytest.mark.parametrize("kind", ["sample", "token"])
@pytest.mark.parametrize("packed", [True, False])
def test_arrays_are_taken_by_key(tmp_path, kind, packed):
    shape = (4,) if kind == "sample" else (3, 4)
    arrays = {f"a/{i}": np.full(shape, i + 0.5) for i in range(3)}
    place = tmp_path / ("x.npz" if packed else "x")
    if packed:
        np.savez(place, **arrays)
    else:
        for key, value in arrays.items():
            (place / key).parent.mkdir(parents=True, exist_ok=True)
            np.save(place / f"{key}.npy", value)
    encoder = ArrayFile(file=place, kind=kind, channels=4)
    encoder.load("cpu")
    assert encoder.fields[0].shape == ((4,) if kind == "sample" else (None, 4))
    found = encoder.encode([{"key": key} for key in arrays])["array"]
    np.testing.assert_array_equal(np.stack(found), np.stack(list(arrays.values())))
    before = encoder.revision()
    if packed:
        np.savez(place, **arrays, more=np.zeros(4))
    else:
        np.save(place / "more.npy", np.zeros(4))
    assert encoder.revision() != before
    with pytest.raises(BadSample, match="no sound array"):
        encoder.encode([{"key": "../a/0"}])


def test_states_of_atoms_have_as_many_rows_as_the_molecule(tmp_path):
    """States of a potential (ANI, MACE) are computed elsewhere, one row per atom."""
    np.savez(tmp_path / "x.npz", a=np.ones((3, 4)), b=np.ones((2, 4)))
    encoder = ArrayFile(tmp_path / "x.npz", "token", channels=4, rows="molecule/atoms")
    encoder.load("cpu")
    assert encoder.reads == ("key", "molecule/atoms") and ArrayFile().reads == ("key",)
    water = {"molecule/atoms": np.array([2, 0, 0])}
    assert encoder.encode([{"key": "a"} | water])["array"][0].shape == (3, 4)
    with pytest.raises(BadSample, match="has 2 rows, molecule/atoms has 3"):
        encoder.encode([{"key": "b"} | water])
    with pytest.raises(ReedError, match="kind is 'sample'; only arrays of the kind 'token' have"):
        ArrayFile(rows="molecule/atoms")


def test_arrays_that_do_not_fit(tmp_path):
    hostile = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "x.npz", short=np.zeros(3), text=np.array(["a"] * 4), hostile=hostile)
    encoder = ArrayFile(file=tmp_path / "x.npz", channels=4)
    encoder.load("cpu")
    for key, reason in (
        ("short", r"is float64 \[3\], not numbers \[4\]"),
        ("text", "is <U1"),
        ("hostile", "no sound array"),
        ("gone", "no sound array"),
    ):
        with pytest.raises(BadSample, match=reason):
            encoder.encode([{"key": key}])
    with pytest.raises(ReedError, match="unknown kind 'tokens'.*'token'"):
        ArrayFile(kind="tokens")
    with pytest.raises(ReedError, match="channels is 0"):
        ArrayFile(channels=0)
    np.save(tmp_path / "y.npy", np.zeros(3))
    for name in ("gone.npz", "y.npy"):
        encoder = ArrayFile(file=tmp_path / name)
        with pytest.raises(ReedError, match="cannot read .* as .npz, .safetensors"):
            encoder.load("cpu")
