"""ProstT5 and ProtT5: tokens and states equal to those of transformers, and wrong files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from reed import config
from reed.build.shard import BadSample
from reed.encoders import ENCODERS
from reed.encoders.protein import foldseek, prott5
from reed.encoders.protein.prott5 import Card, ProtT5
from reed.errors import ReedError

LAYERS, DIM = 2, 32
CARDS = {
    "prostt5": Card("prostt5", "nobody/x", "<AA2fold>", LAYERS, DIM),
    "prostt5-3di": Card("prostt5-3di", "nobody/x", "<fold2AA>", LAYERS, DIM),
    "prott5-xl": Card("prott5-xl", "nobody/x", "", LAYERS, DIM),
}
SEQUENCES = ("MKTAYIAKQRQISFVKSHFSRQ", "GSHMXPEEKAARLFIEALEK", "ACD")
LETTERS = "ALGVSREDTIPKFQNYMHWCXBOUZ"
# added_tokens.json of the public repository
ADDED = """
{"<AA2fold>": 149, "<fold2AA>": 148, "a": 128, "c": 147, "d": 135, "e": 134, "f": 140, "g": 130,
"h": 145, "i": 137, "k": 139, "l": 129, "m": 144, "n": 142, "p": 138, "q": 141, "r": 133,
"s": 132, "t": 136, "v": 131, "w": 146, "y": 143}
"""


def sentencepiece(letters: str) -> bytes:
    """A SentencePiece model with the pieces of ProtT5: a text, a score and a kind each."""
    pieces = [b"<pad>", b"</s>", b"<unk>", *(f"▁{letter}".encode() for letter in letters)]
    entries = []
    for number, piece in enumerate(pieces):
        kind = b"\x18\x03" if number < 2 else b"\x18\x02" if number == 2 else b""
        score = b"\x15" + np.float32(-number).tobytes()
        entry = b"\n" + bytes([len(piece)]) + piece + score + kind
        entries.append(b"\n" + bytes([len(entry)]) + entry)
    return b"".join(entries)


def public_folder(folder: Path, *, vocabulary: int = 150):
    """A repository as the hub has it: the whole model as a pickle of tensors, and its tokens."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary,
            d_model=DIM,
            d_kv=8,
            d_ff=64,
            num_layers=LAYERS,
            num_heads=4,
            dropout_rate=0.1,
            feed_forward_proj="relu",
            n_positions=512,
            decoder_start_token_id=0,
        )
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "spiece.model").write_bytes(sentencepiece(LETTERS))
    (folder / "added_tokens.json").write_text(ADDED)
    return model


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """The folder, and the model in it."""
    folder = tmp_path_factory.mktemp("prostt5")
    return folder, public_folder(folder)


@pytest.fixture(scope="module")
def tokenizer():
    """The tokenizer of transformers, with the pieces of ProtT5 and what ProstT5 added."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{letter}", -float(number)) for number, letter in enumerate(LETTERS, 1)]
    pieces += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    made = T5Tokenizer(vocab=pieces)
    made.add_tokens(sorted(json.loads(ADDED), key=json.loads(ADDED).get))
    return made


def loaded(name: str, folder: Path, **more) -> ProtT5:
    encoder = config.build(ProtT5, {"card": CARDS[name], "weights": str(folder), **more}, name)
    encoder.load("cpu")
    return encoder


def sample(*sequences: str) -> dict:
    """Chains of a bent helix, one residue of which is not observed."""
    length = sum(map(len, sequences))
    steps = np.arange(length)[:, None] + np.array([-0.28, 0.0, 0.26, 0.21])
    coords = np.stack([2 * np.cos(1.75 * steps), 2 * np.sin(1.75 * steps), 1.5 * steps], -1)
    coords += np.random.default_rng(length).normal(size=coords.shape) * 0.3
    coords[min(10, length - 1), 1] = np.nan
    chain = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    return {"sequence": "".join(sequences), "chain": chain, "coords": coords.astype(np.float32)}


def test_the_numbers_of_tokens_are_those_of_the_public_files(tokenizer):
    assert json.loads(ADDED) == prott5.ADDED and len(tokenizer) == 150
    for letter, number in (prott5.LETTERS | prott5.ADDED).items():
        assert tokenizer(letter).input_ids == [number, prott5.EOS], letter
    assert set(foldseek.ALPHABET) < set(prott5.ADDED)


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("layer", [0, 1])
def test_tokens_equal_transformers_alone_and_in_a_batch(name, layer, public, tokenizer):
    """Texts as the authors write them: a direction, then letters with spaces between."""
    folder, model = public
    encoder, card = loaded(name, folder, layer=layer), CARDS[name]
    samples = [sample(s) for s in SEQUENCES]
    found = encoder.encode(samples)
    for each, tokens, mean in zip(samples, found["tokens"], found["mean"], strict=True):
        text = foldseek.states(each["coords"]) if card.reads_states else each["sequence"]
        assert ("#" in text) == card.reads_states
        words = " ".join([card.prefix] * bool(card.prefix) + list(text))
        inputs = tokenizer(words, return_tensors="pt")
        start = bool(card.prefix)
        assert inputs.input_ids.shape[1] == len(text) + 1 + start
        with torch.no_grad():
            hidden = model.encoder(**inputs, output_hidden_states=True)
        want = hidden.hidden_states[1] if layer else hidden.last_hidden_state
        want = want[0, start:-1].numpy()
        assert tokens.shape == (len(text), DIM) and want.std(0).max() > 0.1
        np.testing.assert_allclose(tokens, want, atol=2e-5, rtol=1e-5)
        np.testing.assert_allclose(mean, want.mean(0), atol=2e-5, rtol=1e-5)


def test_what_the_encoders_read(public):
    folder, _ = public
    one = sample(SEQUENCES[0])
    turned = one | {"coords": one["coords"][::-1].copy()}
    for name, moves in (("prostt5", False), ("prostt5-3di", True), ("prott5-xl", False)):
        encoder = loaded(name, folder)
        assert ("coords" in encoder.reads) == moves
        found = encoder.encode([one, turned])["tokens"]
        assert (np.abs(found[0] - found[1]).max() > 0.1) == moves
    revisions = {loaded(name, folder).revision() for name in CARDS}
    revisions |= {loaded("prostt5-3di", folder, coords="esmfold/coords").revision()}
    assert len(revisions) == 4
    with pytest.raises(BadSample, match=r"coords is \[3, 4, 3\], the sequence needs \[22, 4, 3\]"):
        loaded("prostt5-3di", folder).encode([one | {"coords": one["coords"][:3]}])


def test_chains_do_not_see_one_another(public):
    encoder = loaded("prostt5", public[0])
    whole = encoder.encode([sample(*SEQUENCES[:2])])["tokens"][0]
    apart = encoder.encode([sample(s) for s in SEQUENCES[:2]])["tokens"]
    np.testing.assert_allclose(whole, np.concatenate(apart), atol=2e-5, rtol=1e-5)


def test_another_vocabulary_or_size_is_refused(public, tmp_path):
    folder = shutil.copytree(public[0], tmp_path / "a")
    (folder / "spiece.model").write_bytes(sentencepiece("LAGVSREDTIPKFQNYMHWCXBOUZ"))
    with pytest.raises(ReedError, match="has the letters LAGV.*, ProtT5 has ALGV.*; give the fold"):
        loaded("prott5-xl", folder)
    (folder / "spiece.model").write_bytes(b"\x80")
    with pytest.raises(ReedError, match="has the letters of no residue, ProtT5 has"):
        loaded("prott5-xl", folder)
    (folder / "spiece.model").unlink()
    (folder / "added_tokens.json").write_text(ADDED.replace('"a": 128', '"a": 129'))
    with pytest.raises(ReedError, match="has a as token 129, ProstT5 has 128; give the folder of"):
        loaded("prostt5", folder)
    (folder / "added_tokens.json").write_text("[")
    with pytest.raises(ReedError, match="cannot read .*added_tokens.json .*; download it again"):
        loaded("prostt5", folder)
    public_folder(tmp_path / "b", vocabulary=128)
    loaded("prott5-xl", tmp_path / "b")
    with pytest.raises(ReedError, match="has 128 tokens, prostt5 reads 150; give the folder of n"):
        loaded("prostt5", tmp_path / "b")
    with pytest.raises(
        ReedError, match=r"has 2 layers and 32 channels, prostt5 has 24 and 1024; give the"
    ):
        ENCODERS.get("prostt5")(weights=str(public[0])).load("cpu")


def test_settings_that_cannot_be():
    with pytest.raises(
        ReedError, match="prostt5.layer is 25; it has layers 1 to 24, 0 is the last"
    ):
        ENCODERS.get("prostt5")(layer=25)
    encoder = ENCODERS.get("prostt5-3di")()
    encoder.check_libraries()
    assert encoder.origin.repo == "Rostlab/ProstT5" and encoder.fields[0].shape == (None, 1024)
