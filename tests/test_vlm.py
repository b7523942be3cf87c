"""Embeddings of image and caption: the right tokens, whatever else is in the batch."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from reed import config
from reed.build import shard
from reed.build.shard import BadSample
from reed.cache import reader
from reed.encoders import ENCODERS
from reed.encoders.text.captions import Captions
from reed.encoders.text.vlm import VlmEmbedding
from reed.errors import ReedError

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_language.py"))))
CAPTIONS = ("a dog", "e", "A red car in front of a house, and a cat on the mat.")
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
PROMPT = "Describe this image.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return TINY.qwen2_vl(tmp_path_factory.mktemp("qwen2-vl"))


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of the model's folder that a test may change."""
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def samples():
    """Captions of three lengths, images of two sizes: every row but one is padded."""
    pictures = [TINY.images(3, side)[n] for n, side in enumerate((64, 112, 64))]
    pairs = zip(pictures, CAPTIONS, strict=True)
    return [{"image": picture, "captions/text": caption} for picture, caption in pairs]


def made(folder, **options) -> VlmEmbedding:
    settings = {"weights": str(folder), "dim": 32, "layer": 2, "precision": "fp32", **options}
    return config.build(VlmEmbedding, settings, "qwen2-vl-7b")


def loaded(folder, **options) -> VlmEmbedding:
    encoder = made(folder, **options)
    encoder.load("cpu")
    return encoder


def by_hand(folder, sample, layer: int, tail: str = ""):
    """The hidden states [T, C] and the tokens [T] of one dialogue, from the whole model."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    vision = "<|vision_start|><|image_pad|><|vision_end|>"
    text = f"{SYSTEM}{vision}{PROMPT}{sample['captions/text']}<|im_end|>\n{tail}"
    inputs = processor(
        text=[text], images=[Image.fromarray(sample["image"])], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == 4
    return states[layer][0], inputs["input_ids"][0], processor.tokenizer


def caption_tokens(tokens, tokenizer) -> slice:
    """Between the last header of the assistant and the token that ends its turn."""
    start, end, line = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "Ċ"])
    first = int((tokens == start).nonzero()[-1])
    first += int((tokens[first:] == line).nonzero()[0]) + 1
    return slice(first, int((tokens == end).nonzero()[-1]))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("span", ["all", "caption", "image"])
def test_batch_of_one_equals_padded_batch(folder, samples, span, side):
    encoder = loaded(folder, span=span)
    encoder._processor.tokenizer.padding_side = side
    together = encoder.encode(samples)["embedding"]
    assert together.shape == (3, 32) and together.dtype == np.float32
    for row, sample in enumerate(samples):
        (alone,) = encoder.encode([sample])["embedding"]
        np.testing.assert_allclose(together[row], alone, rtol=0, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_each_layer_and_span_equals_a_mean_by_hand(folder, samples, layer):
    found = {
        span: loaded(folder, span=span, layer=layer).encode(samples)["embedding"]
        for span in ("all", "caption", "image")
    }
    for row, sample in enumerate(samples):
        states, tokens, tokenizer = by_hand(folder, sample, layer)
        inside = caption_tokens(tokens, tokenizer)
        assert tokenizer.decode(tokens[inside]) == sample["captions/text"]
        image = tokens == tokenizer.convert_tokens_to_ids("<|image_pad|>")
        assert image.sum() == (4 if row != 1 else 16)
        want = {"all": states, "caption": states[inside], "image": states[image]}
        for span, chosen in want.items():
            np.testing.assert_allclose(found[span][row], chosen.mean(0), rtol=0, atol=1e-5)


def test_parity_equals_the_public_pooling_at_batch_size_one(folder, samples):
    encoder = loaded(folder, parity="reed")
    together = encoder.encode(samples)["embedding"]
    for row, sample in enumerate(samples):
        states, _, _ = by_hand(folder, sample, 2, tail="<|im_start|>assistant\n")
        np.testing.assert_allclose(together[row], states.mean(0), rtol=0, atol=1e-5)
    plain = loaded(folder)
    assert np.abs(plain.encode(samples)["embedding"] - together).max() > 0.001
    assert "parity=reed (empty assistant header" in encoder.revision()
    assert "parity" not in plain.revision()


def test_the_dialogue_has_no_second_assistant_header(folder):
    encoder = loaded(folder)
    vision = "<|vision_start|><|image_pad|><|vision_end|>"
    assert encoder._dialogue("a dog") == f"{SYSTEM}{vision}{PROMPT}a dog<|im_end|>\n"


def test_the_layers_above_are_dropped(folder):
    decoder = loaded(folder, layer=1)._model.get_decoder()
    assert len(decoder.layers) == 1
    assert len(loaded(folder, layer=3)._model.get_decoder().layers) == 3


def test_captions_are_trimmed(folder, samples):
    encoder = loaded(folder, span="caption")
    padded = [{**samples[0], "captions/text": "\n a dog \n"}]
    np.testing.assert_array_equal(
        encoder.encode(padded)["embedding"], encoder.encode(samples[:1])["embedding"]
    )


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        (" \n", "the caption is empty"),
        ("a <|image_pad|> dog", r"the text of the control token '<\|image_pad\|>'"),
        ("a dog " * 200, r"the dialogue has \d+ tokens, the model takes 256"),
    ],
)
def test_a_caption_that_cannot_be_read_is_a_bad_sample(folder, samples, caption, message):
    with pytest.raises(BadSample, match=message):
        loaded(folder).encode([{**samples[0], "captions/text": caption}])


def test_what_is_known_without_loading():
    encoder = ENCODERS.get("qwen2-vl-7b")()
    (field,) = encoder.fields
    assert (field.shape, field.kind, field.codec) == ((3584,), "sample", "float16")
    assert encoder.reads == ("image", "captions/text") and encoder.licence == "Apache-2.0"
    assert (encoder.layer, encoder.span, encoder.parity) == (15, "all", "")
    other = config.build(VlmEmbedding, {"captions": "mine/text", "hub": "me/my-vlm"}, "x")
    assert other.reads == ("image", "mine/text") and other.licence == "as stated for me/my-vlm"
    assert (other.origin.repo, other.origin.revision) == ("me/my-vlm", "main")
    assert config.build(VlmEmbedding, {"licence": "MIT"}, "x").licence == "MIT"


@pytest.mark.parametrize(
    "change",
    [
        {"layer": 1},
        {"span": "image"},
        {"parity": "reed"},
        {"prompt": "What?"},
        {"precision": "bf16"},
    ],
)
def test_revision_holds_what_the_embedding_depends_on(folder, change):
    assert made(folder, **change).revision() != made(folder).revision()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 64}, "has hidden states of 32 channels, dim is 64; set dim=32"),
        ({"layer": 4}, "has 3 layers, layer is 4; use 0 .* to 3"),
        ({"layer": -1}, "has 3 layers, layer is -1"),
        ({"span": "captions"}, "unknown span 'captions'. Did you mean 'caption'"),
        ({"parity": "red"}, "unknown parity 'red'. Did you mean 'reed'"),
        ({"parity": "reed", "span": "image"}, "parity 'reed' needs the span 'all', got 'image'"),
        ({"precision": "half"}, "qwen2-vl-7b.precision cannot be 'half'"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder, options, message):
    with pytest.raises(ReedError, match=message):
        loaded(folder, **options)


def test_a_model_without_images_is_refused(tmp_path):
    TINY.sentence(tmp_path)
    with pytest.raises(ReedError, match="holds a bert, which has no image tokens"):
        loaded(tmp_path)


def test_a_template_that_changes_the_caption_is_refused(copied, samples):
    template = copied / "chat_template.jinja"
    template.write_text(template.read_text().replace("part.text", "part.text | upper"))
    assert loaded(copied).encode(samples[:1])["embedding"].shape == (1, 32)
    with pytest.raises(ReedError, match="chat template of .* use 'all' or 'image'"):
        loaded(copied, span="caption").encode(samples[:1])


def test_without_files_or_network_one_line_says_what_to_put_where(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for act in (VlmEmbedding().prefetch, lambda: VlmEmbedding().load("cpu")):
        with pytest.raises(ReedError, match="Qwen/Qwen2-VL-7B-Instruct") as error:
            act()
        assert "qwen2-vl-7b.weights=" in str(error.value) and "\n" not in str(error.value)


def test_a_config_that_does_not_parse_is_refused_in_one_line(copied):
    (copied / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(ReedError, match="cannot open .* as AutoConfig") as error:
        loaded(copied)
    assert "\n" not in str(error.value)


def test_embeddings_are_built_from_the_captions_in_the_cache(fakes, folder, tmp_path):
    class Images(fakes.Source):
        entries = ("image",)

        def read(self, key, view=0):
            return {"image": TINY.images(8)[self.keys.index(key)]}

    source, cache = Images(8), tmp_path / "cache"
    stored = {}
    writer = Captions(weights=str(folder), precision="fp32", max_new_tokens=6, batch_size=3)
    for name, encoder in (("captions", writer), ("qwen2-vl-7b", made(folder, batch_size=3))):
        encoder.load("cpu")
        job = fakes.job(cache, name, source, encoder)
        shard.build_shard(job, 0)
        records = reader.records(cache, job.column, 0, list(job.column.fields), job.state)
        stored[name] = {key: next(iter(values.values())) for key, values in records}
    assert len(stored["captions"]) == 8
    for key, vector in stored["qwen2-vl-7b"].items():
        sample = source.read(key) | {"captions/text": stored["captions"][key]}
        want = encoder.encode([sample])["embedding"][0]
        np.testing.assert_allclose(vector, want, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_embeddings(folder, samples):
    encoder = made(folder, span="caption")
    encoder.load("cuda")
    want = loaded(folder, span="caption").encode(samples)["embedding"]
    np.testing.assert_allclose(encoder.encode(samples)["embedding"], want, rtol=0, atol=1e-4)
