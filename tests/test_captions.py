"""Captions by a vision-language model, through the real loading code, and from a user's file."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reed import config
from reed.build.shard import BadSample
from reed.encoders.text.captions import Captions
from reed.errors import ReedError

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_language.py"))))
SHORT = {"precision": "fp32", "max_new_tokens": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return TINY.qwen2_vl(tmp_path_factory.mktemp("qwen2-vl"))


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of the model's folder that a test may change."""
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def samples():
    """Images of three sizes, so that a batch of them is padded."""
    return [{"image": TINY.images(1, side)[0]} for side in (64, 112, 84)]


def loaded(folder, **options):
    encoder = config.build(Captions, {"weights": str(folder), **SHORT, **options}, "captions")
    encoder.load("cpu")
    return encoder


def answer(folder, sample, **settings) -> str:
    """The caption by hand: one image, the model's own generate, the input's tokens taken off."""
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>Describe this image.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    inputs = processor(text=[text], images=[Image.fromarray(sample["image"])], return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False, **settings)
    tokens = output[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def test_captions_equal_a_direct_call_one_image_at_a_time(folder, samples):
    encoder = loaded(folder)
    together = encoder.encode(samples)["text"]
    assert together == [encoder.encode([sample])["text"][0] for sample in samples]
    assert together == [answer(folder, sample) for sample in samples]
    assert len(set(together)) == 3
    for caption in together:
        assert caption and not any(word in caption for word in ("Describe", "assistant", "<|"))


def test_decoding_settings_of_the_model_are_not_used(folder, copied, samples):
    path = copied / "generation_config.json"
    own = json.loads(path.read_text())
    drawn = {"do_sample": True, "temperature": 5.0, "top_k": 3, "repetition_penalty": 9.0}
    path.write_text(json.dumps(own | drawn))
    assert loaded(copied).encode(samples) == loaded(folder).encode(samples)
    penalised = loaded(copied, repetition_penalty=3.0).encode(samples[:1])["text"]
    assert penalised == [answer(folder, samples[0], repetition_penalty=3.0)]
    assert penalised != loaded(folder).encode(samples[:1])["text"]


def test_an_answer_ends_at_the_tokens_that_the_model_states(folder, copied, samples):
    path = copied / "generation_config.json"
    every = list(range(290))  # whatever the first token is, it ends the answer
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": every}))
    one, long = (loaded(place).encode(samples[:1])["text"][0] for place in (copied, folder))
    assert one == answer(copied, samples[0]) and long.startswith(one) and len(one) < len(long)


def test_an_empty_caption_is_a_bad_sample(folder, samples, monkeypatch):
    encoder = loaded(folder)
    monkeypatch.setattr(encoder, "_generate", lambda turn, images: [" \n"] * len(images))
    with pytest.raises(BadSample, match="wrote an empty caption"):
        encoder.encode(samples)


def test_drawn_captions_follow_from_seed_and_images(folder, samples):
    encoder = loaded(folder, temperature=1.5, top_p=0.9)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    drawn = encoder.encode(samples)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(4)
    assert encoder.encode(samples) == drawn
    other = loaded(folder, temperature=1.5, top_p=0.9, seed=1)
    assert other.encode(samples) != drawn != loaded(folder).encode(samples)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "What is this?"},
        {"max_new_tokens": 13},
        {"temperature": 0.5},
        {"repetition_penalty": 1.1},
        {"precision": "bf16"},
    ],
)
def test_revision_holds_each_decoding_setting(folder, change):
    options = {"weights": str(folder), **SHORT}
    revision = Captions(**options).revision()
    assert "greedy" in revision and f"transformers-{metadata.version('transformers')}" in revision
    assert Captions(**options | change).revision() != revision


def test_revision_follows_weights_and_settings_files_not_the_folder(folder, copied):
    assert Captions(weights=str(copied)).revision() == Captions(weights=str(folder)).revision()
    (copied / "chat_template.jinja").write_text("another")
    assert Captions(weights=str(copied)).revision() != Captions(weights=str(folder)).revision()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "vlm"}, "unknown engine 'vlm'. Did you mean 'vllm'"),
        ({"precision": "fp64"}, "captions.precision cannot be 'fp64'"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0 of the captions: use 1 or more"),
        ({"temperature": -1.0}, "temperature = -1.0 of the captions: use 0 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ReedError, match=message):
        Captions(**options)


@pytest.mark.parametrize("image", [np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_what_is_no_picture_is_a_bad_sample(folder, image):
    with pytest.raises(BadSample, match=r"the image is .* takes uint8 \[H, W, 3\]"):
        loaded(folder).encode([{"image": image}])


def test_without_files_or_network_one_line_says_what_to_put_where(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for act in (Captions().revision, Captions().prefetch, lambda: Captions().load("cpu")):
        with pytest.raises(ReedError, match="Qwen/Qwen2-VL-2B-Instruct") as error:
            act()
        assert "captions.weights=" in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_lacks_weights_or_is_broken_is_refused(copied):
    path = copied / "model.safetensors"
    tensors = load_file(path)
    taken = next(name for name in sorted(tensors) if "mlp" in name)
    del tensors[taken]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ReedError, match=r"lacks 1 weights of Qwen2VL.*restore its files"):
        loaded(copied)
    path.write_text("<!DOCTYPE html>")
    with pytest.raises(ReedError, match="is a web page"):
        loaded(copied)
    (copied / "tokenizer.json").write_text("{")
    with pytest.raises(ReedError, match="cannot open .* as AutoProcessor") as error:
        loaded(copied)
    assert "\n" not in str(error.value)


def test_a_library_that_is_not_installed_is_named(folder):
    with pytest.raises(
        ReedError, match="needs vllm, which is not installed; .*: pip install vllm$"
    ):
        loaded(folder, engine="vllm")


def test_vllm_gets_prompt_images_and_settings(folder, samples, monkeypatch):
    """Against a stand-in with the calls of vLLM that are used; the real one needs its GPU."""
    seen = {}

    class Model:
        def __init__(self, **options):
            seen["model"] = options

        def generate(self, requests, sampling, use_tqdm):
            seen.update(requests=requests, sampling=sampling)
            outputs = [SimpleNamespace(text=f" caption {n}\n") for n in range(len(requests))]
            return [SimpleNamespace(outputs=[output]) for output in outputs]

    stand_in = types.ModuleType("vllm")
    stand_in.LLM, stand_in.SamplingParams = Model, dict
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    known = metadata.version
    monkeypatch.setattr(metadata, "version", lambda n: "9.9" if n == "vllm" else known(n))
    encoder = loaded(folder, engine="vllm")
    assert encoder.encode(samples)["text"] == ["caption 0", "caption 1", "caption 2"]
    assert seen["model"]["model"] == str(folder) and seen["model"]["dtype"] == "float32"
    assert seen["sampling"][0]["max_tokens"] == 12 and seen["sampling"][0]["temperature"] == 0
    assert seen["requests"][1]["multi_modal_data"]["image"].size == (112, 112)
    assert seen["requests"][0]["prompt"].endswith("<|im_start|>assistant\n")
    assert "vllm-9.9" in encoder.revision() and "transformers" not in encoder.revision()


def test_importing_the_modules_imports_no_model_library():
    code = (
        "import sys, reed.encoders.text.captions, reed.encoders.text.caption_file\n"
        "import reed.encoders.text.vlm\n"
        "import reed.encoders.text.text_models\n"
        "names = ('torch', 'transformers', 'PIL', 'pyarrow', 'vllm', 'huggingface_hub')\n"
        "print([name for name in names if name in sys.modules])"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip() == "[]"
