"""Qwen3-Embedding and Qwen3-VL: equal to a direct call of transformers, from its own files."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from reed import config
from reed.build.shard import BadSample
from reed.encoders import ENCODERS
from reed.encoders.text.text_models import TextModel
from reed.encoders.text.vlm import VlmEmbedding
from reed.errors import ReedError

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_language.py"))))
CAPTIONS = ("a dog", "A red car.", "the mat on the house")
END = "<|endoftext|>"


def embedding_folder(folder: Path, ended: bool) -> Path:
    """A Qwen3-Embedding as the hub has it; the tokenizer ends texts by itself or does not."""
    from tokenizers.processors import TemplateProcessing
    from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

    tokenizer = Qwen2Tokenizer(
        **TINY.bpe(), additional_special_tokens=TINY.CONTROL[1:], eos_token=END, pad_token=END
    )
    if ended:
        pairs = [(END, tokenizer.convert_tokens_to_ids(END))]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"$A {END}", special_tokens=pairs
        )
    tokenizer.padding_side = "left"  # as in the public files
    tokenizer.save_pretrained(folder)
    settings = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(4)
    model = Qwen3Model(settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return TINY.save(model, folder)


@pytest.fixture(scope="module", params=[True, False], ids=["ended", "not-ended"])
def folder(request, tmp_path_factory):
    return embedding_folder(tmp_path_factory.mktemp("qwen3"), request.param)


def text_model(folder, **options) -> TextModel:
    card = ENCODERS.get("qwen3-embedding-600m").keywords["card"]
    settings = {"card": card, "weights": str(folder), "dim": 32, **options}
    encoder = config.build(TextModel, settings, "qwen3-embedding-600m")
    encoder.load("cpu")
    return encoder


def samples(*captions: str) -> list[dict]:
    return [{"captions/text": caption} for caption in captions]


def last_state(folder, caption: str) -> np.ndarray:
    """The state of the end token, from transformers itself."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    number = tokenizer.convert_tokens_to_ids(END)
    ids = [number_ for number_ in tokenizer(caption)["input_ids"] if number_ != number] + [number]
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([ids])).last_hidden_state[0, -1].numpy()


def test_a_caption_has_the_state_of_its_end_token_alone_and_in_a_batch(folder):
    encoder = text_model(folder)
    together = encoder.encode(samples(*CAPTIONS))["embedding"]
    assert together.shape == (3, 32) and together.dtype == np.float32
    for row, caption in enumerate(CAPTIONS):
        want = last_state(folder, caption)
        (alone,) = encoder.encode(samples(caption))["embedding"]
        np.testing.assert_allclose(together[row], want, rtol=0, atol=2e-5)
        np.testing.assert_allclose(alone, want, rtol=0, atol=2e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_a_cut_caption_keeps_its_end_token(folder):
    from transformers import AutoTokenizer

    long = "a dog on the mat and " * 30
    with pytest.raises(BadSample, match=r"has \d+ tokens, the model takes 64; truncate=true"):
        text_model(folder).encode(samples(long))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kept = tokenizer.decode(tokenizer(long)["input_ids"][:9])
    found = text_model(folder, truncate=True, max_tokens=10).encode(samples(long))["embedding"][0]
    np.testing.assert_allclose(found, last_state(folder, kept), rtol=0, atol=2e-5)


def test_a_tokenizer_without_the_end_token_is_refused(tmp_path):
    TINY.sentence(tmp_path)
    with pytest.raises(ReedError, match=r"has no token '<\|endoftext\|>'; give a Qwen3-Embedding"):
        text_model(tmp_path)


def qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: image features enter the first two of four layers, too."""
    from transformers import (
        Qwen2Tokenizer,
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = Qwen2Tokenizer(
        **TINY.bpe(), additional_special_tokens=TINY.CONTROL[1:], eos_token="<|im_end|>"
    )
    images = Qwen2VLImageProcessor(patch_size=16, merge_size=2)
    processor = Qwen3VLProcessor(
        images, tokenizer, Qwen3VLVideoProcessor(), chat_template=TINY.TEMPLATE
    )
    processor.save_pretrained(folder)
    ids = dict(zip(TINY.CONTROL, tokenizer.convert_tokens_to_ids(TINY.CONTROL), strict=True))
    settings = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 256,
            "pad_token_id": ids[END],
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
                "rope_theta": 1e6,
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return TINY.save(model, folder)


@pytest.fixture(scope="module")
def vision_folder(tmp_path_factory):
    return qwen3_vl(tmp_path_factory.mktemp("qwen3-vl"))


@pytest.mark.parametrize("layer", [1, 2, 3, 4])
@pytest.mark.parametrize("span", ["all", "image"])
def test_a_dialogue_has_the_mean_of_the_whole_models_states(vision_folder, layer, span):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    card = ENCODERS.get("qwen3-vl-8b").keywords["card"]
    options = {"card": card, "weights": str(vision_folder), "dim": 32, "layer": layer}
    options |= {"precision": "fp32", "span": span}
    encoder = config.build(VlmEmbedding, options, "qwen3-vl-8b")
    encoder.load("cpu")
    pictures = [TINY.images(2, side)[n] for n, side in enumerate((64, 128))]
    pairs = zip(pictures, CAPTIONS, strict=False)
    rows = [{"image": image, "captions/text": caption} for image, caption in pairs]
    found = encoder.encode(rows)["embedding"]

    processor = AutoProcessor.from_pretrained(vision_folder)
    model = AutoModelForImageTextToText.from_pretrained(vision_folder, dtype=torch.float32)
    # What enters the layer: transformers' own list of hidden states lacks, for the first layers,
    # the image features that are added after them.
    entering = []
    following = [*model.model.language_model.layers, model.lm_head][layer]
    following.register_forward_pre_hook(
        lambda _, args, named: entering.append(args[0] if args else named["hidden_states"]),
        with_kwargs=True,
    )
    for row, vector in zip(rows, found, strict=True):
        text = encoder._dialogue(row["captions/text"])
        image = Image.fromarray(row["image"])
        inputs = processor(text=[text], images=[image], return_tensors="pt")
        with torch.no_grad():
            model(**inputs)
        states = entering.pop()[0]
        is_image = inputs["input_ids"][0] == model.config.image_token_id
        assert is_image.sum() in (4, 16) and len(model.model.language_model.layers) == 4
        kept = states[is_image] if span == "image" else states
        np.testing.assert_allclose(vector, kept.mean(0), rtol=0, atol=2e-5)


def test_what_is_known_without_loading():
    dims = {name: ENCODERS.get(name)().fields[0].shape for name in ENCODERS.names()}
    assert {n: s for n, s in dims.items() if n.startswith("qwen3")} == {
        "qwen3-embedding-600m": (1024,),
        "qwen3-embedding-4b": (2560,),
        "qwen3-embedding-8b": (4096,),
        "qwen3-vl-2b": (2048,),
        "qwen3-vl-4b": (2560,),
        "qwen3-vl-8b": (4096,),
    }
    for name in ("qwen3-embedding-8b", "qwen3-vl-8b"):
        encoder = ENCODERS.get(name)()
        assert encoder.name == name and encoder.licence == "Apache-2.0"
    assert ENCODERS.get("qwen3-embedding-600m")().origin.repo == "Qwen/Qwen3-Embedding-0.6B"
    assert ENCODERS.get("qwen3-vl-8b")().layer == 19 and ENCODERS.get("qwen2-vl-7b")().layer == 15
