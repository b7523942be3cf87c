"""ESMFold with small random weights: equal to transformers, at the neighbours, read by others."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from reed.build.shard import BadSample
from reed.encoders.protein.chain import neighbours
from reed.encoders.protein.esmfold import EsmFold
from reed.errors import ReedError

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_weights.py"))))
SEQUENCE = "MKTAYIAKQRQX"
SIZES = TINY.FOLD_SIZES


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A folder as the hub has it."""
    return str(TINY.esmfold(tmp_path_factory.mktemp("fold")))


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
        "coords": want.positions[-1, 0, :, :4],
        "plddt": want.plddt[0, :, 1] * 100,
        "single": want.s_s[0],
        "structure": want.states[-1, 0],
        "pair": pairs,
    }
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
