"""Vision encoders through timm: patch tokens on a stated grid, and one vector per image."""

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
from reed.errors import ReedError
from reed.precision import computing
from reed.weights import Origin

if TYPE_CHECKING:
    import torch


@dataclass
class Vision(PublicWeights):
    """Patch tokens after the final norm, without class and register tokens; and one vector.

    tokens: [grid * grid, dim], row by row; cls: [dim], the class token, or pooled: [dim], the
    model's own pooling where it has none (the mean of the tokens at an inner layer).

    grid: tokens per side, 16 for latents of 256 pixels, 32 for those of 512; images are resized
    to grid * patch (224 or 448 for a patch of 14). layer: a block, or a stage of a convolutional
    net, counted from 1; 0 is the last. norm: whether the final norm follows; REPA's clip and mae
    targets are without. weights: a file, or a folder with one. precision: fp32, tf32 or bf16.
    """

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
        """Of the weights."""
        return self.card.licence

    @property
    def fields(self) -> tuple[Field, ...]:
        """tokens, and cls or pooled."""
        vector = "pooled" if self.card.pooled else "cls"
        return (
            Field("tokens", "token", (self.grid**2, self._dim), "int8"),
            Field(vector, "sample", (self._dim,), "float32"),
        )

    @property
    def size(self) -> int:
        """Pixels per side of what the model sees."""
        return self.grid * self._patch

    @property
    def _dim(self) -> int:
        return self.card.stages[self.layer - 1][0] if self.card.stages else self.card.dim

    @property
    def _patch(self) -> int:
        return self.card.stages[self.layer - 1][1] if self.card.stages else self.card.patch

    @property
    def origin(self) -> Origin:
        """Where the public weights are."""
        return self.card.origin

    @property
    def name(self) -> str:
        """As the card says."""
        return self.card.name

    def revision(self) -> str:
        """Weights, preprocessing, layer, precision and library; nothing is loaded for it."""
        said = self.card.preprocess
        text = json.dumps([said.mean, said.std, self.card.arguments])
        return (
            f"sha256:{self._find().sha256} {self.card.model} {self.size}px {said.order} "
            f"{said.interpolation} {hashlib.sha256(text.encode()).hexdigest()[:8]} "
            f"layer:{self.layer or 'last'} {'normed' if self.norm else 'raw'} {self.precision} "
            f"timm-{version('timm')}"
        )

    def load(self, device: str) -> None:
        """The model on `device`, its position embedding resampled to the grid.

        ReedError when the weights are of another model, or the card does not fit it.
        """
        found = self._find()
        model = create(self.card)
        where = f"{self.card.name}: {found.files[0]}"
        files.fill(model, state_for(model, files.read(found.files[0]), self.card.convert), where)
        depth = len(model.feature_info)
        if self.layer > depth:
            raise ReedError(f"{self.card.name}.layer is {self.layer}, the model has {depth}")
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=(self.size, self.size))
        self._model, self._device = model.requires_grad_(False).eval().to(device), device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """tokens [B, grid * grid, dim], and cls or pooled [B, dim], float32.

        BadSample when an image is not uint8 RGB and square.
        """
        assert self._model is not None, "load() comes before encode()"
        pixels = images(samples, self._device)
        with computing(self._device, "fp32"):
            x = self.card.preprocess(pixels, self.size)
        with computing(self._device, self.precision):
            tokens, vector = self._features(x)
        have, want = tuple(tokens.shape[1:]), self.fields[0].shape
        if have != want:
            raise ReedError(
                f"{self.card.name}: {self.size} pixels give tokens {have}, {want} are wanted; "
                "choose another grid or layer"
            )
        values = {"tokens": tokens, self.fields[1].name: vector}
        return {name: value.float().cpu().numpy() for name, value in values.items()}

    def _features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [B, T, D] and the vector [B, D] of the chosen layer."""
        model = self._model
        prefix = getattr(model, "num_prefix_tokens", 0)
        if self.norm and self.layer in (0, len(model.feature_info)):
            last = model.forward_features(x)
            tokens, before = _rows(last, getattr(model, "output_fmt", "NCHW"), prefix)
            if self.card.pooled:
                return tokens, model.forward_head(last, pre_logits=True)
            return tokens, before[:, 0]
        block = (self.layer or len(model.feature_info)) - 1
        more = {"return_prefix_tokens": True} if prefix else {}
        (inner,) = model.forward_intermediates(
            x, indices=[block], norm=self.norm, stop_early=True, intermediates_only=True, **more
        )
        inner, before = inner if prefix else (inner, inner[:, :0])
        tokens = inner.flatten(2).transpose(1, 2)  # [B, D, H, W] -> [B, T, D]
        return tokens, tokens.mean(1) if self.card.pooled else before[:, 0]


def _rows(x: torch.Tensor, layout: str, prefix: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Patch tokens [B, T, D] and what stands before them [B, prefix, D]."""
    if x.ndim == 4:
        x = x.flatten(1, 2) if layout == "NHWC" else x.flatten(2).transpose(1, 2)
    return x[:, prefix:], x[:, :prefix]


def create(card: Card) -> Any:
    """The timm model of a card with random weights and no classifier."""
    timm = files.library("timm")
    return timm.create_model(card.model, pretrained=False, num_classes=0, **dict(card.arguments))


def state_for(model: Any, state: dict[str, Any], convert: str) -> dict[str, Any]:
    """A public file's content as the state dict of a timm model, without the classifier."""
    return files.for_timm(model, from_mocov3(state) if convert == "mocov3" else state)


def from_mocov3(state: dict[str, Any]) -> dict[str, Any]:
    """The query encoder of a MoCo v3 checkpoint by timm's names, without its projection head.

    The public large one calls norm1 and fc1 of block 13 norm13 and fc13, and norm2 and fc2 of
    block 14 norm14 and fc14.
    """
    found, second = {}, {"13": "1", "14": "2"}
    for key, value in state.get("state_dict", state).items():
        inner = key.removeprefix("module.").removeprefix("base_encoder.")
        if key.startswith(("module.momentum_encoder.", "module.predictor.")):
            continue
        if not inner.startswith("head."):
            slip = re.sub(
                r"^(blocks\.(13|14)\.(?:mlp\.)?(?:norm|fc))\2\.",
                lambda found: f"{found[1]}{second[found[2]]}.",
                inner,
            )
            found[slip] = value
    return found


def of_timm(name: str) -> partial[Vision]:
    """The encoder for "timm:NAME", any other model of timm; its card is made from timm's own.

    The model is laid out without memory for it. ReedError with the nearest name.
    """
    torch, timm = files.library("torch"), files.library("timm")
    try:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        near = ", ".join(timm.list_pretrained(f"{name.split('.')[0]}*")[:8]) or "timm.list_models()"
        raise ReedError(f"cannot make the timm model {name!r}: {reason}; see {near}") from error
    said, info = model.pretrained_cfg, model.feature_info
    stages = tuple((each["num_chs"], each["reduction"]) for each in info)
    varies = len(set(stages)) > 1
    card = Card(
        name=f"timm:{name}",
        model=name,
        dim=stages[-1][0],
        patch=stages[-1][1],
        origin=Origin(said.get("hf_hub_id") or "", url=said.get("url") or ""),
        preprocess=Preprocess(
            tuple(said["mean"]), tuple(said["std"]), "antialias-normalise", said["interpolation"]
        ),
        licence=said.get("license") or "unknown",
        stages=stages if varies else (),
        pooled=getattr(model, "cls_token", None) is None,
    )
    return partial(Vision, card=card)


for _card in CARDS:
    ENCODERS.register(_card.name)(partial(Vision, card=_card))
ENCODERS.prefixes["timm"] = of_timm
