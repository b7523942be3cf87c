"""Proteins: what counts, how they are noised, their loss, and designs drawn from a net."""

from __future__ import annotations

import copy
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reed.cache.schema import Field
from reed.chem.protein import ALPHABET
from reed.domains.protein import DesignOptions, ProteinDomain, Structure
from reed.errors import ReedError
from reed.nets.mpnn import LETTERS, MASK
from reed.seeding import Draws

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny_chains.py")))
FIELDS = {field.name: field for field in TINY.COLUMNS["chain"].fields}
DOMAIN = ProteinDomain(
    net_settings={"hidden": 16, "encoder_layers": 1, "decoder_layers": 1, "neighbours": 8}
)


def batch_of(numbers, domain=DOMAIN):
    """A padded batch as the stream hands it out: zeros after the end, and a mask."""
    proteins = [TINY.protein(number) for number in numbers]
    longest = max(len(each["residue"]) for each in proteins)
    values = {}
    for name in TINY.DATA:
        rows = [np.zeros((longest, *each[name].shape[1:]), each[name].dtype) for each in proteins]
        for row, each in zip(rows, proteins, strict=True):
            row[: len(each[name])] = each[name]
        array = torch.from_numpy(np.stack(rows))
        values[name] = array if array.is_floating_point() else array.long()
    lengths = torch.tensor([len(each["residue"]) for each in proteins])
    mask = torch.arange(longest) < lengths[:, None]
    return domain.collate(values, FIELDS, {}, mask)


def draws(rows, step=0):
    return Draws(0, step, rows, slice(0, rows))


def structure(number):
    each = TINY.protein(number)
    return Structure(f"p{number}", *(each[n] for n in ("coords", "residue", "number", "chain")))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return DOMAIN.net(FIELDS).eval()


def test_padding_x_and_missing_residues_do_not_count():
    batch = batch_of([0, 3])
    lengths = [TINY.length_of(0), TINY.length_of(3)]
    resolved = batch.data["resolved"]
    assert resolved.sum(1).tolist() == [n - 1 for n in lengths]  # one residue lacks an atom
    assert batch.mask.sum(1).tolist() == [n - 2 for n in lengths]  # and one is X
    assert not resolved[0, 2] and not batch.mask[0, 4] and resolved[0, 4]
    assert not batch.mask[0, lengths[0] :].any()
    assert batch.data["coords"].isfinite().all()


def test_noise_is_a_tenth_of_an_angstrom_and_letters_are_masked_by_t():
    batch = batch_of(range(12))
    many = replace(
        batch, data={k: v.repeat(100, *[1] * (v.ndim - 1)) for k, v in batch.data.items()}
    )
    noised = DOMAIN.corrupt(many, draws(1200))
    shift = noised.inputs["coords"] - many.data["coords"]
    assert abs(float(shift.std()) - 0.1) < 0.001
    hidden = (noised.inputs["residues"] == MASK).float().mean(1)
    assert torch.equal(noised.target, many.data["residue"])
    assert (noised.t >= 0.01).all() and (noised.t <= 0.99).all()
    assert (
        abs(float((hidden - noised.t).mean())) < 0.01
        and float((hidden - noised.t).abs().max()) < 0.5
    )
    shown = noised.inputs["residues"] != MASK
    assert torch.equal(noised.inputs["residues"][shown], noised.target[shown])
    still = replace(DOMAIN, backbone_noise=0.0).corrupt(batch, draws(12))
    assert torch.equal(still.inputs["coords"], batch.data["coords"])


def test_a_row_is_noised_alike_on_any_number_of_processes():
    whole = DOMAIN.corrupt(batch_of(range(6)), draws(6, 3))
    batch = batch_of(range(6))
    half = replace(batch, data={name: value[2:4] for name, value in batch.data.items()})
    part = DOMAIN.corrupt(half, Draws(0, 3, 6, slice(2, 4)))
    for name, value in part.inputs.items():
        assert torch.equal(value, whole.inputs[name][2:4]), name
    assert torch.equal(part.t, whole.t[2:4])


def by_hand(logits, residue, counts, smoothing):
    log_p = logits[..., :LETTERS].double().log_softmax(-1)
    found = []
    for row in range(len(residue)):
        values = [
            -(1 - smoothing) * log_p[row, i, residue[row, i]] - smoothing * log_p[row, i].mean()
            for i in range(residue.shape[1])
            if counts[row, i]
        ]
        found.append(torch.stack(values).mean())
    return torch.stack(found).float()


@pytest.mark.parametrize("loss_on", ["all", "masked"])
def test_the_loss_is_the_smoothed_nll_of_residues_that_count(loss_on):
    domain = replace(DOMAIN, loss_on=loss_on)
    batch = batch_of([1, 2, 5])
    noised = domain.corrupt(batch, draws(3))
    logits = torch.randn(*batch.mask.shape, 22, generator=torch.Generator().manual_seed(1))
    counts = batch.mask if loss_on == "all" else batch.mask & (noised.inputs["residues"] == MASK)
    loss = domain.loss(logits, noised, batch)["diffusion"]
    wanted = by_hand(logits, noised.target, counts, 0.1 / 1.1)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    changed = logits.clone()
    changed[~counts] += torch.randn(int((~counts).sum()), 22)
    assert torch.equal(domain.loss(changed, noised, batch)["diffusion"], loss)


def test_nothing_masked_is_no_loss_and_not_nan():
    domain = replace(DOMAIN, loss_on="masked")
    batch = batch_of([1])
    noised = domain.corrupt(batch, draws(1))
    noised.inputs["residues"] = batch.data["residue"]
    logits = torch.zeros(*batch.mask.shape, 22)
    assert domain.loss(logits, noised, batch)["diffusion"].tolist() == [0.0]


def designs(net, structures, indices=None, **options):
    options = DesignOptions(tuple(structures), **options)
    indices = indices or range(len(structures) * options.each)
    return DOMAIN.generate(net, FIELDS, indices, options)


def test_designs_depend_on_seed_and_number_alone(net):
    structures = [structure(n) for n in (0, 1, 4)]
    settings = {"each": 4, "steps": 30, "temperature": 1.0}
    whole = designs(net, structures, **settings)
    assert [len(text) for text in whole["sequence"]] == [
        TINY.length_of(n) for n in (0, 1, 4) for _ in range(4)
    ]
    assert whole["structure"].tolist() == ["p0"] * 4 + ["p1"] * 4 + ["p4"] * 4
    for indices in (range(3, 7), range(9, 10), range(0, 12)):
        part = designs(net, structures, indices, **settings)["sequence"]
        assert part.tolist() == whole["sequence"][indices.start : indices.stop].tolist()
    assert len(set(whole["sequence"].tolist())) == 12
    other = designs(net, structures, **settings, seed=1)["sequence"]
    assert set(other.tolist()).isdisjoint(whole["sequence"].tolist())


def test_beyond_the_last_structure_are_more_of_it(net):
    drawn = designs(net, [structure(0), structure(1)], range(0, 4), each=1, steps=10)
    assert drawn["structure"].tolist() == ["p0", "p1", "p1", "p1"]
    options = DesignOptions(steps=20, temperature=0.5, order="random", seed=3)
    assert options.name == "steps20-T0.5-random-seed3" and DesignOptions().name == "steps500-T0.1"


def test_designs_can_be_drawn_in_double(net):
    double = copy.deepcopy(net).double()
    ours, theirs = (designs(each, [structure(1)], each=2, steps=20) for each in (net, double))
    assert ours["sequence"].tolist() == theirs["sequence"].tolist()


@pytest.mark.parametrize("order", ["purity", "random"])
def test_sampling_designs_what_the_decoder_of_training_does(net, order):
    structures, double = [structure(n) for n in (0, 3)], copy.deepcopy(net).double()
    settings = {"each": 3, "steps": 30, "temperature": 1.0, "order": order}
    plain = designs(double, structures, **settings)["sequence"]
    with torch.inference_mode():
        found = designs(double, structures, **settings)["sequence"]
    assert found.tolist() == plain.tolist()


def test_designs_are_made_of_the_twenty_letters_and_gaps_keep_theirs(net):
    (text,) = designs(net, [structure(3)], temperature=5.0)["sequence"]
    native = structure(3)
    assert text[2] == ALPHABET[native.residue[2]]  # no atoms: nothing to design it for
    designed = [letter for i, letter in enumerate(text) if i != 2]
    assert set(designed) <= set(ALPHABET[:LETTERS])


def test_the_structure_is_encoded_once_and_the_decoder_runs_per_step(net, monkeypatch):
    calls = {"features": 0, "decode": 0}
    features, decode = net.features.forward, net.decode

    def count(name, function):
        def counted(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return counted

    monkeypatch.setattr(net.features, "forward", count("features", features))
    monkeypatch.setattr(net, "decode", count("decode", decode))
    designs(net, [structure(2)], each=3, steps=20)
    assert calls["features"] == 1 and 10 <= calls["decode"] <= 20


def test_an_untrained_role_or_setting_is_refused():
    for wrong, match in (
        ({"min_t": 0.5}, "min_t is 0.5"),
        ({"loss_on": "al"}, "loss_on is 'al'"),
        ({"backbone_noise": -1.0}, "backbone_noise is -1.0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
    ):
        with pytest.raises(ReedError, match=match):
            ProteinDomain(**wrong)
    flat = FIELDS | {"coords": Field("coords", "data", (None, 12))}
    with pytest.raises(ReedError, match=r"data\.coords .*shape \(None, 12\).*\(None, 4, 3\)"):
        DOMAIN.net(flat)
    with pytest.raises(ReedError, match="each is 0"):
        DesignOptions(each=0)


def test_a_design_needs_a_structure(net):
    with pytest.raises(ReedError, match="designing needs the structure to design for"):
        DOMAIN.generate(net, FIELDS, range(1), DesignOptions())


def test_a_picture_has_a_row_per_design(net):
    drawn = designs(net, [structure(0), structure(3)])
    picture = DOMAIN.picture(drawn, FIELDS)
    assert picture.dtype == np.uint8 and picture.shape == (8, 4 * TINY.length_of(3), 1)
    assert (picture[0, 4 * TINY.length_of(0) :] == 255).all() and (picture[4] < 255).all()
