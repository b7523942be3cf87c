"""Embeddings of an image and its caption, which a vision-language model reads together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders import pretrained as pre
from reed.encoders.base import PublicWeights
from reed.encoders.image.batches import check_precision
from reed.errors import ReedError
from reed.weights import Origin

if TYPE_CHECKING:
    import torch

SPANS = ("all", "caption", "image")
PARITIES = ("", "reed")


@dataclass(frozen=True)
class Card:
    """One public model.

    Attributes:
        name: Name in the registry.
        hub: Default repository of the weights.
        dim: Channels of a hidden state.
        layer: Default number of the hidden state.
    """

    name: str
    hub: str
    dim: int
    layer: int


# REED takes the state that enters layer 15 of 28; that of larger models is as far up.
CARDS = (
    Card(
        "qwen2-vl-7b",
        "Qwen/Qwen2-VL-7B-Instruct@eed13092ef92e448dd6875b2a00151bd3f7db0ac",
        3584,
        15,
    ),
    Card("qwen3-vl-2b", "Qwen/Qwen3-VL-2B-Instruct", 2048, 15),
    Card("qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct", 2560, 19),
    Card("qwen3-vl-8b", "Qwen/Qwen3-VL-8B-Instruct", 4096, 19),
)


@dataclass
class VlmEmbedding(PublicWeights):
    """Mean hidden state of one layer over a dialogue of image, prompt and caption.

    The field ``embedding`` [dim] is stored as float16. Values beyond its range are refused; you
    can choose the codec float32 instead. The mean is computed in float32 and never includes
    padding.

    Attributes:
        card: The default model.
        hub: REPOSITORY@REVISION of any model that transformers opens as image-text-to-text; empty
            for that of the card.
        licence: Licence of the weights; empty to look it up.
        weights: Folder with the model's files, used instead of ``hub``.
        dim: Channels of a hidden state; 0 for those of the card.
        layer: Number of the hidden state. 0 is the embedding; the last one is after the final norm.
            None for that of the card.
        span: Tokens to average: ``all`` of the dialogue, with its headers and the model's own
            system turn, or those of the ``caption`` or the ``image`` alone.
        parity: ``reed`` ends the dialogue with an empty assistant header, as the public REED code
            does, and so reproduces its mean over all tokens at batch size one.
        prompt: The user's turn.
        captions: Field of the captions, COLUMN/FIELD.
        precision: ``bf16``, ``fp32`` or ``tf32``, of the weights too.
        batch_size: Samples per call of ``encode``.
    """

    libraries, extra = ("transformers",), "images"

    card: Card = CARDS[0]
    hub: str = ""
    licence: str = ""
    weights: str | None = None
    dim: int = 0
    layer: int | None = None
    span: str = "all"
    parity: str = ""
    prompt: str = "Describe this image."
    captions: str = "captions/text"
    precision: str = "bf16"
    batch_size: int = 16

    def __post_init__(self) -> None:
        pre.one_of("span", self.span, SPANS)
        pre.one_of("parity", self.parity, PARITIES)
        check_precision(self.card.name, self.precision)
        self.hub, self.dim = self.hub or self.card.hub, self.dim or self.card.dim
        self.layer = self.card.layer if self.layer is None else self.layer
        self.licence = self.licence or pre.licence_of(self.hub)
        if self.parity and self.span != "all":
            raise ReedError(f"parity {self.parity!r} needs the span 'all', got {self.span!r}")

    @property
    def reads(self) -> tuple[str, ...]:
        """The image and the field of the captions."""
        return ("image", self.captions)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The single field ``embedding``."""
        return (Field("embedding", "sample", (self.dim,), "float16"),)

    @property
    def origin(self) -> Origin:
        """Location of the public weights."""
        return pre.origin_of(self.hub)

    @property
    def name(self) -> str:
        """Name of the encoder, from its card."""
        return self.card.name

    def revision(self) -> str:
        """Return the weights, the library, the dialogue, the layer and the averaged tokens."""
        parity = f"parity={self.parity} (empty assistant header, as public code at batch size one) "
        return (
            f"{pre.fingerprint(self._find())} {pre.version('transformers')} {self.precision} "
            f"prompt={self.prompt!r} layer={self.layer} span={self.span} without padding "
            f"{parity if self.parity else ''}float32 mean"
        )

    def load(self, device: str) -> None:
        """Load the processor, and the layers up to ``layer`` onto ``device``.

        Raises:
            ReedError: The model has no image tokens, no such layer or other channels.
        """
        found = self._find()
        config = pre.open_part("AutoConfig", found.folder)
        text = config.get_text_config()
        self._check(config, text, found.folder)

        self._image, self._limit = config.image_token_id, text.max_position_embeddings
        self._processor = pre.open_part("AutoProcessor", found.folder)
        self._processor.tokenizer.padding_side = "right"
        self._header = self._dialogue()
        self._control = tuple(self._processor.tokenizer.get_added_vocab())

        # Layers above the chosen one are dropped before the model moves to the device.
        model = pre.open_model("AutoModel", found, self.precision)
        assert self.layer is not None, "__post_init__ has set it"
        _cut(model.get_decoder(), self.layer, text.num_hidden_layers)
        self._model, self._device = model.to(device), device

    def _check(self, config: Any, text: Any, folder: Path) -> None:
        """Compare the settings with the model's configuration, before gigabytes are read."""
        if getattr(config, "image_token_id", None) is None:
            problem = f"{folder} holds a {config.model_type}, which has no image tokens"
            raise ReedError(f"{problem}; use a vision-language model")
        if text.hidden_size != self.dim:
            problem = f"{folder} has hidden states of {text.hidden_size} channels"
            raise ReedError(f"{problem}, dim is {self.dim}; set dim={text.hidden_size}")
        if self.layer is None or not 0 <= self.layer <= text.num_hidden_layers:
            problem = f"{folder} has {text.num_hidden_layers} layers, layer is {self.layer}"
            raise ReedError(f"{problem}; use 0 (the embedding) to {text.num_hidden_layers}")

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``embedding`` [B, dim], float32.

        Raises:
            BadSample: An image is not uint8 [H, W, 3], a caption is empty or contains the text of
                a control token, or the dialogue is too long.
        """
        images = pre.pictures(samples)
        captions = pre.captions_of(samples, self.captions)
        self._refuse_control(captions)
        texts = [self._dialogue(caption) for caption in captions]
        inputs = self._processor(text=texts, images=images, padding=True, return_tensors="pt")
        longest = int(inputs["attention_mask"].sum(1).max())
        if longest > self._limit:
            raise BadSample(f"the dialogue has {longest} tokens, the model takes {self._limit}")
        keep = self._kept(inputs, texts, captions).to(self._device)
        with pre.running(self._device, self.precision):
            states = self._model(**inputs.to(self._device), use_cache=False).last_hidden_state
        return {"embedding": pre.masked_mean(states, keep)}

    def _refuse_control(self, captions: Sequence[str]) -> None:
        for caption in captions:
            for token in self._control:
                if token in caption:
                    raise BadSample(f"the caption has the text of the control token {token!r}")

    def _dialogue(self, *answer: str) -> str:
        """Return the dialogue as text; without an answer, up to the assistant's header."""
        content = [{"type": "image"}, {"type": "text", "text": self.prompt}]
        turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
        turns += [{"role": "assistant", "content": [{"type": "text", "text": a}]} for a in answer]
        return self._processor.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=bool(self.parity) or not answer
        )

    def _kept(self, inputs: Any, texts: list[str], captions: list[str]) -> torch.Tensor:
        """Return the mask of the tokens to average, bool [B, T]."""
        import torch

        real = inputs["attention_mask"].bool()
        if self.span == "all":
            return real
        if self.span == "image":
            return real & (inputs["input_ids"] == self._image)

        # Counted from the end, because an image is one token in the text and many in the input.
        spans = [self._from_end(*pair) for pair in zip(texts, captions, strict=True)]
        first, last = torch.tensor(spans).T.unsqueeze(-1)  # [B, 1] each
        to_come = real.sum(1, keepdim=True) - real.cumsum(1)
        return real & (to_come <= first) & (to_come >= last)

    def _from_end(self, text: str, caption: str) -> tuple[int, int]:
        """Count the tokens that follow the first and the last token of the caption."""
        start = len(self._header)
        if not text.startswith(self._header + caption):
            problem = f"the chat template of {self.hub} changes the caption or its header"
            raise ReedError(f"{problem}, so the span 'caption' is unknown; use 'all' or 'image'")

        # A token belongs to the caption if it shares a character with it.
        offsets = self._processor.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )["offset_mapping"]
        end = start + len(caption)
        inside = [n for n, (begin, stop) in enumerate(offsets) if begin < end and stop > start]
        return len(offsets) - 1 - inside[0], len(offsets) - 1 - inside[-1]


def _cut(decoder: Any, layer: int, layers: int) -> None:
    """Make a decoder end with the hidden state that enters ``layer``, counted from 0.

    Its last output is then that state, and the layers above cost neither time nor memory. The
    features of the image encoder that Qwen3-VL adds to the output of its first layers are included.
    """
    import torch

    if layer < layers:
        decoder.layers = decoder.layers[:layer]
        decoder.norm = torch.nn.Identity()


for _card in CARDS:
    ENCODERS.register(_card.name)(partial(VlmEmbedding, card=_card))
