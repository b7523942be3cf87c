"""SaProt and the 3Di states that it reads: equal to transformers and to biotite."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from reed import config
from reed.build.shard import BadSample
from reed.encoders import ENCODERS
from reed.encoders.protein import foldseek, saprot
from reed.encoders.protein.saprot import Card, SaProt
from reed.errors import ReedError

CARD = Card("saprot-tiny", "nobody/saprot-tiny", 2, 40)
SEQUENCES = ("MKTAYIAKQRQISFVKSHFSRQ", "GSHMXPEEKAARLFIEALEK", "ACD")


def settings(**more) -> dict:
    """The configuration of the public models, at a small size."""
    return {
        "vocab_size": 446,
        "mask_token_id": 4,
        "pad_token_id": 1,
        "hidden_size": CARD.dim,
        "num_hidden_layers": CARD.layers,
        "num_attention_heads": 4,
        "intermediate_size": 4 * CARD.dim,
        "max_position_embeddings": 1026,
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "position_embedding_type": "rotary",
        "token_dropout": True,
        "emb_layer_norm_before": False,
    } | more


def vocabulary() -> list[str]:
    """The tokens as SaProt's own code lists them."""
    letters, states = "ACDEFGHIKLMNPQRSTVWY#", "pynwrqhgdlvtmfsaeikc#"
    pairs = itertools.product(letters, states)
    return ["<cls>", "<pad>", "<eos>", "<unk>", "<mask>", *map("".join, pairs)]


def public_folder(folder: Path, **more):
    """A repository as the hub has it: weights as a pickle of tensors, and the list of tokens."""
    from transformers import EsmConfig, EsmForMaskedLM

    torch.manual_seed(0)
    model = EsmForMaskedLM(EsmConfig(**settings(**more))).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.1)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("\n".join(vocabulary()))
    return model


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """The folder, and the model in it."""
    folder = tmp_path_factory.mktemp("saprot")
    return str(folder), public_folder(folder)


def loaded(folder: str, **more) -> SaProt:
    encoder = config.build(SaProt, {"card": CARD, "weights": folder, **more}, "saprot")
    encoder.load("cpu")
    return encoder


def helix(length: int) -> np.ndarray:
    """N, CA, C and O of an ideal helix: 100 degrees and 1.5 angstroms per residue."""
    places = {"N": (1.55, -28.0, -0.87), "CA": (2.28, 0.0, 0.0)}
    places |= {"C": (1.66, 26.0, 1.12), "O": (2.01, 21.0, 2.31)}
    steps = np.arange(length)
    atoms = []
    for radius, angle, rise in places.values():
        turn = np.deg2rad(angle + 100.0 * steps)
        atoms.append(np.stack([radius * np.cos(turn), radius * np.sin(turn), rise + 1.5 * steps]))
    return np.stack(atoms, 1).transpose(2, 1, 0).astype(np.float32)


def sample(*sequences: str) -> dict:
    length = sum(map(len, sequences))
    coords = helix(length)
    coords += np.random.default_rng(length).normal(size=coords.shape) * 0.3
    chain = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    return {"sequence": "".join(sequences), "chain": chain, "coords": coords.astype(np.float32)}


def test_a_helix_has_the_state_of_helices():
    """Foldseek writes v along a helix; the ends are d, as they lack a neighbour."""
    assert foldseek.states(helix(30)) == "d" + "v" * 28 + "d"


def test_states_are_those_of_biotite_with_or_without_oxygen(tmp_path):
    from biotite.structure.alphabet import to_3di
    from biotite.structure.io import pdb

    coords = sample("A" * 40)["coords"]
    lines = []
    for i, (residue, (name, k)) in enumerate(
        itertools.product(range(40), (("N", 0), ("CA", 1), ("C", 2), ("O", 3)))
    ):
        x, y, z = coords[residue, k]
        place = f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00"
        lines.append(
            f"ATOM  {i + 1:>5}  {name:<3} GLY A{residue + 1:>4}    {place}           {name[0]}"
        )
    (tmp_path / "x.pdb").write_text("\n".join(lines) + "\nEND\n")
    atoms = pdb.PDBFile.read(str(tmp_path / "x.pdb")).get_structure(model=1)
    want = str(to_3di(atoms)[0][0])
    found = foldseek.states(np.round(coords, 3))
    assert found == want and len(set(found)) == 3


def test_what_is_not_observed_is_masked_and_changes_its_neighbours_alone():
    coords = helix(30)
    coords[10, 1] = np.nan
    coords[20, 3] = np.nan  # the oxygen is not read
    assert foldseek.states(coords) == "d" + "v" * 8 + "d#d" + "v" * 17 + "d"


def test_the_vocabulary_is_the_public_one():
    assert list(saprot.VOCABULARY) == vocabulary() and len(saprot.VOCABULARY) == 446
    found = saprot.tokens("MX", "d#")
    assert [saprot.VOCABULARY[number] for number in found] == ["Md", "##"]
    assert set(foldseek.ALPHABET) | {"#"} == set(saprot.STATES)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_tokens_equal_transformers_alone_and_in_a_batch(public, layer):
    from transformers import EsmTokenizer

    folder, model = public
    tokenizer = EsmTokenizer(str(Path(folder) / "vocab.txt"))
    encoder = loaded(folder, layer=layer)
    samples = [sample(s) for s in SEQUENCES]
    found = encoder.encode(samples)
    for each, tokens, mean in zip(samples, found["tokens"], found["mean"], strict=True):
        letters = each["sequence"].replace("X", "#")
        states = foldseek.states(each["coords"])
        text = "".join(a + b for a, b in zip(letters, states, strict=True))
        ids = torch.tensor([[0, *tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)), 2]])
        assert ids.shape[1] == len(letters) + 2
        with torch.no_grad():
            hidden = model.esm(ids, output_hidden_states=True).hidden_states
        want = hidden[layer or 2][0, 1:-1].numpy()
        assert tokens.shape == (len(letters), CARD.dim) and tokens.dtype == np.float32
        np.testing.assert_allclose(tokens, want, atol=2e-5, rtol=1e-5)
        np.testing.assert_allclose(mean, want.mean(0), atol=2e-5, rtol=1e-5)


def test_the_structure_matters_and_chains_do_not_see_one_another(public):
    encoder = loaded(public[0])
    one = sample(SEQUENCES[0])
    flat = one | {"coords": np.full_like(one["coords"], np.nan)}
    found = encoder.encode([one, flat])["tokens"]
    assert np.abs(found[0] - found[1]).max() > 0.1

    both = sample(*SEQUENCES[:2])
    cut = len(SEQUENCES[0])
    parts = [
        {name: value[part] for name, value in both.items()}
        for part in (slice(None, cut), slice(cut, None))
    ]
    parts[1]["chain"] = parts[1]["chain"] - 1
    whole = encoder.encode([both])["tokens"][0]
    apart = np.concatenate(encoder.encode(parts)["tokens"])
    np.testing.assert_allclose(whole, apart, atol=2e-5, rtol=1e-5)


def test_other_coordinates_are_read_on_request(public):
    encoder = loaded(public[0], coords="esmfold/coords")
    assert encoder.reads == ("sequence", "chain", "esmfold/coords")
    one = sample(SEQUENCES[0])
    found = encoder.encode([one | {"esmfold/coords": one["coords"], "coords": None}])["tokens"][0]
    np.testing.assert_array_equal(found, loaded(public[0]).encode([one])["tokens"][0])
    assert encoder.revision() != loaded(public[0]).revision()
    with pytest.raises(BadSample, match=r"coords is \[3, 4, 3\], the sequence needs \[22, 4, 3\]"):
        loaded(public[0]).encode([one | {"coords": one["coords"][:3]}])


def test_another_vocabulary_or_size_is_refused(public, tmp_path):
    public_folder(tmp_path / "a")
    tokens = vocabulary()
    tokens[5:7] = tokens[6:4:-1]
    (tmp_path / "a/vocab.txt").write_text("\n".join(tokens))
    with pytest.raises(ReedError, match="has Ay as token 5, SaProt has Ap; give the folder of a S"):
        loaded(str(tmp_path / "a"))
    public_folder(tmp_path / "b", vocab_size=33)
    with pytest.raises(ReedError, match=r"\(2, 40, 33\) layers, channels and tokens, .*446"):
        loaded(str(tmp_path / "b"))
    with pytest.raises(ReedError, match=r"saprot-35m has \(12, 480, 446\)"):
        ENCODERS.get("saprot-35m")(weights=public[0]).load("cpu")


def test_settings_that_cannot_be():
    with pytest.raises(ReedError, match="saprot-35m.layer is 13; it has layers 1 to 12, 0 is"):
        ENCODERS.get("saprot-35m")(layer=13)
    with pytest.raises(ReedError, match="saprot-650m.precision cannot be 'fp8'"):
        ENCODERS.get("saprot-650m")(precision="fp8")
    encoder = ENCODERS.get("saprot-650m-pdb")()
    assert encoder.origin.repo == "westlake-repl/SaProt_650M_PDB"
    assert [field.shape for field in encoder.fields] == [(None, 1280), (1280,)]
