"""ESM-2 from both kinds of files: equal to fair-esm, whatever else is in the batch."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from reed import config
from reed.chem.protein import ALPHABET
from reed.encoders import ENCODERS
from reed.encoders.protein import esm2_weights
from reed.encoders.protein.chain import neighbours
from reed.encoders.protein.esm2 import LETTERS, Card, Esm2, token
from reed.errors import ReedError

CARD = Card("esm2-tiny", "nobody/esm2-tiny", 3, 40, 4)
SEQUENCES = ("MKTAYIAKQRQISFVKSHFSRQ", "GSHMXPEEKAARLFIEALEKGDPELMRKVISPDTRMEDNGREFTG", "ACD")


@pytest.fixture(scope="module")
def fair():
    """fair-esm's own model, with random weights that no default hides."""
    pytest.importorskip("esm")
    from esm.model.esm2 import ESM2

    torch.manual_seed(0)
    model = ESM2(CARD.layers, CARD.dim, CARD.heads, "ESM-1b", token_dropout=True)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            torch.nn.init.normal_(parameter, mean, 0.05)
    torch.nn.init.normal_(model.contact_head.regression.weight, std=3.0)
    return model.eval()


def fair_file(folder: Path, model, contacts: bool = True) -> Path:
    """The layout of the public .pt files, and of the one beside them."""
    state = model.state_dict()
    head = {k: state.pop(k) for k in list(state) if k.startswith("contact_head")}
    names = {
        k: ("encoder." if k.startswith("lm_head") else "encoder.sentence_encoder.") + k
        for k in state
    }
    settings = Namespace(encoder_layers=CARD.layers, encoder_embed_dim=CARD.dim)
    path = folder / "esm2_tiny.pt"
    torch.save({"cfg": {"model": settings}, "model": {names[k]: v for k, v in state.items()}}, path)
    if contacts:
        torch.save({"model": head}, folder / "esm2_tiny-contact-regression.pt")
    return path


@pytest.fixture(scope="module")
def weights(fair, tmp_path_factory) -> dict[str, str]:
    """One model as transformers and as fair-esm keep it."""
    from transformers import EsmForMaskedLM

    folder = tmp_path_factory.mktemp("esm2")
    whole = esm2_weights._empty(CARD.layers, CARD.dim, CARD.heads, 33)
    masked = EsmForMaskedLM(whole.config)  # what the hub has: keys "esm.…", and a language head
    own = masked.esm.state_dict()
    state = esm2_weights.renamed(fair.state_dict()) | {
        key: value for key, value in fair.state_dict().items() if key.startswith("contact_head")
    }
    masked.esm.load_state_dict(own | state)
    masked.save_pretrained(folder / "hf")
    (folder / "fair").mkdir()
    return {"hf": str(folder / "hf"), "fair": str(fair_file(folder / "fair", fair))}


def loaded(path: str, **settings) -> Esm2:
    encoder = config.build(Esm2, {"card": CARD, "weights": path, **settings}, "esm2")
    encoder.load("cpu")
    return encoder


def sample(*sequences: str) -> dict:
    length = sum(map(len, sequences))
    rng = np.random.default_rng(length)
    coords = rng.normal(size=(length, 4, 3)) * 10
    chain = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    graph = neighbours(coords)
    return {"sequence": "".join(sequences), "chain": chain, "chain/neighbours": graph}


def direct(fair, sequence: str) -> dict[str, np.ndarray]:
    """Representations of every layer and contacts, from fair-esm itself."""
    tokens = fair.alphabet.get_batch_converter()([("x", sequence)])[2]
    with torch.no_grad():
        found = fair(tokens, repr_layers=range(CARD.layers + 1), return_contacts=True)
    states = {k: v[0, 1:-1].numpy() for k, v in found["representations"].items()}
    return {
        "states": states,
        "contacts": found["contacts"][0].numpy(),
        "maps": found["attentions"][0].flatten(0, 1)[:, 1:-1, 1:-1],
    }


def test_letters_are_those_of_the_alphabet(fair):
    assert sorted(LETTERS) == sorted(ALPHABET)
    assert all(fair.alphabet.get_idx(letter) == token(letter) for letter in ALPHABET)
    specials = ("<cls>", "<pad>", "<eos>")
    assert [fair.alphabet.get_idx(name) for name in specials] == [0, 1, 2]


@pytest.mark.parametrize("kind", ["hf", "fair"])
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_tokens_equal_fair_esm_alone_and_in_a_batch(fair, weights, kind, layer):
    encoder = loaded(weights[kind], layer=layer)
    found = encoder.encode([sample(s) for s in SEQUENCES])
    for sequence, tokens, mean in zip(SEQUENCES, found["tokens"], found["mean"], strict=True):
        want = direct(fair, sequence)["states"][layer or CARD.layers]
        assert tokens.shape == (len(sequence), CARD.dim) and tokens.dtype == np.float32
        np.testing.assert_allclose(tokens, want, atol=2e-5)
        np.testing.assert_allclose(mean, want.mean(0), atol=2e-5)
    assert f"layer {layer or 3}" in encoder.revision()


def test_both_files_give_the_same_numbers(weights):
    one, other = (loaded(weights[kind]).encode([sample(SEQUENCES[0])]) for kind in ("hf", "fair"))
    np.testing.assert_array_equal(one["tokens"][0], other["tokens"][0])


@pytest.mark.parametrize("kind", ["hf", "fair"])
def test_maps_and_contacts_are_kept_at_the_neighbours(fair, weights, kind):
    encoder = loaded(weights[kind], attention=True, contacts=True)
    assert encoder.reads == ("sequence", "chain", "chain/neighbours")
    assert [field.name for field in encoder.fields] == ["tokens", "mean", "attention", "contacts"]
    samples = [sample(s) for s in SEQUENCES[:2]]
    found = encoder.encode(samples)
    for each, maps, contacts in zip(samples, found["attention"], found["contacts"], strict=True):
        graph, want = each["chain/neighbours"], direct(fair, each["sequence"])
        chance = want["contacts"][np.arange(len(graph))[:, None], graph]
        real = graph >= 0
        np.testing.assert_allclose(contacts[real][:, 0], chance[real], atol=2e-5)
        np.testing.assert_allclose(contacts[real].sum(-1), 1, atol=1e-6)
        assert chance[real].std() > 0.001 and not contacts[~real].any() and not maps[~real].any()
        both = want["maps"] + want["maps"].transpose(1, 2)
        both = (
            both
            - both.sum(1, keepdim=True) * both.sum(2, keepdim=True) / both.sum((1, 2), keepdim=True)
        ).numpy()
        kept = both[:, np.arange(len(graph))[:, None], graph].transpose(1, 2, 0)
        np.testing.assert_allclose(maps[real], kept[real], atol=2e-6)
        assert maps.shape == (len(graph), 48, CARD.layers * CARD.heads)


def test_chains_of_one_sample_do_not_see_one_another(weights):
    encoder = loaded(weights["hf"], attention=True)
    both = encoder.encode([sample(*SEQUENCES[:2])])
    parts = [encoder.encode([sample(s)])["tokens"][0] for s in SEQUENCES[:2]]
    np.testing.assert_allclose(both["tokens"][0], np.concatenate(parts), atol=2e-5)
    graph = sample(*SEQUENCES[:2])["chain/neighbours"]
    first, other = len(SEQUENCES[0]), graph[:22] >= 22
    assert other.any() and first == 22 and not both["attention"][0][:22][other].any()


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
@pytest.mark.parametrize("kind", ["hf", "fair"])
def test_other_precisions_are_near(weights, kind, precision):
    want = loaded(weights[kind]).encode([sample(SEQUENCES[0])])["tokens"][0]
    found = loaded(weights[kind], precision=precision).encode([sample(SEQUENCES[0])])["tokens"][0]
    assert np.abs(found - want).max() < (0.3 if precision == "bf16" else 1e-3)


def test_contacts_of_a_pt_file_need_the_file_beside_it(fair, tmp_path):
    path = fair_file(tmp_path, fair, contacts=False)
    loaded(str(path), attention=True)
    with pytest.raises(ReedError, match="contacts need .*esm2_tiny-contact-regression.pt"):
        loaded(str(path), contacts=True)


def test_a_file_of_something_else_is_refused(fair, tmp_path):
    torch.save({"model": {"x": torch.zeros(2)}}, tmp_path / "x.pt")
    with pytest.raises(ReedError, match="x.pt is not an ESM-2"):
        loaded(str(tmp_path / "x.pt"))
    state = fair.state_dict()
    del state["layers.1.fc1.weight"]
    torch.save({"model": state}, tmp_path / "y.pt")
    with pytest.raises(ReedError, match="1 missing .*layer.1.intermediate.dense.weight"):
        loaded(str(tmp_path / "y.pt"))


class _Boom:
    def __reduce__(self):
        return (Path.touch, (Path("boom"),))


def test_a_hostile_file_is_refused_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"cfg": Namespace(x=_Boom()), "model": {}}, tmp_path / "x.pt")
    with pytest.raises(ReedError, match="reading it would run code"):
        loaded("x.pt")
    assert not (tmp_path / "boom").exists()


def test_a_model_of_another_size_is_refused(weights):
    encoder = ENCODERS.get("esm2-8m")(weights=weights["hf"])
    with pytest.raises(
        ReedError, match=r"has \(3, 40, 4\) layers, channels and heads, esm2-8m has"
    ):
        encoder.load("cpu")


def test_settings_that_cannot_be():
    with pytest.raises(ReedError, match="esm2-8m.layer is 7; it has layers 1 to 6, 0 is the last"):
        ENCODERS.get("esm2-8m")(layer=7)
    with pytest.raises(ReedError, match="esm2-8m.precision cannot be 'fp8'"):
        ENCODERS.get("esm2-8m")(precision="fp8")


def test_every_size_says_what_it_writes():
    shapes = {
        name: ENCODERS.get(name)().fields[0].shape[1]
        for name in ENCODERS.names()
        if name.startswith("esm2-")
    }
    assert shapes == {
        "esm2-8m": 320,
        "esm2-35m": 480,
        "esm2-150m": 640,
        "esm2-650m": 1280,
        "esm2-3b": 2560,
        "esm2-15b": 5120,
    }
    (pairs,) = [f for f in ENCODERS.get("esm2-650m")(attention=True).fields if f.kind == "pair"]
    assert pairs.shape == (None, 48, 660)


def test_both_files_give_the_same_numbers_in_bf16_at_1000_residues(weights):
    """Rounded frequencies of positions would turn the angles of late residues."""
    letters = np.random.default_rng(0).choice(list("ACDEFGHIKLMNPQRSTVWY"), 1000)
    text = sample("".join(letters))
    exact = loaded(weights["hf"]).encode([text])["tokens"][0]
    hub, fair = (loaded(weights[kind], precision="bf16").encode([text]) for kind in ("hf", "fair"))
    np.testing.assert_array_equal(fair["tokens"][0], hub["tokens"][0])
    error = np.linalg.norm(fair["tokens"][0] - exact) / np.linalg.norm(exact)
    assert error < 0.01
