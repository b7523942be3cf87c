"""Plain text encoders: equal to a direct call, whatever else is in the batch."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reed import config
from reed.build.shard import BadSample
from reed.encoders import ENCODERS
from reed.encoders.text.text_models import TextModel
from reed.errors import ReedError

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_language.py"))))
DIMS = {"clip-text": 24, "t5": 32, "sentence": 32}
WRITE = {"clip-text": TINY.clip_text, "t5": TINY.t5, "sentence": TINY.sentence}
CAPTIONS = ("a dog", "A red car.", "the mat on the house")
LONG = "a dog on the mat and " * 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITE.items()}


@pytest.fixture(params=list(DIMS))
def name(request):
    return request.param


def made(folders, name, **options) -> TextModel:
    settings = {"weights": str(folders[name]), "dim": DIMS[name], **options}
    settings["card"] = ENCODERS.get(name).keywords["card"]
    return config.build(TextModel, settings, name)


def loaded(folders, name, **options) -> TextModel:
    encoder = made(folders, name, **options)
    encoder.load("cpu")
    return encoder


def samples(*captions: str) -> list[dict]:
    return [{"captions/text": caption} for caption in captions]


def direct(name: str, folder, caption: str, length: int = 1000) -> np.ndarray:
    """The vector of one caption, from transformers itself."""
    from transformers import AutoModel, AutoTokenizer, CLIPTextModelWithProjection, T5EncoderModel

    kinds = {"clip-text": CLIPTextModelWithProjection, "t5": T5EncoderModel, "sentence": AutoModel}
    inputs = AutoTokenizer.from_pretrained(folder)(
        caption, return_tensors="pt", truncation=True, max_length=length
    )
    with torch.no_grad():
        output = kinds[name].from_pretrained(folder, dtype=torch.float32)(**inputs)
    vector = output.text_embeds if name == "clip-text" else output.last_hidden_state.mean(1)
    return vector[0].numpy()


def test_each_caption_equals_a_direct_call(folders, name):
    encoder = loaded(folders, name)
    together = encoder.encode(samples(*CAPTIONS))["embedding"]
    assert together.shape == (3, DIMS[name]) and together.dtype == np.float32
    for row, caption in enumerate(CAPTIONS):
        (alone,) = encoder.encode(samples(caption))["embedding"]
        np.testing.assert_allclose(together[row], alone, rtol=0, atol=1e-5)
        want = direct(name, folders[name], caption)
        np.testing.assert_allclose(together[row], want, rtol=0, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.001


@pytest.mark.parametrize(("name", "limit"), [("clip-text", 20), ("t5", 40), ("sentence", 40)])
def test_what_is_too_long_is_cut_or_refused_as_stated(folders, name, limit):
    cutting = loaded(folders, name, truncate=True)
    (vector,) = cutting.encode(samples(LONG))["embedding"]
    want = direct(name, folders[name], LONG, limit)
    np.testing.assert_allclose(vector, want, rtol=0, atol=1e-5)
    assert "captions over the model's limit cut" in cutting.revision()
    strict = loaded(folders, name, truncate=False)
    with pytest.raises(BadSample, match=rf"has \d+ tokens, the model takes {limit}; truncate=true"):
        strict.encode(samples(CAPTIONS[0], LONG))
    assert "captions over the model's limit refused" in strict.revision()


def test_only_clip_cuts_unless_told_otherwise(folders):
    assert [made(folders, name).truncate for name in DIMS] == [True, False, False]


def test_a_lower_limit_is_kept(folders):
    encoder = loaded(folders, "sentence", max_tokens=5, truncate=True)
    (vector,) = encoder.encode(samples("a dog and a cat on the mat"))["embedding"]
    want = direct("sentence", folders["sentence"], "a dog and")
    np.testing.assert_allclose(vector, want, rtol=0, atol=1e-5)
    assert "captions over 5 tokens cut" in encoder.revision()
    with pytest.raises(ReedError, match="captions of up to 40 tokens, max_tokens is 41; lower it"):
        loaded(folders, "sentence", max_tokens=41)


def test_dim_must_be_that_of_the_model(folders, name):
    with pytest.raises(ReedError, match=f"channels, dim is 7; set dim={DIMS[name]}"):
        loaded(folders, name, dim=7)


def test_an_empty_caption_is_a_bad_sample(folders, name):
    with pytest.raises(BadSample, match="the caption is empty"):
        loaded(folders, name).encode(samples("a dog", " "))


def test_what_is_known_without_loading(name):
    encoder = ENCODERS.get(name)()
    (field,) = encoder.fields
    assert field.shape == ({"t5": 1024}.get(name, 768),) and field.kind == "sample"
    assert encoder.reads == ("captions/text",) and encoder.licence in ("MIT", "Apache-2.0")
    assert (
        f"{encoder.origin.repo}@{encoder.origin.revision}" == encoder.hub and encoder.batch_size > 0
    )


def test_revision_holds_what_the_embedding_depends_on(folders, name):
    revisions = {made(folders, n).revision() for n in DIMS}
    assert len(revisions) == 3
    assert made(folders, name, precision="bf16").revision() not in revisions


def test_a_precision_that_is_none_is_refused(folders, name):
    with pytest.raises(ReedError, match=f"{name}.precision cannot be 'double'"):
        made(folders, name, precision="double")


def test_without_files_or_network_one_line_says_what_to_put_where(name, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    encoder = ENCODERS.get(name)()
    for act in (encoder.prefetch, lambda: encoder.load("cpu")):
        with pytest.raises(ReedError, match=f"{name}.weights=") as error:
            act()
        assert "\n" not in str(error.value)
