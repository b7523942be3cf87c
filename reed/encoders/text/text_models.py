"""Text encoders of captions: CLIP, T5, sentence encoders and Qwen3-Embedding."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders import pretrained as pre
from reed.encoders.base import PublicWeights
from reed.encoders.image.batches import check_precision
from reed.errors import ReedError
from reed.weights import Origin

# Families in which padding changes the states of real tokens: layers reach over it or do not read
# the mask (cpmant). Only captions that are equally long are encoded together.
UNPADDED = frozenset("convbert cpmant fnet funnel mobilebert nystromformer yoso".split())
# Families whose vectors were wrong in the first version, so that their columns have to be new.
CORRECTED = UNPADDED | {"umt5"}
UNLIMITED = 1 << 30  # tokens; some tokenizers state 1e30, which is too large a length to pass on


@dataclass(frozen=True)
class Card:
    """What differs between the families of text encoders.

    Attributes:
        name: Name in the registry.
        hub: Default repository of the weights.
        dim: Channels of the default model.
        kind: Class of transformers.
        pool: Function from output and attention mask to float32 [B, dim].
        pooling: Description of ``pool``, for the revision.
        truncate: Whether captions over the model's limit are cut by default.
        end: Token that ends every caption, for models whose tokenizer may leave it out.
    """

    name: str
    hub: str
    dim: int
    kind: str
    pool: Callable[[Any, Any], np.ndarray]
    pooling: str
    truncate: bool
    end: str = ""


def _projected(output: Any, mask: Any) -> np.ndarray:
    return output.text_embeds.float().cpu().numpy()


def _mean(output: Any, mask: Any) -> np.ndarray:
    return pre.masked_mean(output.last_hidden_state, mask.bool())


def _kind(folder: Path) -> str:
    """Return the family of the model in a folder, as its configuration says it."""
    try:
        return str(json.loads((folder / "config.json").read_text())["model_type"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""  # opening the model says what is wrong with its files


def _last(output: Any, mask: Any) -> np.ndarray:
    """Return the state of the last real token; padding is on the right."""
    rows = output.last_hidden_state[range(len(mask)), mask.sum(1) - 1]
    return rows.float().cpu().numpy()


@dataclass
class TextModel(PublicWeights):
    """One vector per caption from a frozen text encoder.

    The field ``embedding`` [dim] is not normalised, and does not depend on the rest of the batch.

    Attributes:
        card: The family of the model.
        hub: REPOSITORY@REVISION; empty for that of the card.
        licence: Licence of the weights; empty to look it up.
        weights: Folder with the model's files, used instead of ``hub``.
        dim: Channels of the model; 0 for those of the card.
        captions: Field of the captions, COLUMN/FIELD.
        max_tokens: Maximum length of a caption with its special tokens; 0 for the model's limit.
        truncate: Whether to cut longer captions; without it such samples fail. None for the
            default of the card.
        precision: ``fp32``, ``tf32`` or ``bf16``, of the weights too.
        batch_size: Captions per call of ``encode``.
    """

    libraries, extra = ("transformers",), "images"

    card: Card
    hub: str = ""
    licence: str = ""
    weights: str | None = None
    dim: int = 0
    captions: str = "captions/text"
    max_tokens: int = 0
    truncate: bool | None = None
    precision: str = "fp32"
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_precision(self.card.name, self.precision)
        self.hub = self.hub or self.card.hub
        self.licence = self.licence or pre.licence_of(self.hub)
        self.dim = self.dim or self.card.dim
        if self.truncate is None:
            self.truncate = self.card.truncate

    @property
    def reads(self) -> tuple[str, ...]:
        """The field of the captions."""
        return (self.captions,)

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
        """Return the weights, the pooling, the treatment of long captions, and the library."""
        found = self._find()
        end = "cut" if self.truncate else "refused"
        end += ", corrected" if _kind(found.folder) in CORRECTED else ""
        limit = f"{self.max_tokens} tokens" if self.max_tokens else "the model's limit"
        version = f"{pre.fingerprint(found)} {pre.version('transformers')} {self.precision}"
        return f"{version} {self.card.pooling}, captions over {limit} {end}"

    def load(self, device: str) -> None:
        """Load the tokenizer and the model onto ``device``.

        Raises:
            ReedError: The vectors have another length than ``dim``, or ``max_tokens`` is too large.
        """
        found = self._find()
        self._tokenizer = pre.open_part("AutoTokenizer", found.folder)
        if self.card.end:
            end_with(self._tokenizer, self.card.end)
        # Absolute positions count from the left, so padding on the left would shift them.
        self._tokenizer.padding_side = self._tokenizer.truncation_side = "right"

        model = pre.open_model(self.card.kind, found, self.precision)
        if model.config.is_encoder_decoder and hasattr(model, "decoder"):
            problem = f"{found.folder} holds a {type(model).__name__}, which has a decoder"
            raise ReedError(f"{problem}; use an encoder, or for a T5 --encoder t5")

        # Keys and values are kept for generation alone; some decoders fail when they keep them.
        model.config.use_cache = False

        # The limit of a model is the smaller of its positions and its tokenizer's length.
        length = self._tokenizer.model_max_length
        own = min(getattr(model.config, "max_position_embeddings", length), length, UNLIMITED)
        if self.max_tokens > own:
            problem = f"{found.folder} takes captions of up to {own} tokens"
            raise ReedError(f"{problem}, max_tokens is {self.max_tokens}; lower it")
        self._limit = self.max_tokens or own
        self._model, self._device = model.to(device), device
        self._check(found.folder)

    def _check(self, folder: Path) -> None:
        """Raise ReedError if the model cannot encode text, or gives vectors of another length."""
        kind = self._model.config.model_type
        cut = {"truncation": True, "max_length": self._limit, "verbose": False}
        inputs = self._tokenizer(["a"], return_tensors="pt", **cut)
        try:
            dim = self._run(inputs).shape[1]
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            problem = f"{folder} holds a {kind}, which cannot encode text alone: {reason}"
            raise ReedError(f"{problem}; use another model") from error
        if dim != self.dim:
            have = f"{folder} has vectors of {dim} channels"
            raise ReedError(f"{have}, dim is {self.dim}; set dim={dim}")

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``embedding`` [B, dim], float32.

        Raises:
            BadSample: A caption is empty, or too long and ``truncate`` is off.
        """
        return {"embedding": self._vectors(pre.captions_of(samples, self.captions))}

    def _vectors(self, captions: Sequence[str]) -> np.ndarray:
        """Return the vectors of some captions, float32 [B, dim]."""
        how: dict[str, Any] = {"padding": True, "return_tensors": "pt", "verbose": False}
        cut = {"truncation": True, "max_length": self._limit} if self.truncate else {}
        inputs = self._tokenizer(list(captions), **how, **cut)
        lengths = inputs["attention_mask"].sum(1)

        if (longest := int(lengths.max())) > self._limit:
            problem = f"the caption has {longest} tokens, the model takes {self._limit}"
            raise BadSample(f"{problem}; truncate=true cuts it")

        # Padding is harmless in most families, and one call is faster than several.
        if self._model.config.model_type not in UNPADDED:
            return self._run(inputs)

        # Padding would change what these models return, so captions of one length run together.
        vectors = np.empty((len(captions), self.dim), np.float32)
        for length in lengths.unique():
            rows = lengths == length
            alike = {name: values[rows, :length] for name, values in inputs.items()}
            vectors[rows.numpy()] = self._run(alike)
        return vectors

    def _run(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """Return the vectors of tokenized captions, float32 [B, dim]."""
        on_device = {name: values.to(self._device) for name, values in inputs.items()}
        with pre.running(self._device, self.precision):
            output = self._model(**on_device)
            return self.card.pool(output, on_device["attention_mask"])


def end_with(tokenizer: Any, token: str) -> None:
    """Make a tokenizer end every text with a token, once, as some public files already do.

    Raises:
        ReedError: The tokenizer has no such token.
    """
    number = tokenizer.convert_tokens_to_ids(token)
    if number is None or token not in tokenizer.get_vocab():
        raise ReedError(f"{tokenizer.name_or_path} has no token {token!r}; give a Qwen3-Embedding")
    if tokenizer("a")["input_ids"][-1] == number:
        return

    # As a special token it is counted when a text is cut to the limit.
    from tokenizers.processors import TemplateProcessing

    ended = TemplateProcessing(single=f"$A {token}", special_tokens=[(token, number)])
    tokenizer.backend_tokenizer.post_processor = ended


def _qwen3(name: str, size: str, dim: int) -> Card:
    """Return the card of a Qwen3-Embedding (Zhang et al., 2025); captions are its documents."""
    return Card(
        f"qwen3-embedding-{name}",
        f"Qwen/Qwen3-Embedding-{size}",
        dim,
        "AutoModel",
        _last,
        "state of the end token",
        truncate=False,
        end="<|endoftext|>",
    )


_CARDS = (
    Card(
        "clip-text",
        "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41",
        768,
        "CLIPTextModelWithProjection",
        _projected,
        "projected state of the end token",
        truncate=True,
    ),
    Card(
        "t5",
        "google-t5/t5-large@150ebc2c4b72291e770f58e6057481c8d2ed331a",
        1024,
        "AutoModelForTextEncoding",
        _mean,
        "mean over tokens",
        truncate=False,
    ),
    Card(
        "sentence",
        "sentence-transformers/all-mpnet-base-v2@e8c3b32edf5434bc2275fc9bab85f82640a19130",
        768,
        "AutoModel",
        _mean,
        "mean over tokens",
        truncate=False,
    ),
    _qwen3("600m", "0.6B", 1024),
    _qwen3("4b", "4B", 2560),
    _qwen3("8b", "8B", 4096),
)

for _card in _CARDS:
    ENCODERS.register(_card.name)(partial(TextModel, card=_card))
