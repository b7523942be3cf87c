"""Representation autoencoders: the tokens of a vision model, and a decoder back to pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from reed import weights as files
from reed.build.shard import Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.image.batches import bytes_of, check_precision, handed_over, images
from reed.encoders.image.diffusers_model import DiffusersModel
from reed.errors import ReedError
from reed.precision import computing

if TYPE_CHECKING:
    import torch

CLASS = "AutoencoderRAE"
TINY = 1e-5  # which the model adds to the deviation of its latents


@dataclass
class Rae(DiffusersModel):
    """Tokens of the vision model in an AutoencoderRAE of diffusers (RAE, arXiv 2510.11690).

    The field ``tokens``, [``grid``², ``channels``], holds what the vision model gives after its
    last norm, without class and register tokens and before the statistics of the autoencoder.
    Images are resized as the autoencoder does it.

    ``channels`` and ``grid`` are compared with config.json.

    Attributes:
        name: Name of the encoder in messages.
        hub: Repository of the public weights, REPOSITORY@REVISION.
        licence: Licence of the weights.
        subfolder: Folder of the weights in the repository.
        weights: Local folder with config.json, used instead of ``hub``.
        channels: Channels of a token.
        grid: Tokens per side.
        precision: ``fp32``, ``tf32`` or ``bf16``.
        batch_size: Images per call of ``encode``.
    """

    libraries = ("diffusers", "transformers")

    name: str
    hub: str
    licence: str = ""
    subfolder: str = ""
    weights: str | None = None
    channels: int = 768
    grid: int = 16
    precision: str = "fp32"
    batch_size: int = 32

    _model: Any = field(default=None, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)

    reads = ("image",)

    def __post_init__(self) -> None:
        check_precision(self.name, self.precision)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The field ``tokens``."""
        return (Field("tokens", "token", (self.grid**2, self.channels), "int8"),)

    def revision(self) -> str:
        """Return weights, configuration, precision and library, without loading the model."""
        return self._revision(self._find(), f"x/255 tokens {self.precision}")

    def load(self, device: str) -> None:
        """Load the autoencoder onto ``device``.

        Raises:
            ReedError: The autoencoder differs from the options, or is of another class.
        """
        found = self._find()
        config = self._config(found)
        if config.get("_class_name") != CLASS:
            family = config.get("_class_name")
            problem = f"{self.name}: {found.folder} is of the class {family!r}, not {CLASS}"
            raise ReedError(f"{problem}; give the folder of one")
        model_class = getattr(files.library("diffusers"), CLASS, None)
        if model_class is None:
            raise ReedError(f"{self.name} needs a newer diffusers, which has {CLASS}; upgrade it")

        # The cache holds what the vision model gives, so the statistics become those of no change.
        plain = {"latents_mean": None, "latents_std": None, "scaling_factor": 1.0}
        model = self._built(model_class, found, config | plain)
        state = self._state(found)
        own = model.state_dict()
        state["_latents_mean"] = own["_latents_mean"] * 0
        state["_latents_std"] = own["_latents_std"] * 0 + (1 - TINY)
        model = self._filled(model, state, found, device)
        self._compare(model)
        self._model, self._device = model, device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``tokens``, float32 [B, ``grid``², ``channels``].

        Raises:
            BadSample: An image is not uint8 RGB.
        """
        assert self._model is not None, "load() comes before encode()"
        pixels = images(samples, self._device)
        with computing(self._device, self.precision):
            grid = self._model.encode(pixels.float() / 255).latent
            tokens = grid.flatten(2).mT if grid.ndim == 4 else grid
        return {"tokens": handed_over(tokens)}

    def decode(self, latents: torch.Tensor | np.ndarray, half: float = 128.0) -> np.ndarray:
        """Decode tokens to images, uint8 [B, R, R, 3].

        Args:
            latents: Tokens, [B, ``grid``², ``channels``], in the scale of the cache.
            half: A pixel x in -1..1 becomes the integer part of clamp(127.5 x + half, 0, 255).
        """
        import torch

        assert self._model is not None, "load() comes before decode()"
        with computing(self._device, self.precision):
            tokens = torch.as_tensor(latents).to(self._device, torch.float32)
            if self._model.config.reshape_to_2d:
                tokens = tokens.mT.unflatten(2, (self.grid, self.grid)).contiguous()
            pixels = 2 * self._model.decode(tokens).sample.float() - 1
            return bytes_of(pixels, half)

    def _compare(self, model: Any) -> None:
        """Raise ReedError unless the options are those of the autoencoder."""
        config = model.config
        grid = config.encoder_input_size // config.encoder_patch_size
        actual = {"channels": config.encoder_hidden_size, "grid": grid}
        for option, value in actual.items():
            if getattr(self, option) != value:
                raise ReedError(
                    f"{self.name}.{option} is {getattr(self, option)}, the autoencoder has "
                    f"{value}: {self._option(option, value)}"
                )


_PUBLIC = {  # name -> repository below nyu-visionx/RAE-, channels
    "rae-dinov2-s": ("dinov2-wReg-small-ViTXL-n08", 384),
    "rae-dinov2-b": ("dinov2-wReg-base-ViTXL-n08", 768),
    "rae-dinov2-l": ("dinov2-wReg-large-ViTXL-n08", 1024),
    "rae-mae-b": ("mae-base-p16-ViTXL-n08", 768),
    "rae-siglip2-b": ("siglip2-base-p16-i256-ViTXL-n08", 768),
}
for _name, (_repo, _channels) in _PUBLIC.items():
    ENCODERS.register(_name)(
        partial(
            Rae,
            name=_name,
            hub=f"nyu-visionx/RAE-{_repo}",
            licence="as stated with the weights",
            channels=_channels,
        )
    )
