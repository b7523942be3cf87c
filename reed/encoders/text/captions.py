"""Captions that a vision-language model writes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders import pretrained as pre
from reed.encoders.base import PublicWeights
from reed.encoders.image.batches import check_precision
from reed.errors import ReedError
from reed.seeding import seed_for
from reed.weights import Found, Origin

if TYPE_CHECKING:
    from PIL import Image

HUB = "Qwen/Qwen2-VL-2B-Instruct@895c3a49bc3fa70a340399125c650a463535e71c"
ENGINES = {"transformers": "images", "vllm": ""}  # name -> extra that installs it


@ENCODERS.register("captions")
@dataclass
class Captions(PublicWeights):
    """Captions: the answer of a vision-language model to a prompt about each image.

    The field ``text`` is the answer without surrounding whitespace. A sample with an empty answer
    fails. In fp32 a greedy answer does not depend on the rest of the batch; in bf16 rounding in
    another batch may lead to another word.

    Attributes:
        hub: REPOSITORY@REVISION of any model that transformers opens as image-text-to-text.
        licence: Licence of the weights; empty to look it up.
        weights: Folder with the model's files, used instead of ``hub``.
        prompt: The user's turn.
        max_new_tokens: Maximum length of an answer in tokens.
        temperature: Softmax temperature; 0 decodes greedily. Above 0 the answer is drawn with a
            seed that follows from ``seed`` and the images of the batch.
        top_p: Cumulative probability of the tokens to draw from.
        repetition_penalty: Penalty on tokens that occurred before; 1 is none.
        seed: Seed of drawn answers.
        engine: ``transformers`` or ``vllm``, see VllmEngine.
        precision: ``bf16``, ``fp32`` or ``tf32``, of the weights too.
        batch_size: Images per call of ``encode``.
    """

    libraries, extra = ("transformers",), "images"

    hub: str = HUB
    licence: str = ""
    weights: str | None = None
    prompt: str = "Describe this image."
    max_new_tokens: int = 200
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    engine: str = "transformers"
    precision: str = "bf16"
    batch_size: int = 32

    name = "captions"
    reads = ("image",)
    fields = (Field("text", "text", (), "utf8"),)

    def __post_init__(self) -> None:
        pre.one_of("engine", self.engine, list(ENGINES))
        check_precision("captions", self.precision)
        self.licence = self.licence or pre.licence_of(self.hub)
        least = {"max_new_tokens": 1, "temperature": 0, "top_p": 0, "repetition_penalty": 0}
        for name, bound in least.items():
            if (value := getattr(self, name)) < bound:
                raise ReedError(f"{name} = {value} of the captions: use {bound} or more")

    @property
    def origin(self) -> Origin:
        """Location of the public weights."""
        return pre.origin_of(self.hub)

    def revision(self) -> str:
        """Return the weights, the settings of decoding, and the library."""
        drawn = f"temperature={self.temperature} top_p={self.top_p} seed={self.seed}"
        return (
            f"{pre.fingerprint(self._find())} {pre.version(self.engine, ENGINES[self.engine])} "
            f"{self.precision} prompt={self.prompt!r} max_new_tokens={self.max_new_tokens} "
            f"{drawn if self.temperature else 'greedy'} "
            f"repetition_penalty={self.repetition_penalty} "
            "left-padded, trimmed by input length, special tokens skipped"
        )

    def load(self, device: str) -> None:
        """Load the processor, and the model in the chosen engine."""
        found = self._find()
        self._processor = pre.open_part("AutoProcessor", found.folder)
        engine = VllmEngine if self.engine == "vllm" else TransformersEngine
        self._generate = engine(self, found, self._processor, device)
        content = [{"type": "image"}, {"type": "text", "text": self.prompt}]
        self._turn = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one caption per image.

        Raises:
            BadSample: A caption is empty, or an image is not uint8 [H, W, 3].
        """
        images = pre.pictures(samples)
        captions = [text.strip() for text in self._generate(self._turn, images)]
        if not all(captions):
            raise BadSample(f"{self.hub} wrote an empty caption")
        return {"text": captions}

    def seed_of(self, images: Sequence[Image.Image]) -> int:
        """Return the seed of the answers to some images, on whose pixels it depends."""
        digest = hashlib.sha256()
        for image in images:
            digest.update(f"{image.size}".encode() + image.tobytes())
        return seed_for(self.seed, "captions", digest.hexdigest())


class TransformersEngine:
    """Batched, left-padded generation in this process.

    The decoding settings of a model (generation_config.json) are ignored, except for the tokens
    that end an answer.
    """

    def __init__(self, settings: Captions, found: Found, processor: Any, device: str) -> None:
        from transformers import GenerationConfig

        self._settings, self._processor, self._device = settings, processor, device
        model = pre.open_model("AutoModelForImageTextToText", found, settings.precision)
        self._model = model.to(device)

        # A model's own defaults may draw or penalise: the settings of the column decide alone.
        drawn = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        tokens = processor.tokenizer
        end = self._model.generation_config.eos_token_id
        self._model.generation_config = GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            do_sample=settings.temperature > 0,
            repetition_penalty=settings.repetition_penalty,
            eos_token_id=tokens.eos_token_id if end is None else end,
            pad_token_id=tokens.pad_token_id,
            **(drawn if settings.temperature > 0 else {}),
        )

    def __call__(self, turn: str, images: Sequence[Image.Image]) -> list[str]:
        """Return the answer to one turn about each image, without turn and special tokens."""
        import torch

        # Padding on the left, so that every answer starts at the same position.
        inputs = self._processor(
            text=[turn] * len(images),
            images=list(images),
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self._device)

        # The generator is forked, so that the seed leaves that of the process alone.
        device = torch.device(self._device)
        forked = [] if device.type == "cpu" else [device]
        fork = torch.random.fork_rng(forked)
        with pre.running(self._device, self._settings.precision), fork:
            torch.manual_seed(self._settings.seed_of(images))
            tokens = self._model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        return self._processor.batch_decode(tokens, skip_special_tokens=True)


class VllmEngine:
    """Generation in vLLM, which schedules and batches on its own.

    It has been tested against a stand-in only. Greedy captions may differ from those of
    transformers in a few words, because the kernels round differently. The version of vLLM is part
    of the revision.
    """

    def __init__(self, settings: Captions, found: Found, processor: Any, device: str) -> None:
        pre.version("vllm", ENGINES["vllm"])
        import vllm

        self._settings, self._sampling = settings, vllm.SamplingParams
        dtype = "bfloat16" if settings.precision == "bf16" else "float32"
        self._model = vllm.LLM(
            model=str(found.folder), dtype=dtype, seed=0, limit_mm_per_prompt={"image": 1}
        )

    def __call__(self, turn: str, images: Sequence[Image.Image]) -> list[str]:
        """Return the answer to one turn about each image, without turn and special tokens."""
        chosen = self._settings
        requests = [{"prompt": turn, "multi_modal_data": {"image": image}} for image in images]

        # Each image has a seed of its own, because vLLM chooses the batches.
        sampling = [
            self._sampling(
                max_tokens=chosen.max_new_tokens,
                temperature=chosen.temperature,
                top_p=chosen.top_p,
                repetition_penalty=chosen.repetition_penalty,
                seed=chosen.seed_of([image]),
            )
            for image in images
        ]
        answers = self._model.generate(requests, sampling, use_tqdm=False)
        return [answer.outputs[0].text for answer in answers]
