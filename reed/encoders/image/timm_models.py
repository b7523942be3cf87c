"""Models of timm: what they return, and how the content of a public file fits them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from reed import weights as files
from reed.encoders.image.cards import Card
from reed.encoders.image.preprocess import Preprocess
from reed.encoders.image.public_names import CONVERTERS
from reed.errors import ReedError
from reed.state_dict import for_timm
from reed.weights import Origin

if TYPE_CHECKING:
    import torch

GRID = 16  # tokens per side of an encoder, unless its settings or its model say otherwise

# What a model of timm raises if its input has another size than it was made for.
UNFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError)
UNFIT += (TypeError, ValueError)


@dataclass(frozen=True)
class Shape:
    """What a model returns for one image.

    Attributes:
        grid: Tokens per side.
        dim: Channels of a token.
        vector: Channels of the vector.
    """

    grid: int
    dim: int
    vector: int


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


def resize(model: Any, size: int) -> None:
    """Prepare a model for images of ``size`` pixels, where it has to be prepared for a size."""
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=(size, size))


def final(model: Any, x: torch.Tensor, *, pooled: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a model computes before its classifier.

    Args:
        model: A timm model.
        x: Images, [B, 3, H, W].
        pooled: Whether the vector is the model's own pooling, instead of the class token.

    Returns:
        The patch tokens [B, T, D], row by row, and the vector [B, D']. A model that pools nothing
        on its own has the mean of the tokens.

    Raises:
        ReedError: The model returns several arrays, or no square grid of tokens.
    """
    last = model.forward_features(x)
    if isinstance(last, (list, tuple, dict)):
        raise ReedError(f"it returns {len(last)} arrays of features, of which none is the last")

    tokens, before = _rows(model, last)
    if not pooled:
        return tokens, before[:, 0]
    try:
        vector = model.forward_head(last, pre_logits=True)
    except (NotImplementedError, TypeError):  # an encoder for use within another model
        vector = tokens
    return tokens, vector if vector.ndim == 2 else tokens.mean(1)


def inner(
    model: Any, x: torch.Tensor, block: int, *, norm: bool, pooled: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the patch tokens [B, T, D] and the vector [B, D] of an inner layer.

    Args:
        model: A timm model.
        x: Images, [B, 3, H, W].
        block: Number of the layer, counted from 0.
        norm: Whether to apply the final norm.
        pooled: Whether the vector is the mean of the tokens, instead of the class token.

    Raises:
        ReedError: timm gives no access to the layers of this model.
    """
    if not hasattr(model, "forward_intermediates"):
        raise ReedError("timm gives no access to its inner layers; use layer=0 and norm=true")

    # timm stops at the layer, and returns class and register tokens on request.
    prefix = getattr(model, "num_prefix_tokens", 0)
    more = {"return_prefix_tokens": True} if prefix else {}
    (features,) = model.forward_intermediates(
        x, indices=[block], norm=norm, stop_early=True, intermediates_only=True, **more
    )
    features, before = features if prefix else (features, features[:, :0])
    tokens = features.flatten(2).transpose(1, 2)  # [B, D, H, W] -> [B, T, D]
    return tokens, tokens.mean(1) if pooled else before[:, 0]


def _rows(model: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a model's output into patch tokens [B, T, D] and prefix tokens [B, prefix, D]."""
    if x.ndim == 4:
        is_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        x = x.flatten(1, 2) if is_last else x.flatten(2).transpose(1, 2)
        return x, x[:, :0]
    if x.ndim != 3:
        raise ReedError(f"its features are {list(x.shape)}, which are no tokens")

    # Some models do not say that a class token comes first.
    prefix = getattr(model, "num_prefix_tokens", None)
    if prefix is None:
        prefix = int(math.isqrt(x.shape[1]) ** 2 != x.shape[1])
    return x[:, prefix:], x[:, :prefix]


def has_class_token(model: Any) -> bool:
    """Return whether the output of a model begins with a class token."""
    return getattr(model, "cls_token", None) is not None and bool(
        getattr(model, "num_prefix_tokens", 0)
    )


@cache
def card_of(name: str) -> Card:
    """Return the card of a timm model, found by running it on the device "meta".

    Models take no memory there, compute nothing, and return arrays of the right shapes.

    Raises:
        ReedError: timm has no such model, or it returns no tokens.
    """
    model = _on_meta(name)
    settings = model.pretrained_cfg
    mean, std = tuple(settings["mean"]), tuple(settings["std"])
    card = Card(
        name=f"timm:{name}",
        model=name,
        dim=0,
        patch=0,
        origin=Origin(settings.get("hf_hub_id") or "", url=settings.get("url") or ""),
        preprocess=Preprocess(mean, std, "antialias-normalise", settings["interpolation"]),
        licence=settings.get("license") or "unknown",
        pooled=not has_class_token(model),
    )

    # The output may have other channels and another grid than the last stage: heads of
    # convolutional nets come after it.
    own = settings["input_size"][-1]
    stages = tuple((s["num_chs"], s["reduction"]) for s in getattr(model, "feature_info", ()))
    try:
        shape = _measure(model, card, own)
    except (ReedError, *UNFIT) as error:
        problem = f"timm:{name} cannot be an encoder: {one_line(error)}"
        raise ReedError(f"{problem}; choose another model") from error

    # A model that gives no grid of GRID tokens at any size runs at its own size alone.
    guesses = dict.fromkeys([stages[-1][1] if stages else 0, own // shape.grid])
    fitting = [guess for guess in guesses if guess and _gives_grid(card, shape, guess)]
    patch = fitting[0] if fitting else own // shape.grid
    varies = bool(set(stages) - {(shape.dim, patch)})
    return replace(
        card,
        dim=shape.dim,
        patch=patch,
        vector=shape.vector if shape.vector != shape.dim else 0,
        stages=stages if varies else (),
        native=None if fitting else (own, shape.grid),
    )


def one_line(error: Exception) -> str:
    """Return the first line of an error's text; its type, if there is none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _on_meta(name: str) -> Any:
    """Create a timm model on the device "meta"."""
    torch, timm = files.library("torch"), files.library("timm")
    try:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = one_line(error)
        near = ", ".join(timm.list_pretrained(f"{name.split('.')[0]}*")[:8]) or "timm.list_models()"
        raise ReedError(f"cannot make the timm model {name!r}: {reason}; see {near}") from error
    return model.eval()


def _measure(model: Any, card: Card, size: int) -> Shape:
    """Return the shapes of a model's output for images of ``size`` pixels."""
    torch = files.library("torch")
    with torch.device("meta"), torch.no_grad():
        tokens, vector = final(model, torch.zeros(1, 3, size, size), pooled=card.pooled)
    count, dim = tokens.shape[1:]
    if math.isqrt(count) ** 2 != count:
        raise ReedError(f"it makes {count} tokens of {size} pixels, which are no square")
    return Shape(math.isqrt(count), dim, vector.shape[1])


def _gives_grid(card: Card, shape: Shape, patch: int) -> bool:
    """Return whether images of ``GRID * patch`` pixels give a grid of GRID tokens."""
    model = _on_meta(card.model)
    try:
        resize(model, GRID * patch)
        return _measure(model, card, GRID * patch) == replace(shape, grid=GRID)
    except (ReedError, *UNFIT):
        return False
