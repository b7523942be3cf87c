"""ESMFold with small random weights: equal to transformers, at the neighbours, read by others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reed.cache.build import BadSample
from reed.encoders.protein_chain import neighbours
from reed.encoders.protein_esmfold import EsmFold
from reed.errors import ReedError

SEQUENCE = "MKTAYIAKQRQX"
SIZES = {"single_dim": 32, "pair_dim": 16, "structure_dim": 24}
VOCABULARY = [
    "<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>",
]  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A folder as the hub has it."""
    from transformers import EsmConfig, EsmForProteinFolding

    module = {
        "sequence_dim": 24, "pairwise_dim": 16, "ipa_dim": 4, "resnet_dim": 8, "num_heads_ipa": 2,
        "num_qk_points": 2, "num_v_points": 2, "num_blocks": 2, "num_resnet_blocks": 1,
        "num_angles": 7,
    }  # fmt: skip
    trunk = {
        "num_blocks": 1, "sequence_state_dim": 32, "pairwise_state_dim": 16, "max_recycles": 2,
        "sequence_head_width": 8, "pairwise_head_width": 8, "structure_module": module,
    }  # fmt: skip
    config = EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=1026,
        layer_norm_eps=1e-5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        position_embedding_type="rotary", token_dropout=True, emb_layer_norm_before=False,
        is_folding_model=True, vocab_list=VOCABULARY,
        esmfold_config={"fp16_esm": False, "lddt_head_hid_dim": 8, "trunk": trunk},
    )  # fmt: skip
    torch.manual_seed(0)
    model = EsmForProteinFolding(config)
    for parameter in model.parameters():  # none at its default, where whole layers are zero
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("fold")
    model.save_pretrained(folder)
    return str(folder)


def sample(sequence: str = SEQUENCE, **more) -> dict:
    coords = np.random.default_rng(0).normal(size=(len(sequence), 4, 3)) * 10
    base = {"sequence": sequence, "chain": np.zeros(len(sequence), int)}
    return base | {"chain/neighbours": neighbours(coords)} | more


def loaded(weights: str, **settings) -> EsmFold:
    encoder = EsmFold(weights, **SIZES, **settings)
    encoder.load("cpu")
    return encoder


def test_values_equal_a_direct_call(weights):
    from transformers import EsmForProteinFolding

    each = sample()
    found = loaded(weights).encode([each])
    model = EsmForProteinFolding.from_pretrained(weights).eval()
    want = model.infer([SEQUENCE])
    pairs = want.s_z[0].numpy()[np.arange(12)[:, None], each["chain/neighbours"]]
    pairs[each["chain/neighbours"] < 0] = 0
    expected = {
        "coords": want.positions[-1, 0, :, :4], "plddt": want.plddt[0, :, 1] * 100,
        "single": want.s_s[0], "structure": want.states[-1, 0], "pair": pairs,
    }  # fmt: skip
    assert set(found) == set(expected) == {field.name for field in loaded(weights).fields}
    for field in loaded(weights).fields:
        value, (array,) = np.asarray(expected[field.name]), found[field.name]
        assert array.shape == tuple(12 if n is None else n for n in field.shape)
        np.testing.assert_allclose(array, value, atol=1e-4)
        assert array.std() > 0
    assert (found["plddt"][0] >= 0).all() and found["plddt"][0].max() > 1


def test_recycles_and_chunks(weights):
    (own,), (none,), (chunked,) = (
        loaded(weights, pair=False, **more).encode([sample()])["single"]
        for more in ({}, {"recycles": 0}, {"chunk": 4})
    )
    assert np.abs(own - none).max() > 1e-3
    np.testing.assert_allclose(own, chunked, atol=1e-4)
    assert "recycles own" in loaded(weights).revision()
    assert loaded(weights, pair=False).reads == ("sequence", "chain")


def test_what_is_refused(weights):
    with pytest.raises(BadSample, match="ESMFold folds one chain"):
        loaded(weights).encode([sample(chain=np.arange(12) // 6)])
    with pytest.raises(ReedError, match=r"has \(32, 16, 24\) channels, .* are \(1024, 128, 384\)"):
        EsmFold(weights).load("cpu")
    with pytest.raises(ReedError, match="esmfold.recycles is -2 and chunk 0"):
        EsmFold(recycles=-2)
    with pytest.raises(ReedError, match="esmfold: there are no weights at .*gone"):
        EsmFold(str(Path(weights) / "gone")).load("cpu")
