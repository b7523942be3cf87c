"""Vision encoders from timm: patch tokens on a chosen grid, and one vector per image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from reed import weights as files
from reed.build.shard import Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.base import PublicWeights
from reed.encoders.image import timm_models
from reed.encoders.image.batches import check_precision, handed_over, images
from reed.encoders.image.cards import CARDS, Card
from reed.errors import ReedError
from reed.precision import computing
from reed.state_dict import fill
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
    grid: int = timm_models.GRID
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
        if self.card.native and self.grid != (own := self._native_grid()):
            problem = f"{self.card.name} takes images of {self.card.native[0]} pixels alone"
            raise ReedError(
                f"{problem}, which give a grid of {own}, not {self.grid}; set grid={own}"
            )

    def _native_grid(self) -> int:
        """Return the tokens per side of a model that runs at one size alone."""
        assert self.card.native is not None
        if not self.card.stages or self._is_final(len(self.card.stages)):
            return self.card.native[1]
        return self.card.native[0] // self._stage[1]

    @property
    def licence(self) -> str:
        """Licence of the weights."""
        return self.card.licence

    @property
    def fields(self) -> tuple[Field, ...]:
        """The field ``tokens``, and ``cls`` or ``pooled``."""
        name, (dim, _) = "pooled" if self.card.pooled else "cls", self._stage
        is_final = self._is_final(len(self.card.stages))
        vector = (self.card.vector if is_final else 0) or dim
        return (
            Field("tokens", "token", (self.grid**2, dim), "int8"),
            Field(name, "sample", (vector,), "float32"),
        )

    @property
    def size(self) -> int:
        """Height and width of the model's input in pixels."""
        return self.card.native[0] if self.card.native else self.grid * self._stage[1]

    @property
    def _stage(self) -> tuple[int, int]:
        """Channels and patch size of the chosen layer."""
        output = (self.card.dim, self.card.patch)
        if not self.card.stages or self._is_final(len(self.card.stages)):
            return output
        return self.card.stages[self.layer - 1]

    def _is_final(self, depth: int) -> bool:
        """Return whether the model's ordinary output is wanted, which every model has."""
        output = (self.card.dim, self.card.patch)
        same = not self.card.stages or self.card.stages[-1] == output
        return self.norm and (self.layer == 0 or (self.layer == depth and same))

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
            ReedError: The weights belong to another model, the model has no such layer, or it does
                not give the grid.
        """
        path = self._find().files[0]
        model = timm_models.create(self.card)
        state = timm_models.state_for(model, files.read(path), self.card.convert)
        fill(model, state, f"{self.card.name}: {path}")

        depth = len(getattr(model, "feature_info", ()))
        if self.layer > depth:
            raise ReedError(f"{self.card.name}.layer is {self.layer}, the model has {depth}")

        # Resized before it moves, because some models make new buffers on the CPU.
        with self._fitting():
            timm_models.resize(model, self.size)
        self._model, self._device = model.requires_grad_(False).eval().to(device), device
        self._check_shapes()

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``tokens`` [B, T, dim], and ``cls`` or ``pooled`` [B, dim], float32.

        Raises:
            BadSample: An image is not uint8, RGB and square.
        """
        assert self._model is not None, "load() comes before encode()"
        pixels = images(samples, self._device)

        # Preprocessing stays in fp32: rounding it would change every token.
        with computing(self._device, "fp32"):
            x = self.card.preprocess(pixels, self.size)
        with computing(self._device, self.precision):
            tokens, vector = self._features(x)

        values = {"tokens": tokens, self.fields[1].name: vector}
        return {name: handed_over(value) for name, value in values.items()}

    def _features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens [B, T, D] and the vector [B, D] of the chosen layer."""
        depth = len(getattr(self._model, "feature_info", ()))
        if self._is_final(depth):
            return timm_models.final(self._model, x, pooled=self.card.pooled)
        block = (self.layer or depth) - 1
        return timm_models.inner(self._model, x, block, norm=self.norm, pooled=self.card.pooled)

    @contextmanager
    def _fitting(self) -> Generator[None]:
        """Say in one line that the model cannot run at this size."""
        try:
            yield
        except (ReedError, *timm_models.UNFIT) as error:
            problem = f"{self.card.name} cannot run at {self.size} pixels (grid={self.grid})"
            reason = timm_models.one_line(error)
            raise ReedError(f"{problem}: {reason}; choose another grid or layer") from error

    def _check_shapes(self) -> None:
        """Raise ReedError if the model cannot run at this size, or returns other shapes."""
        import torch

        x = torch.zeros(1, 3, self.size, self.size, device=self._device)
        with self._fitting(), computing(self._device, self.precision):
            tokens, vector = self._features(x)

        have = (*tokens.shape[1:], *vector.shape[1:])
        want = (*self.fields[0].shape, *self.fields[1].shape)
        if have != want:
            problem = f"{self.card.name}: {self.size} pixels give {_words(have)}"
            raise ReedError(f"{problem}, expected {_words(want)}; choose another grid or layer")


def _words(shape: tuple[int | None, ...]) -> str:
    tokens, dim, vector = shape
    return f"{tokens} tokens of {dim} channels and a vector of {vector}"


def of_timm(name: str) -> partial[Vision]:
    """Any timm model, by its name, with its own preprocessing.

    Raises:
        ReedError: timm has no such model, or it returns no tokens.
    """
    card = timm_models.card_of(name)
    return partial(Vision, card=card, grid=card.native[1] if card.native else timm_models.GRID)


for _card in CARDS:
    ENCODERS.register(_card.name)(partial(Vision, card=_card))
ENCODERS.prefixes["timm"] = of_timm
