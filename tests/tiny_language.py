"""Small random models in the files of the real ones: Qwen2-VL, CLIP, T5, a BERT encoder.

Test modules run this file with runpy. Each function writes a folder that the encoders open with
the code that opens the real weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

TEXTS = ["a dog and a cat on the mat", "Describe this image.", "A red car in front of a house."]
CONTROL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# What Qwen2-VL's template writes for one system, user and assistant turn.
TEMPLATE = """\
{%- for m in messages %}
{%- if loop.first and m.role != 'system' %}{{ '<|im_start|>system\\n' }}
{{- 'You are a helpful assistant.<|im_end|>\\n' }}{% endif %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}
{%- if part.type == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


def images(count: int, side: int = 64) -> list[np.ndarray]:
    """Random pictures, uint8 [side, side, 3]."""
    draws = np.random.default_rng(7)
    return list(draws.integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def save(model, folder: Path) -> Path:
    """Write a model without a progress bar; returns the folder."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    return folder


def bpe(suffix: str = "", size: int = 300) -> dict:
    """The vocabulary and merges of a byte-level BPE trained on TEXTS."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=suffix))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False, end_of_word_suffix=suffix
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def qwen2_vl(folder: Path, layers: int = 3, seed: int = 0) -> Path:
    """Qwen2-VL: model, tokenizer, chat template, image and video processor."""
    from transformers import (
        Qwen2Tokenizer,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = Qwen2Tokenizer(
        **bpe(), additional_special_tokens=CONTROL[1:], eos_token="<|im_end|>"
    )
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor(), chat_template=TEMPLATE
    )
    processor.save_pretrained(folder)
    ids = dict(zip(CONTROL, tokenizer.convert_tokens_to_ids(CONTROL), strict=True))
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "rope_parameters": {"type": "mrope", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
        },
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 4,
            "mlp_ratio": 2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():  # far from zero, so that what is mixed up shows
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return save(model, folder)


def clip_text(folder: Path) -> Path:
    """A whole CLIP, of which the text half is used: 24 channels, 20 tokens at most."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    parts = bpe("</w>", 600)
    for token in ("<|startoftext|>", "<|endoftext|>"):
        parts["vocab"][token] = len(parts["vocab"])
    tokenizer = CLIPTokenizer(**parts, model_max_length=20)
    tokenizer.save_pretrained(folder)
    half = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    text = {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "max_position_embeddings": 20,
        "projection_dim": 24,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"num_hidden_layers": 1, "image_size": 28, "patch_size": 14}
    torch.manual_seed(1)
    config = CLIPConfig(text_config=half | text, vision_config=half | vision, projection_dim=24)
    return save(CLIPModel(config), folder)


def t5(folder: Path) -> Path:
    """A whole T5, of which the encoder is used, with a unigram tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    trained.train_from_iterator(TEXTS * 5, trainer)
    vocab = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["vocab"]]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=40)
    tokenizer.save_pretrained(folder)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    torch.manual_seed(2)
    return save(T5ForConditionalGeneration(config), folder)


def sentence(folder: Path) -> Path:
    """A BERT encoder without a pooler, as sentence encoders are stored, with WordPiece."""
    from transformers import BertConfig, BertModel, BertTokenizer

    words = sorted({word for text in TEXTS for word in text.lower().replace(".", " .").split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {token: number for number, token in enumerate([*special, *words])}
    tokenizer = BertTokenizer(vocab=vocab, model_max_length=40)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=40,
    )
    torch.manual_seed(3)
    return save(BertModel(config, add_pooling_layer=False), folder)
