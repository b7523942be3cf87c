"""ESM-IF1 with small random weights: equal to fair-esm, centred, with missing residues masked."""

from __future__ import annotations

import runpy
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from reed.build.shard import BadSample
from reed.encoders.protein.esm_if1 import EsmIf1, library, quiet, rename
from reed.encoders.protein.message_passing import message_passing, scatter
from reed.errors import ReedError
from reed.sources.protein.toy import ProteinsToy

pytest.importorskip("esm")
TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_weights.py"))))
ARGS, DIM = TINY.IF1, TINY.IF1_DIM


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    model_class, converter, alphabet = library()
    return model_class(Namespace(**ARGS), alphabet).eval(), converter(alphabet)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """The layout of the public file: settings of fairseq beside the tensors."""
    return TINY.esm_if1(tmp_path_factory.mktemp("if1") / "esm_if1.pt")


@pytest.fixture(scope="module")
def encoder(weights):
    made = EsmIf1(str(weights), dim=DIM)
    made.load("cpu")
    return made


@pytest.fixture(scope="module")
def samples():
    source = ProteinsToy(samples=3, min_length=20, max_length=40)
    return [source.read(key) for key in source.listing()]


def direct(parts, coords: np.ndarray) -> np.ndarray:
    """fair-esm's esm.inverse_folding.util.get_encoder_output, of N, CA, C [L, 3, 3]."""
    model, converter = parts
    with torch.no_grad(), quiet():
        batch, confidence, _, _, padding = converter([(coords, None, None)])
        output = model.encoder.forward(batch, padding, confidence, return_all_hiddens=False)
    return output["encoder_out"][0][1:-1, 0].numpy()


def turned(coords: np.ndarray, shift: float = 0.0) -> np.ndarray:
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    return (coords @ (turn * np.sign(np.linalg.det(turn))) + shift).astype(np.float32)


def test_states_equal_fair_esm_on_centred_atoms(encoder, parts, samples):
    found = encoder.encode(samples)["tokens"]
    for sample, tokens in zip(samples, found, strict=True):
        atoms = sample["coords"][:, :3]
        want = direct(parts, atoms - atoms[:, 1].mean(0))
        assert tokens.shape == (len(atoms), DIM) and tokens.dtype == np.float32
        np.testing.assert_allclose(tokens, want, atol=2e-4)
    assert np.abs(found[0][:10] - found[1][:10]).max() > 0.1


def test_states_do_not_move_with_the_chain(encoder, samples):
    want = encoder.encode(samples)["tokens"]
    moved = [s | {"coords": turned(s["coords"], shift=25.0)} for s in samples]
    for one, other in zip(want, encoder.encode(moved)["tokens"], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_without_centring_fair_esm_moves_with_the_chain(parts, samples):
    """The trap that the centring is for; if this fails it is not needed any more."""
    atoms = samples[0]["coords"][:, :3]
    moved = np.abs(direct(parts, atoms + np.float32(25)) - direct(parts, atoms)).max()
    assert moved > 0.02


def test_a_missing_residue_is_masked_and_not_padding(encoder, parts, samples):
    coords = samples[0]["coords"].copy()
    coords[5, 2:] = np.nan
    coords[0] = np.nan
    (found,) = encoder.encode([samples[0] | {"coords": coords}])["tokens"]
    whole = np.isfinite(coords[:, :3]).all((1, 2))
    masked = coords[:, :3] - coords[whole, 1].mean(0)
    masked[~whole] = np.inf
    np.testing.assert_allclose(found, direct(parts, masked), atol=2e-4)
    masked[~whole] = np.nan  # what fair-esm takes for padding
    assert np.abs(found - direct(parts, masked)).max() > 0.05
    assert np.isfinite(found).all()


def test_chains_have_empty_residues_between(encoder, parts, samples):
    one, other = (s["coords"] for s in samples[:2])
    both = np.concatenate([one, other + np.float32(40)])
    sample = {
        "coords": both,
        "sequence": "A" * len(both),
        "chain": np.repeat([0, 1], [len(one), len(other)]),
    }
    (found,) = encoder.encode([sample])["tokens"]
    centred = both[:, :3] - both[:, 1].mean(0, dtype=np.float64)
    empty = np.full((10, 3, 3), np.nan)
    given = np.concatenate([centred[: len(one)], empty, centred[len(one) :]]).astype(np.float32)
    want = np.delete(direct(parts, given), np.s_[len(one) : len(one) + 10], 0)
    np.testing.assert_allclose(found, want, atol=2e-4)


def test_another_column_can_hold_the_atoms(samples):
    made = EsmIf1(coords="esmfold/coords")
    assert made.reads == ("esmfold/coords", "sequence", "chain")


def test_a_chain_without_a_whole_residue(encoder, samples):
    coords = samples[0]["coords"].copy()
    coords[:, 0] = np.nan
    with pytest.raises(BadSample, match="no residue has N, CA and C"):
        encoder.encode([samples[0] | {"coords": coords}])


def test_nothing_is_left_in_the_table_of_modules(monkeypatch):
    mine = ModuleType("biotite")
    monkeypatch.setitem(sys.modules, "biotite", mine)
    library()
    assert sys.modules["biotite"] is mine
    left = [n for n in sys.modules if n.startswith(("torch_geometric", "torch_scatter"))]
    assert not left and "esm.inverse_folding" not in sys.modules


def test_the_other_package_called_esm_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "esm", ModuleType("esm"))
    for name in [n for n in sys.modules if n.startswith("esm.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ReedError, match="the package `esm` of ESM3 has the same import name"):
        library()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}}, "is not an ESM-IF1: it lacks 'args' or 'model'"),
        ({"args": Namespace(encoder_embed_dim=512), "model": {}}, "has 512 channels.*set dim=512"),
        ({"args": Namespace(**ARGS), "model": {}}, "missing"),
    ],
)
def test_a_file_of_something_else(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ReedError, match=message):
        EsmIf1(str(tmp_path / "x.pt"), dim=DIM).load("cpu")


def test_without_weights_the_message_says_where_they_are():
    with pytest.raises(ReedError, match="not on the hub; download https://dl.fbaipublicfiles.com/"):
        EsmIf1().load("cpu")
    with pytest.raises(ReedError, match="not on the hub"):
        EsmIf1().prefetch()


def test_precisions():
    with pytest.raises(ReedError, match="cannot be 'bf16': geometry needs"):
        EsmIf1(precision="bf16")


def test_old_names_of_tensors():
    assert rename("encoder.gvp_encoder.W_v.0.wh.weight").startswith(
        "encoder.gvp_encoder.embed_graph.embed_node."
    )
    assert rename("encoder.embed_scores.0.weight") == "encoder.embed_confidence.weight"


def test_scatter_is_a_loop():
    rng = np.random.default_rng(0)
    rows, index = rng.normal(size=(30, 2)), rng.integers(0, 6, 30)
    index[index == 4] = 3  # a node without edges
    for how, combine in (("sum", np.sum), ("mean", np.mean)):
        found = scatter(torch.from_numpy(rows), torch.from_numpy(index), dim_size=7, reduce=how)
        for node in range(7):
            mine = rows[index == node]
            want = combine(mine, 0) if len(mine) else np.zeros(2)
            np.testing.assert_allclose(found[node], want)


def test_messages_go_from_source_to_target():
    class Sum(message_passing()):
        def message(self, x_i, x_j, weight):
            return weight * (x_j - 10 * x_i)

    x = torch.tensor([[1.0], [2.0], [4.0]])
    edges = torch.tensor([[0, 1, 0], [2, 2, 1]])  # from, to
    found = Sum().propagate(edges, x=x, weight=torch.tensor([[1.0], [1.0], [2.0]]))
    assert found.tolist() == [[0.0], [2 * (1 - 20)], [(1 - 40) + (2 - 40)]]
