"""Vision encoders from timm: patch tokens on a chosen grid, and one vector per image."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from reed import weights as files
from reed.build.shard import Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.base import PublicWeights
from reed.encoders.image.batches import check_precision, images
from reed.encoders.image.cards import CARDS, Card
from reed.encoders.image.preprocess import Preprocess
from reed.encoders.image.public_names import CONVERTERS
from reed.errors import ReedError
from reed.precision import computing
from reed.state_dict import fill, for_timm
from reed.weights import Origin

if TYPE_CHECKING:
    import torch


@dataclass
class Vision(PublicWeights):
    """Patch tokens of an image, without class and register tokens, and one vector per image.

    Its fields:

    - ``tokens`` [``grid * grid``, dim]: the patch tokens, row by row.
    - ``cls`` [dim]: the class token. Models without one have ``pooled`` instead: the model's own
      pooling, or at an inner layer the mean of the tokens.

    Attributes:
        card: The model.
        weights: A weights file, or a folder with one; None for the public weights.
        grid: Tokens per side: 16 for latents of 256 pixels, 32 for those of 512. Images are
            resized to ``grid * patch`` pixels (224 or 448 for a patch of 14).
        layer: Block, or stage of a convolutional net, counted from 1; 0 is the last.
        norm: Whether to apply the final norm. REPA's CLIP and MAE targets are without it.
        precision: ``fp32``, ``tf32`` or ``bf16``.
        batch_size: Images per call of ``encode``.
    """

    libraries, extra = ("timm",), "images"

    card: Card
    weights: str | None = None
    grid: int = 16
    layer: int = 0
    norm: bool = True
    precision: str = "fp32"
    batch_size: int = 64

    _model: Any = field(default=None, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)

    reads = ("image",)

    def __post_init__(self) -> None:
        check_precision(self.card.name, self.precision)
        depth = len(self.card.stages)
        if self.grid < 1 or self.layer < 0 or (depth and self.layer > depth):
            limit = f" to {depth}" if depth else " or more"
            raise ReedError(
                f"{self.card.name}: grid {self.grid} must be 1 or more, layer {self.layer} 0{limit}"
            )

    @property
    def licence(self) -> str:
        """Licence of the weights."""
        return self.card.licence

    @property
    def fields(self) -> tuple[Field, ...]:
        """The field ``tokens``, and ``cls`` or ``pooled``."""
        vector = "pooled" if self.card.pooled else "cls"
        return (
            Field("tokens", "token", (self.grid**2, self._dim), "int8"),
            Field(vector, "sample", (self._dim,), "float32"),
        )

    @property
    def size(self) -> int:
        """Height and width of the model's input in pixels."""
        return self.grid * self._patch

    @property
    def _dim(self) -> int:
        return self.card.stages[self.layer - 1][0] if self.card.stages else self.card.dim

    @property
    def _patch(self) -> int:
        return self.card.stages[self.layer - 1][1] if self.card.stages else self.card.patch

    @property
    def origin(self) -> Origin:
        """Location of the public weights."""
        return self.card.origin

    @property
    def name(self) -> str:
        """Name of the encoder, from its card."""
        return self.card.name

    def revision(self) -> str:
        """Return weights, preprocessing, layer, precision and library; load nothing."""
        preprocess = self.card.preprocess
        text = json.dumps([preprocess.mean, preprocess.std, self.card.arguments])
        return (
            f"sha256:{self._find().sha256} {self.card.model} {self.size}px {preprocess.order} "
            f"{preprocess.interpolation} {hashlib.sha256(text.encode()).hexdigest()[:8]} "
            f"layer:{self.layer or 'last'} {'normed' if self.norm else 'raw'} {self.precision} "
            f"timm-{version('timm')}"
        )

    def load(self, device: str) -> None:
        """Load the model onto ``device`` and resample its position embedding to the grid.

        Raises:
            ReedError: The weights belong to another model, or the model has no such layer.
        """
        found = self._find()
        model = create(self.card)
        where = f"{self.card.name}: {found.files[0]}"
        fill(model, state_for(model, files.read(found.files[0]), self.card.convert), where)
        depth = len(model.feature_info)
        if self.layer > depth:
            raise ReedError(f"{self.card.name}.layer is {self.layer}, the model has {depth}")
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=(self.size, self.size))
        self._model, self._device = model.requires_grad_(False).eval().to(device), device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``tokens`` [B, T, dim], and ``cls`` or ``pooled`` [B, dim], float32.

        Raises:
            BadSample: An image is not uint8, RGB and square.
            ReedError: The model returns another number of tokens or channels.
        """
        assert self._model is not None, "load() comes before encode()"
        pixels = images(samples, self._device)

        # Preprocessing stays in fp32: rounding it would change every token.
        with computing(self._device, "fp32"):
            x = self.card.preprocess(pixels, self.size)
        with computing(self._device, self.precision):
            tokens, vector = self._features(x)

        have, want = tuple(tokens.shape[1:]), self.fields[0].shape
        if have != want:
            raise ReedError(
                f"{self.card.name}: {self.size} pixels give tokens {have}, expected {want}; "
                "choose another grid or layer"
            )
        values = {"tokens": tokens, self.fields[1].name: vector}
        return {name: value.float().cpu().numpy() for name, value in values.items()}

    def _features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens [B, T, D] and the vector [B, D] of the chosen layer."""
        model = self._model
        prefix = getattr(model, "num_prefix_tokens", 0)

        # The last layer with its norm is the model's ordinary output, which every model has.
        if self.norm and self.layer in (0, len(model.feature_info)):
            last = model.forward_features(x)
            tokens, before = _rows(last, getattr(model, "output_fmt", "NCHW"), prefix)
            if self.card.pooled:
                return tokens, model.forward_head(last, pre_logits=True)
            return tokens, before[:, 0]

        # An inner layer: timm stops there, and returns class and register tokens on request.
        block = (self.layer or len(model.feature_info)) - 1
        more = {"return_prefix_tokens": True} if prefix else {}
        (inner,) = model.forward_intermediates(
            x, indices=[block], norm=self.norm, stop_early=True, intermediates_only=True, **more
        )
        inner, before = inner if prefix else (inner, inner[:, :0])
        tokens = inner.flatten(2).transpose(1, 2)  # [B, D, H, W] -> [B, T, D]
        return tokens, tokens.mean(1) if self.card.pooled else before[:, 0]


def _rows(x: torch.Tensor, layout: str, prefix: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a layer's output into patch tokens [B, T, D] and prefix tokens [B, prefix, D]."""
    if x.ndim == 4:
        x = x.flatten(1, 2) if layout == "NHWC" else x.flatten(2).transpose(1, 2)
    return x[:, prefix:], x[:, :prefix]


def create(card: Card) -> Any:
    """Create the timm model of a card, with random weights and without a classifier."""
    timm = files.library("timm")
    return timm.create_model(card.model, pretrained=False, num_classes=0, **dict(card.arguments))


def state_for(model: Any, state: dict[str, Any], convert: str) -> dict[str, Any]:
    """Convert the content of a public file to a timm state dict without the classifier."""
    converters = CONVERTERS | {"mocov3": from_mocov3}
    return for_timm(model, converters[convert](state) if convert in converters else state)


def from_mocov3(state: dict[str, Any]) -> dict[str, Any]:
    """Return the query encoder of a MoCo v3 checkpoint under timm's names.

    The projection head is left out. In the public large checkpoint ``norm1`` and ``fc1`` of block
    13 are called ``norm13`` and ``fc13``, and ``norm2`` and ``fc2`` of block 14 ``norm14`` and
    ``fc14``; here they get their usual names.
    """
    renamed, number_of = {}, {"13": "1", "14": "2"}
    for key, value in state.get("state_dict", state).items():
        # The momentum encoder and the predictor serve the training of MoCo alone.
        inner = key.removeprefix("module.").removeprefix("base_encoder.")
        if key.startswith(("module.momentum_encoder.", "module.predictor.")):
            continue

        if not inner.startswith("head."):
            name = re.sub(
                r"^(blocks\.(13|14)\.(?:mlp\.)?(?:norm|fc))\2\.",
                lambda match: f"{match[1]}{number_of[match[2]]}.",
                inner,
            )
            renamed[name] = value
    return renamed


def of_timm(name: str) -> partial[Vision]:
    """Any timm model, by its name, with its own preprocessing.

    Raises:
        ReedError: timm has no such model; the message lists similar names.
    """
    torch, timm = files.library("torch"), files.library("timm")

    # On the device "meta" the model takes no memory, and its settings can still be read.
    try:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        near = ", ".join(timm.list_pretrained(f"{name.split('.')[0]}*")[:8]) or "timm.list_models()"
        raise ReedError(f"cannot make the timm model {name!r}: {reason}; see {near}") from error

    # Channels and patch size differ between the stages of a convolutional net.
    settings = model.pretrained_cfg
    stages = tuple((stage["num_chs"], stage["reduction"]) for stage in model.feature_info)
    varies = len(set(stages)) > 1
    mean, std = tuple(settings["mean"]), tuple(settings["std"])
    card = Card(
        name=f"timm:{name}",
        model=name,
        dim=stages[-1][0],
        patch=stages[-1][1],
        origin=Origin(settings.get("hf_hub_id") or "", url=settings.get("url") or ""),
        preprocess=Preprocess(mean, std, "antialias-normalise", settings["interpolation"]),
        licence=settings.get("license") or "unknown",
        stages=stages if varies else (),
        pooled=getattr(model, "cls_token", None) is None,
    )
    return partial(Vision, card=card)


for _card in CARDS:
    ENCODERS.register(_card.name)(partial(Vision, card=_card))
ENCODERS.prefixes["timm"] = of_timm
