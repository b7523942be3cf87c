"""Generated proteins: ideal geometry, letters whose best recovery is known, exact descriptors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from reed import open_cache
from reed.build.shard import BadSample
from reed.cache import reader, schema
from reed.chem.protein import COIL, HELIX, STRAND, phi_psi, secondary, torsion, virtual_beta
from reed.cli.cache import main
from reed.encoders.protein import descriptors
from reed.encoders.protein.chain import neighbours
from reed.encoders.protein.descriptors import bond_energies
from reed.encoders.protein.toy import ToyBayes, ToyStructure
from reed.errors import ReedError
from reed.sources.protein import backbones
from reed.sources.protein.toy import LETTERS, PREFERENCE, ProteinsToy, distribution


@pytest.fixture(scope="module")
def source():
    return ProteinsToy(samples=60)


@pytest.fixture(scope="module")
def samples(source):
    found = [source.read(key) for key in source.listing()]
    return [s | {"chain/neighbours": neighbours(s["coords"])} for s in found]


def ideal(kind: int, length: int = 30) -> np.ndarray:
    """A chain of one element, without any spread."""
    angles = np.radians([[(180.0, *backbones.IDEAL[kind])] * (length + 1)])
    start = np.array([[0, 0, 0], [1.458, 0, 0], [2.0, 1.4, 0]])
    atoms = backbones.extend(start, angles[0, 0, 2], angles)[0]
    oxygen = backbones.place(
        *atoms.transpose(1, 0, 2), 1.231, np.radians(120.1), angles[0, :, 2] + np.pi
    )
    return np.concatenate([atoms, oxygen[:, None]], 1)[:length]


def test_the_torsions_that_go_in_come_out():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 50, 3))
    turn = rng.uniform(-np.pi, np.pi, 50)
    d = backbones.place(a, b, c, 1.5, np.radians(110), turn)
    np.testing.assert_allclose(torsion(a, b, c, d), turn, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(d - c, axis=1), 1.5)
    cosine = ((b - c) * (d - c)).sum(1) / np.linalg.norm(b - c, axis=1) / 1.5
    np.testing.assert_allclose(np.degrees(np.arccos(cosine)), 110)


def test_an_ideal_helix_has_the_known_shape():
    """1.5 angstroms and 100 degrees per residue (Pauling), NH of i + 4 bonded to CO of i."""
    helix = ideal(HELIX)
    ca = helix[:, 1]
    rise = np.linalg.norm(ca[18:].mean(0) - ca[:18].mean(0))
    apart = np.linalg.norm(ca[18] - ca[0])
    assert apart == pytest.approx(18 * 1.5, abs=1.5) and rise > 0
    energy = bond_energies(helix)
    partners = energy[5:].argmin(1)
    assert (partners == np.arange(1, len(helix) - 4)).all()
    assert (energy[np.arange(5, 30), partners] < -0.5).all()  # DSSP's bound
    assert (secondary(phi_psi(helix))[2:-2] == HELIX).all()


def test_an_ideal_strand_is_extended():
    strand = ideal(STRAND)
    assert np.linalg.norm(strand[10, 1] - strand[0, 1]) / 10 == pytest.approx(3.3, abs=0.15)
    assert (secondary(phi_psi(strand))[2:-2] == STRAND).all()
    assert np.isnan(phi_psi(strand)[0, 0]) and np.isnan(phi_psi(strand)[-1, 1])


def test_backbones_have_ideal_geometry_and_few_clashes(samples):
    clashes, kinds = 0, []
    for sample in samples:
        coords = sample["coords"]
        n, ca, c, o = coords.transpose(1, 0, 2)
        for a, b, length in ((n, ca, 1.458), (ca, c, 1.525), (c, o, 1.231), (c[:-1], n[1:], 1.329)):
            np.testing.assert_allclose(np.linalg.norm(a - b, axis=1), length, atol=1e-4)
        apart = np.linalg.norm(ca[:, None] - ca[None], axis=-1)
        clashes += (apart[np.triu_indices(len(ca), 3)] < 3.8).sum()
        kinds.append(secondary(phi_psi(coords)))
        beta = virtual_beta(coords)
        np.testing.assert_allclose(np.linalg.norm(beta - ca, axis=1), 1.53, atol=0.03)
    assert clashes <= len(samples)
    share = np.bincount(np.concatenate(kinds), minlength=3) / len(np.concatenate(kinds))
    assert share[HELIX] > 0.2 and share[STRAND] > 0.08 and share[COIL] > 0.2


def test_the_best_recovery_is_known_exactly(samples):
    odds = np.concatenate([sample["distribution"] for sample in samples])
    letters = np.concatenate([[LETTERS.index(a) for a in s["sequence"]] for s in samples])
    np.testing.assert_allclose(odds.sum(1), 1, atol=1e-5)
    best, hits = odds.max(1).astype(float), odds.argmax(1) == letters
    sigma = np.sqrt((best * (1 - best)).sum()) / len(best)
    assert hits.mean() == pytest.approx(best.mean(), abs=4 * sigma)
    assert 0.27 < best.mean() < 0.37  # far above the 0.1 of the most frequent letter
    # every letter is drawn as often as it should be
    want, deviation = odds.sum(0), np.sqrt((odds * (1 - odds)).sum(0))
    assert (np.abs(np.bincount(letters, minlength=20) - want) < 4.5 * deviation).all()


def test_the_distribution_follows_from_the_stored_coordinates_alone(samples):
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    for sample in samples[:5]:
        found = distribution(sample["coords"], 4.0, 3.0).astype(np.float32)
        np.testing.assert_array_equal(found, sample["distribution"])
        moved = sample["coords"].astype(np.float64) @ turn + 5.0
        np.testing.assert_allclose(distribution(moved, 4.0, 3.0), found, atol=1e-5)


def test_tables_have_one_number_per_letter():
    assert [len(numbers.split()) for numbers in PREFERENCE.values()] == [20] * 3
    helix = dict(zip(LETTERS, PREFERENCE[HELIX].split(), strict=True))
    assert (helix["E"], helix["G"], helix["P"]) == ("151", "57", "57")  # Chou and Fasman, 1978


def test_a_protein_is_a_function_of_its_key_and_the_settings(source):
    one, other = source.read("train-000007"), ProteinsToy(samples=500).read("train-000007")
    assert all(np.array_equal(one[k], other[k], equal_nan=k == "resolution") for k in one)
    assert set(one) == set(source.entries)
    for different in (ProteinsToy(split="valid"), ProteinsToy(seed=1)):
        key = next(iter(different.listing()))
        assert different.read(key)["sequence"] != source.read("train-000000")["sequence"]
    lengths = {len(source.read(key)["sequence"]) for key in source.listing()}
    assert min(lengths) >= 48 and max(lengths) <= 80 and len(lengths) > 15


@pytest.mark.parametrize("key", ["valid-000000", "train-000060", "train-x", ""])
def test_there_is_no_other_protein(source, key):
    with pytest.raises(BadSample, match="no protein .*there are 60 in 'train'"):
        source.read(key)


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ReedError, match="takes no --data"):
        ProteinsToy(tmp_path)
    for settings in ({"samples": 0}, {"min_length": 2}, {"min_length": 90}):
        with pytest.raises(ReedError, match="they must be at least 1, 3 and min_length"):
            ProteinsToy(**settings)


# ---- the teachers


def test_descriptors_have_their_shapes_and_do_not_move_with_the_chain(samples):
    found = ToyStructure().encode(samples[:4])
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    moved = [s | {"coords": (s["coords"] @ turn + 3).astype(np.float32)} for s in samples[:4]]
    again = ToyStructure().encode(moved)
    for field in ToyStructure.fields:
        for sample, value, other in zip(
            samples, found[field.name], again[field.name], strict=False
        ):
            shape = tuple(len(sample["sequence"]) if n is None else n for n in field.shape)
            assert value.shape == shape and value.dtype == np.float32 and np.isfinite(value).all()
            np.testing.assert_allclose(value, other, atol=2e-3)


def test_pair_descriptors_are_those_of_the_neighbours(samples):
    sample = samples[0]
    (pair,) = ToyStructure().encode([sample])["pair"]
    beta, graph = virtual_beta(sample["coords"]), sample["chain/neighbours"]
    apart = np.linalg.norm(beta[5] - beta[graph[5]], axis=-1)
    radial = np.exp(-np.square((apart[:, None] - descriptors.CENTRES) / descriptors.WIDTH))
    np.testing.assert_allclose(pair[5, :, : len(descriptors.CENTRES)], radial, atol=1e-5)


def test_missing_atoms_are_refused(samples):
    coords = samples[0]["coords"].copy()
    coords[3, 2] = np.nan
    with pytest.raises(BadSample, match="has a missing atom or an X"):
        ToyStructure().encode([samples[0] | {"coords": coords}])


def test_bayes_is_the_probability_of_the_best_guess(samples):
    found = ToyBayes().encode(samples[:3])
    for sample, best in zip(samples, found["bayes"], strict=False):
        np.testing.assert_array_equal(best, sample["distribution"].max(1))


def assert_targets_do_not_depend_on_the_batch(cache):
    """The public code normalises by the statistics of a batch, padding included."""
    places = {"token": "toy-structure/token", "pair": "toy-structure/pair", "row": "chain/cluster"}
    seen: dict[int, dict[str, torch.Tensor]] = {}
    for tokens in (80, 1000):
        stream = open_cache(cache).stream(places, tokens=tokens, threads=0)
        for stored in itertools.islice(stream.batches(), round(20 / stream.batch)):
            values = stream.decode(stored)
            for j, row in enumerate(values["row"].tolist()):
                length = int(stored.lengths[j])
                mine = {name: values[name][j, :length] for name in ("token", "pair")}
                for name, value in seen.setdefault(row, mine).items():
                    assert torch.equal(value, mine[name])
    assert len(seen) == 20


def assert_pairs_are_calibrated_on_every_sixteenth_token(cache):
    source = ProteinsToy(samples=20)
    samples = [source.read(key) for key in source.listing()]
    graphs = [{"chain/neighbours": neighbours(s["coords"])} for s in samples]
    pairs = ToyStructure().encode([s | g for s, g in zip(samples, graphs, strict=True)])["pair"]
    flat = np.concatenate([pair[::16].reshape(-1, pair.shape[-1]) for pair in pairs])
    state = reader.load_state(cache, schema.load_column(cache, "toy-structure"))["pair"]
    np.testing.assert_allclose(state["mean"], flat.mean(0), atol=1e-5)


def test_both_pipelines_columns_are_streamed_together(tmp_path):
    cache = tmp_path / "toy"
    command = ["build", "proteins-toy", "--cache", str(cache), "--device", "cpu"]
    result = CliRunner().invoke(main, [*command, "--set", "source.samples=20"])
    assert result.exit_code == 0, result.output
    assert schema.columns(cache) == ["chain", "toy-bayes", "toy-structure"]
    places = {
        "coords": "chain/coords",
        "residue": "chain/residue",
        "graph": "chain/neighbours",
        "token": "toy-structure/token",
        "pair": "toy-structure/pair",
        "sample": "toy-structure/sample",
        "bayes": "toy-bayes/bayes",
    }
    stream = open_cache(cache).stream(places, tokens=512, threads=0)
    stored = next(iter(stream.batches()))
    values, mask = stream.decode(stored), stored.mask()
    rows, length = mask.shape
    shapes = {name: tuple(value.shape[2:]) for name, value in values.items() if name != "sample"}
    assert shapes == {
        "coords": (4, 3),
        "residue": (),
        "graph": (48,),
        "token": (24,),
        "pair": (48, 16),
        "bayes": (),
    }
    assert values["sample"].shape == (rows, 8) and values["residue"].shape == (rows, length)
    assert not values["residue"].is_floating_point() and values["residue"][mask].max() < 20
    assert_targets_do_not_depend_on_the_batch(cache)
    assert_pairs_are_calibrated_on_every_sixteenth_token(cache)
    result = CliRunner().invoke(main, ["verify", str(cache)])
    assert result.exit_code == 0 and "0 problems" in result.output
