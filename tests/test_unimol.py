"""Uni-Mol: released names and size, masks, symmetries, and files that are none."""

from __future__ import annotations

import math
import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from reed.chem import rdkit
from reed.chem.molecule import to_lists
from reed.encoders.molecule import unimol_net
from reed.encoders.molecule.unimol import UniMol
from reed.encoders.molecule.unimol_net import TOKENS, Size, collate, forward, shapes
from reed.errors import ReedError

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny_molecules.py")))
FILES = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_weights.py"))))


def record(text: str) -> dict:
    molecule = rdkit.to_arrays(TINY.mol(text))
    partners, orders = to_lists(molecule.bonds)
    return {
        "molecule/coords": molecule.coords,
        "molecule/atoms": molecule.atoms,
        "molecule/charges": molecule.charges,
        "molecule/partners": partners,
        "molecule/orders": orders,
    }


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Weights in the released layout, with heads that are not used."""
    path = tmp_path_factory.mktemp("unimol") / "mol_pre_all_h_220816.pt"
    made = UniMol(weights=str(FILES.unimol(path)), dim=16)
    made.load("cpu")
    return made


def test_the_released_net_has_the_released_size():
    table = shapes(Size())
    assert len(TOKENS) == 31 and TOKENS[:4] == ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
    # 15 layers of 3.15 million, and the tokens, the norms and the distances
    assert sum(map(math.prod, table.values())) == pytest.approx(47.33e6, abs=0.05e6)
    assert Size.of({k: SimpleNamespace(shape=s) for k, s in table.items()}) == Size()


def test_the_batch_changes_no_atom_and_no_mean(encoder):
    """The public code averages padding and the tokens before and behind the atoms as well."""
    texts = ("CC(=O)Nc1ccc(O)cc1", "C#N", "C[N+](C)(C)CC([O-])=O")
    together = encoder.encode([record(text) for text in texts])
    for row, text in enumerate(texts):
        alone = encoder.encode([record(text)])
        np.testing.assert_allclose(together["token"][row], alone["token"][0], atol=1e-5)
        np.testing.assert_allclose(together["sample"][row], alone["sample"][0], atol=1e-5)
        atoms = len(record(text)["molecule/atoms"])
        assert together["token"][row].shape == (atoms, 16)
        np.testing.assert_allclose(together["sample"][row], together["token"][row].mean(0))


def test_turning_and_moving_change_nothing_and_renumbering_carries_over(encoder):
    given = record("C[C@H](N)C(=O)O")
    found = encoder.encode([given])
    turn = Rotation.random(rng=np.random.default_rng(0))
    moved = (turn.apply(given["molecule/coords"]) + [4, -1, 2]).astype(np.float32)
    again = encoder.encode([given | {"molecule/coords": moved}])
    np.testing.assert_allclose(again["token"][0], found["token"][0], atol=1e-4)
    order = np.random.default_rng(0).permutation(len(moved))
    mixed = {k: v[order] for k, v in given.items()}
    again = encoder.encode([mixed])
    np.testing.assert_allclose(again["token"][0], found["token"][0][order], atol=1e-4)


def test_tokens_and_centres_are_those_of_the_released_dictionary():
    tokens, coords = collate(
        [(["C", "H"], np.array([[0.0, 0, 1], [0, 0, 3]])), (["Bi"] * 3, np.ones((3, 3)))]
    )
    assert tokens.tolist() == [[1, 4, 8, 2, 0], [1, 3, 3, 3, 2]]
    assert coords[0, :, 2].tolist() == [0, -1, 1, 0, 0] and not coords[1].any()


def test_attention_is_softmax_of_scores_that_add_up():
    """One head and one layer by hand, with torch's own attention."""
    weights = FILES.unimol_state(Size(layers=1, width=8, inner=8, heads=1, gaussians=3))
    tokens, coords = collate([(["C", "O", "H"], np.eye(3))])
    found = forward(weights, tokens, coords)
    w, norm = weights, torch.nn.functional.layer_norm
    x = norm(
        w["embed_tokens.weight"][tokens],
        (8,),
        w["encoder.emb_layer_norm.weight"],
        w["encoder.emb_layer_norm.bias"],
    )
    gauss = unimol_net._distances(weights, tokens, coords)
    inner = torch.nn.functional.gelu(
        gauss @ w["gbf_proj.linear1.weight"].T + w["gbf_proj.linear1.bias"]
    )
    bias = (inner @ w["gbf_proj.linear2.weight"].T + w["gbf_proj.linear2.bias"])[..., 0]
    name = "encoder.layers.0."
    y = norm(
        x, (8,), w[f"{name}self_attn_layer_norm.weight"], w[f"{name}self_attn_layer_norm.bias"]
    )
    qkv = y @ w[f"{name}self_attn.in_proj.weight"].T + w[f"{name}self_attn.in_proj.bias"]
    mixed = torch.nn.functional.scaled_dot_product_attention(*qkv.chunk(3, -1), attn_mask=bias)
    x = x + mixed @ w[f"{name}self_attn.out_proj.weight"].T + w[f"{name}self_attn.out_proj.bias"]
    y = norm(x, (8,), w[f"{name}final_layer_norm.weight"], w[f"{name}final_layer_norm.bias"])
    y = torch.nn.functional.gelu(y @ w[f"{name}fc1.weight"].T + w[f"{name}fc1.bias"])
    x = x + y @ w[f"{name}fc2.weight"].T + w[f"{name}fc2.bias"]
    last = norm(x, (8,), w["encoder.final_layer_norm.weight"], w["encoder.final_layer_norm.bias"])
    torch.testing.assert_close(found, last)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_files_that_are_none_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = FILES.unimol_state()
    lacking = {k: v for k, v in good.items() if k != "gbf.means.weight"}
    other = good | {"embed_tokens.weight": torch.zeros(30, 16)}
    for content, dim, reason in (
        ({"model": lacking}, 16, r"1 missing \(gbf.means.weight\)"),
        (other, 16, r"embed_tokens.weight \(30, 16\) instead of \(31, 16\)"),
        (good, 512, "has 16 channels, unimol.dim is 512; set dim=16"),
        ({"x": torch.zeros(1)}, 16, "is not a Uni-Mol"),
        ({"model": [1]}, 16, "is not a Uni-Mol"),
        ({"model": Hostile()}, 16, "would run code"),
    ):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ReedError, match=reason):
            UniMol(weights=str(tmp_path / "x.pt"), dim=dim).load("cpu")
    assert not (tmp_path / "owned").exists()


def test_the_revision_follows_the_weights(tmp_path, encoder):
    torch.save(FILES.unimol_state(), tmp_path / "x.pt")
    other = UniMol(weights=str(tmp_path / "x.pt"), dim=16)
    assert other.revision() != encoder.revision() == encoder.revision()
    assert other.prefetch().files == (tmp_path / "x.pt",) and other.origin.repo
    with pytest.raises(ReedError, match="unimol.coords is 'x'"):
        UniMol(coords="x")
