"""Molecules noised and drawn: transport, categorical flows, padding, losses, samples, pictures."""

from __future__ import annotations

import copy
import itertools
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from reed import open_cache
from reed.cache.schema import Field
from reed.chem.molecule import CHARGES, to_matrix
from reed.domains.molecule import MoleculeDomain, MoleculeOptions, bond_matrix
from reed.domains.molecule_sampling import alike
from reed.errors import ReedError
from reed.flows import categorical
from reed.flows.transport import renumbered, rotated, transported
from reed.nets.semla_layers import centred
from reed.seeding import Draws

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny_molecules.py")))
FIELDS = {
    name: Field(name, "data", shape)
    for name, shape in {
        "coords": (None, 3),
        "atoms": (None,),
        "charges": (None,),
        "partners": (None, 8),
        "orders": (None, 8),
    }.items()
}


@pytest.fixture(scope="module")
def domain():
    return MoleculeDomain(net_settings=TINY.NET)


@pytest.fixture(scope="module")
def net(domain):
    torch.manual_seed(0)
    return domain.net(FIELDS).eval()


def values(texts=TINY.SMILES, length=0, rubbish=0):
    """Molecules as the stream gives them, padded with a value; and the mask."""
    samples = [TINY.sample(text) for text in texts]
    sizes = [len(sample["atoms"]) for sample in samples]
    length = length or max(sizes)
    found = {}
    for name in FIELDS:
        array = samples[0][name]
        full = np.full((len(samples), length, *array.shape[1:]), rubbish, array.dtype)
        for row, sample in enumerate(samples):
            full[row, : sizes[row]] = sample[name]
        found[name] = torch.from_numpy(full)
    return found, torch.arange(length) < torch.tensor(sizes)[:, None]


def batch_of(domain, *args, **more):
    found, mask = values(*args, **more)
    return domain.collate(found, FIELDS, {}, mask)


# ---- the batch


def test_a_batch_holds_the_molecules(domain):
    batch = batch_of(domain)
    for row, text in enumerate(TINY.SMILES):
        sample = TINY.sample(text)
        size = len(sample["atoms"])
        bonds = to_matrix(sample["partners"], sample["orders"])
        np.testing.assert_array_equal(batch.data["bonds"][row, :size, :size], bonds)
        assert not batch.data["bonds"][row, size:].any()
        charges = [CHARGES[i] for i in batch.data["charges"][row, :size].tolist()]
        assert charges == sample["charges"].tolist()
        np.testing.assert_array_equal(batch.data["atoms"][row, :size], sample["atoms"])
        x = batch.data["coords"][row, :size] * domain.coord_scale
        moved = sample["coords"] - sample["coords"].mean(0)
        np.testing.assert_allclose(x, moved, atol=1e-5)


def test_what_lies_in_the_padding_does_not_matter(domain):
    first, second = batch_of(domain), batch_of(domain, length=40, rubbish=3)
    for name, value in first.data.items():
        size = value.shape[1]
        cut = second.data[name][:, :size]
        cut = cut[:, :, :size] if name == "bonds" else cut
        torch.testing.assert_close(cut, value)
        assert not second.data[name][:, size:].any()


def test_lists_and_matrices_agree_on_every_charge_and_bond():
    partners = torch.tensor([[[1, 2, -1, -1, -1, -1, -1, -1], [0] + [-1] * 7, [0] + [-1] * 7]])
    orders = torch.tensor([[[2, 4, 0, 0, 0, 0, 0, 0], [2] + [0] * 7, [4] + [0] * 7]])
    found = bond_matrix(partners, orders.to(torch.uint8), torch.ones(1, 3, dtype=torch.bool))
    assert found.tolist() == [[[0, 2, 4], [2, 0, 0], [4, 0, 0]]]


# ---- transport


def test_transport_finds_a_cloud_that_was_renumbered_and_one_that_was_turned():
    draw = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True] * 8, [True] * 5 + [False] * 3])
    data = centred(torch.randn(2, 8, 3, generator=draw), mask)
    mixed = data.clone()
    mixed[0], mixed[1, :5] = data[0, torch.randperm(8)], data[1, [4, 2, 0, 1, 3]]
    torch.testing.assert_close(renumbered(mixed, data, mask), data)
    turn = torch.tensor(Rotation.random(rng=np.random.default_rng(0)).as_matrix()).float()
    torch.testing.assert_close(rotated(data @ turn, data, mask), data, atol=1e-4, rtol=0)
    mirrored = rotated(-data, data, mask)
    assert (mirrored - data).abs().max() > 0.1  # a mirror image is not reached by turning


def test_transport_is_never_further_and_keeps_the_cloud():
    draw = torch.Generator().manual_seed(1)
    mask = torch.tensor([[True] * 8, [True] * 5 + [False] * 3, [True] + [False] * 7])
    data, noise = (centred(torch.randn(3, 8, 3, generator=draw), mask) for _ in "ab")
    found = transported(noise, data, mask)
    before, after = ((x - data).square().sum((1, 2)) for x in (noise, found))
    assert (after <= before + 1e-5).all() and after[0] < 0.7 * before[0]
    assert not found[1, 5:].any()
    for row in range(3):
        lengths = [x[row].norm(dim=-1).sort().values for x in (noise, found)]
        torch.testing.assert_close(*lengths)
        torch.testing.assert_close(found[row].sum(0), torch.zeros(3), atol=1e-5, rtol=0)


# ---- categorical flows


def test_mixing_follows_the_time():
    data, noise = torch.ones(2, 6_000, dtype=torch.long), torch.zeros(2, 6_000, dtype=torch.long)
    u = torch.rand(2, 6_000, generator=torch.Generator().manual_seed(0))
    share = categorical.mixed(data, noise, torch.tensor([0.3, 1.0]), u).float().mean(1)
    assert share[0] == pytest.approx(0.3, abs=0.03) and share[1] == 1


def test_picking_follows_the_odds():
    chance = torch.tensor([0.2, 0.0, 0.5, 0.3]).expand(40_000, 4)
    u = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    share = categorical.picked(chance, u).bincount(minlength=4) / 40_000
    torch.testing.assert_close(share, chance[0], atol=0.01, rtol=0)
    edge = categorical.picked(torch.tensor([[0.5, 0.5, 0.0]] * 2), torch.tensor([0.0, 0.9999999]))
    assert edge.tolist() == [0, 1]


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_flow_with_the_exact_posterior_ends_in_the_data(noise):
    """p(data | now) is known: p1 ((1 - s) / K + s [now = data]), normalised."""
    p1 = torch.tensor([0.6, 0.3, 0.1])
    draw, steps = torch.Generator().manual_seed(0), 50
    now = torch.randint(0, 3, (6_000,), generator=draw)
    for number in range(steps):
        s = number / steps
        odds = p1 * ((1 - s) / 3 + s * torch.eye(3)[now])
        odds = odds / odds.sum(-1, keepdim=True)
        u = torch.rand(6_000, generator=draw)
        now = categorical.stepped(now, odds, s, 1 / steps, noise, u)
        if number == steps // 2:
            half = now.bincount(minlength=3) / 6_000
    middle = (steps // 2 + 1) / steps
    torch.testing.assert_close(half, middle * p1 + (1 - middle) / 3, atol=0.03, rtol=0)
    torch.testing.assert_close(now.bincount(minlength=3) / 6_000, p1, atol=0.03, rtol=0)


# ---- noised molecules


def noised(domain, batch, step=0):
    return domain.corrupt(batch, Draws(0, step, len(batch.mask), slice(None)))


def test_noised_molecules_are_centred_and_their_bonds_symmetric(domain):
    batch = batch_of(domain)
    found = noised(domain, batch)
    x, mask = found.inputs["coords"], batch.mask
    torch.testing.assert_close(x.sum(1), torch.zeros(len(x), 3), atol=1e-4, rtol=0)
    assert not x[~mask].any()
    bonds = found.inputs["bonds"]
    assert (bonds == bonds.mT).all() and (bonds.diagonal(dim1=1, dim2=2) == 0).all()
    torch.testing.assert_close(found.inputs["time"], 1 - found.t)


def test_data_is_at_time_zero(domain):
    """The more of the time is data's, the nearer everything is to it."""
    domain = replace(domain, coord_noise=0.0)
    batch = batch_of(domain)
    pairs, far, odd = batch.mask[:, :, None] & batch.mask[:, None], [], []
    for step in range(40):
        found = noised(domain, batch, step)
        far.append((found.inputs["coords"] - batch.data["coords"]).square().sum((1, 2)))
        wrong = (found.inputs["bonds"] != batch.data["bonds"]) & pairs
        odd.append(wrong.sum((1, 2)) / pairs.sum((1, 2)) / found.t)
        near = found.t < 0.05
        assert (far[-1][near] < 0.1 * batch.data["coords"][near].square().sum((1, 2)) + 0.05).all()
    # of the noise's five kinds one is the data's; the diagonal is never wrong
    assert torch.stack(odd).mean().item() == pytest.approx(0.8 * 0.9, abs=0.06)


def test_times_are_those_of_beta_two_one(domain):
    batch = batch_of(domain, TINY.SMILES[1:3] * 100)
    domain = replace(domain, transport=False)
    s = torch.cat([noised(domain, batch, step).inputs["time"] for step in range(10)])
    assert s.mean().item() == pytest.approx(2 / 3, abs=0.02)
    assert s.square().mean().item() == pytest.approx(1 / 2, abs=0.02)


def test_losses_are_means_over_atoms_and_pairs(domain, net):
    """Padding changes no loss, and neither does company; the released code divides by padding."""
    batch = batch_of(domain, TINY.SMILES[:4], length=24, rubbish=1)
    found = noised(domain, batch)
    losses = domain.loss(net(**found.inputs)[0], found, batch)
    assert set(losses) == set(domain.losses)
    for row, text in enumerate(TINY.SMILES[:4]):
        alone = batch_of(domain, (text,))
        size = alone.mask.shape[1]
        inputs = {n: v[row : row + 1] for n, v in found.inputs.items()}
        for name in ("coords", "atoms", "mask"):
            inputs[name] = inputs[name][:, :size]
        inputs["bonds"] = inputs["bonds"][:, :size, :size]
        one = replace(found, inputs=inputs, target=alone.data["coords"])
        again = domain.loss(net(**inputs)[0], one, alone)
        for name, value in again.items():
            assert value[0].item() == pytest.approx(losses[name][row].item(), rel=1e-4, abs=1e-5)


def test_a_perfect_prediction_has_no_loss(domain):
    batch = batch_of(domain)
    kinds = {"atoms": 18, "charges": 7, "bonds": 5}
    logits = {n: 50.0 * torch.eye(k)[batch.data[n]] for n, k in kinds.items()}
    found = domain.loss(logits | {"coords": batch.data["coords"]}, noised(domain, batch), batch)
    for value in found.values():
        assert value.max() < 1e-6
    # one atom off by one unit in each direction
    coords = batch.data["coords"].clone()
    coords[3, 2] += 1
    off = domain.loss(logits | {"coords": coords}, noised(domain, batch), batch)["position"]
    assert off[3].item() == pytest.approx(1 / batch.mask[3].sum().item(), rel=1e-4)


# ---- samples


def test_a_sample_is_a_function_of_seed_and_number(domain, net):
    domain, options = domain.sized([5, 9, 12]), MoleculeOptions(steps=4)
    whole = domain.generate(net, FIELDS, range(6), options)
    part = domain.generate(net, FIELDS, range(4, 6), options)
    assert whole["coords"].shape == (6, 12, 3) and whole["bonds"].dtype == np.uint8
    np.testing.assert_allclose(part["coords"], whole["coords"][4:], atol=1e-3)
    for name in ("atoms", "charges", "bonds"):
        np.testing.assert_array_equal(part[name], whole[name][4:])
    other = domain.generate(net, FIELDS, range(6), replace(options, seed=1))
    assert (other["coords"] != whole["coords"]).any()
    sizes = (whole["atoms"] > 0).sum(1)
    assert set(sizes) <= {5, 9, 12} and len(set(sizes)) > 1
    for coords, atoms, bonds in zip(*(whole[n] for n in ("coords", "atoms", "bonds")), strict=True):
        there = atoms > 0
        assert (atoms[there] >= 2).all() and there[: there.sum()].all()
        assert (bonds == bonds.T).all() and not bonds.diagonal().any()
        assert not bonds[~there].any() and not coords[~there].any()


def test_a_net_that_knows_the_molecule_draws_it(domain):
    """The integration ends in what the net predicts, in angstroms."""
    sample = TINY.sample("CC(=O)Nc1ccc(O)cc1")
    size, scale = len(sample["atoms"]), domain.coord_scale
    bonds = torch.from_numpy(to_matrix(sample["partners"], sample["orders"])).long()

    class Knows(torch.nn.Module):
        config = SimpleNamespace(max_atoms=64)

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.seen = []

        def forward(self, coords, atoms, kinds, time, mask, past):
            x = torch.from_numpy(sample["coords"]) / scale
            self.seen.append((coords - x).abs().max().item())
            assert (kinds == kinds.mT).all()
            eye = 20.0 * torch.eye(18)
            numbers = torch.from_numpy(sample["atoms"]).long()
            charges = torch.tensor([CHARGES.index(c) for c in sample["charges"].tolist()])
            rows = len(coords)
            return {
                "coords": x.expand(rows, -1, -1),
                "atoms": eye[numbers].expand(rows, -1, -1),
                "bonds": eye[bonds][..., :5].expand(rows, -1, -1, -1),
                "charges": eye[charges][:, :7].expand(rows, -1, -1),
            }, {}

    net = Knows()
    found = domain.generate(net, FIELDS, range(2), MoleculeOptions(steps=20, atoms=size))
    np.testing.assert_allclose(found["coords"][1], sample["coords"], atol=1e-4)
    np.testing.assert_array_equal(found["atoms"][0], sample["atoms"])
    np.testing.assert_array_equal(found["charges"][0], sample["charges"])
    np.testing.assert_array_equal(found["bonds"][0], bonds)
    assert len(net.seen) == 20 and net.seen[-1] < 0.1 * net.seen[0]


def test_grids_of_time():
    linear = MoleculeOptions(steps=4, grid="linear").times()
    assert linear == [0, 0.25, 0.5, 0.75, 1]
    times = np.array(MoleculeOptions(steps=20).times())
    assert times[0] == 0 and times[-1] == pytest.approx(0.99)
    assert (np.diff(times) > 0).all() and (np.diff(np.diff(times)) < 0).all()


def test_options_say_their_name():
    assert MoleculeOptions().name == "100"
    options = MoleculeOptions(steps=20, grid="linear", noise=0.5, atoms=9, seed=3)
    assert options.name == "20-linear-noise0.5-atoms9-seed3"


def test_a_picture_shows_every_molecule(domain, net):
    samples = domain.generate(net, FIELDS, range(4), MoleculeOptions(steps=2, atoms=6))
    picture = domain.picture(samples, FIELDS)
    assert picture.dtype == np.uint8 and picture.shape == (2 * 97 + 1, 2 * 97 + 1, 3)
    for row, column in itertools.product(range(2), repeat=2):
        assert (
            picture[97 * row + 1 : 97 * row + 97, 97 * column + 1 : 97 * column + 97] < 255
        ).any()
    one = {name: value[:1] for name, value in samples.items()}
    one["atoms"] = one["atoms"] * (np.arange(6) == 0)
    assert (domain.picture(one, FIELDS) < 255).any()


# ---- what cannot be


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"grid": "cubic"}, "grid is 'cubic'"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"atoms": -1}, "atoms is -1"),
    ],
)
def test_options_that_cannot_be(settings, reason):
    with pytest.raises(ReedError, match=reason):
        MoleculeOptions(**settings)


def test_settings_that_cannot_be(domain, net):
    for settings in ({"coord_noise": -1.0}, {"coord_scale": 0.0}):
        with pytest.raises(ReedError, match="they must be at least 0, and above 0"):
            MoleculeDomain(**settings)
    with pytest.raises(ReedError, match="a molecule has 64 atoms, net_settings.max_atoms is 64"):
        domain.sized([3, 64])
    with pytest.raises(ReedError, match="how many atoms should samples have"):
        domain.generate(net, FIELDS, range(2), MoleculeOptions())
    with pytest.raises(ReedError, match=r"data.partners is 'x' of shape \(None, 4\)"):
        domain.net(FIELDS | {"partners": Field("x", "data", (None, 4))})
    assert replace(domain, sizes=(7,)).sized([3, 4]).sizes == (7,)


# ---- the stream


def test_no_molecule_is_dropped_by_bucketing(tmp_path):
    """The released sampler used 16 of 64 molecules."""
    cache = TINY.build(tmp_path / "cache")
    for tokens in (24, 50, 1000):
        stream = open_cache(cache).stream(TINY.DATA, tokens=tokens, threads=0)
        steps = round(stream.samples / stream.batch)
        keys = [key for step in range(steps) for key in stream.keys_at(step)]
        assert sorted(keys) == sorted(TINY.Source().listing())


def test_sampling_draws_what_the_layers_of_training_draw(domain, net):
    """Its layers compute in another order, and for groups of molecules of similar sizes."""
    options, double = MoleculeOptions(steps=3), copy.deepcopy(net).double()
    domain = replace(domain, sizes=(1, 5, 18))
    plain = domain.generate(double, FIELDS, range(5), options)
    with torch.inference_mode():
        found = domain.generate(double, FIELDS, range(5), options)
    for name in ("atoms", "charges", "bonds"):
        np.testing.assert_array_equal(found[name], plain[name])
    np.testing.assert_allclose(found["coords"], plain["coords"], atol=1e-4)


def test_molecules_are_grouped_by_size_where_padding_costs_more_than_a_call():
    assert alike([7, 7, 7]) == [[0, 1, 2]]
    assert alike([7, 9, 8]) == [[0, 2, 1]]
    assert alike([60, 5, 58, 6, 5]) == [[1, 4, 3], [2, 0]]
    sizes = [int(n) for n in torch.randint(1, 90, (64,), generator=torch.manual_seed(0))]
    groups = alike(sizes)
    assert sorted(row for rows in groups for row in rows) == list(range(64))
    pairs = sum(len(rows) * max(sizes[row] for row in rows) ** 2 for rows in groups)
    assert pairs < 1.3 * sum(n * n for n in sizes) < 0.6 * 64 * max(sizes) ** 2
