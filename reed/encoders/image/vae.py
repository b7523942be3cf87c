"""Images as the latents of a variational autoencoder, which a latent model generates."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reed import weights as files
from reed.build.shard import Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.base import PublicWeights
from reed.encoders.image.batches import check_precision, handed_over, images
from reed.errors import ReedError
from reed.precision import computing
from reed.state_dict import fill
from reed.weights import Found, Origin

if TYPE_CHECKING:
    import torch

FAMILY = "AutoencoderKL"  # autoencoders whose posterior has a mean and a standard deviation
WEIGHTS = "diffusion_pytorch_model.safetensors"
# Names of attention layers in files of 2022 and 2023, and their current names in diffusers.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass
class Vae(PublicWeights):
    """Mean and standard deviation (not its logarithm) of a diffusers autoencoder's posterior.

    The field ``moments``, [2 ``channels``, ``resolution`` / ``down``, ``resolution`` / ``down``],
    holds the means first, in the scale of the encoder; a net sees ``(z - shift) * scale``. Images
    enter the encoder as x / 127.5 - 1.

    ``resolution`` is compared with the images; ``channels``, ``down``, ``scale`` and ``shift`` are
    compared with config.json.

    Attributes:
        name: Name of the encoder in messages.
        hub: Repository of the public weights, REPOSITORY@REVISION.
        licence: Licence of the weights.
        subfolder: Folder of the weights in the repository.
        weights: Local folder with config.json, used instead of ``hub``.
        resolution: Height and width of the images in pixels.
        channels: Channels of a latent.
        down: Pixels per latent pixel and side.
        scale: Factor from latents to the input of a net.
        shift: Offset that is subtracted from latents before scaling.
        precision: ``fp32``, ``tf32`` or ``bf16``.
        batch_size: Images per call of ``encode``.
    """

    libraries, extra = ("diffusers",), "images"

    name: str
    hub: str
    licence: str = ""
    subfolder: str = ""
    weights: str | None = None
    resolution: int = 256
    channels: int = 4
    down: int = 8
    scale: float = 0.18215
    shift: float = 0.0
    precision: str = "fp32"
    batch_size: int = 16

    _model: Any = field(default=None, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)

    reads = ("image",)

    def __post_init__(self) -> None:
        check_precision(self.name, self.precision)
        if self.down < 1 or self.resolution % self.down:
            raise ReedError(
                f"{self.name}.resolution {self.resolution} is not a multiple of "
                f"{self.name}.down {self.down}"
            )

    @property
    def source_settings(self) -> Mapping[str, Any]:
        """The resolution, because images are not resized."""
        return {"resolution": self.resolution}

    @property
    def fields(self) -> tuple[Field, ...]:
        """The field ``moments``; its codec refuses values beyond the range of float16."""
        side = self.resolution // self.down
        shape = (2 * self.channels, side, side)
        return (Field("moments", "moments", shape, "float16", (self.scale,), (self.shift,)),)

    @property
    def origin(self) -> Origin:
        """Location of the public weights."""
        inside = f"{self.subfolder}/" if self.subfolder else ""
        repo, _, revision = self.hub.partition("@")
        names = (f"{inside}config.json", f"{inside}{WEIGHTS}")
        return Origin(repo, revision or "main", names)

    def revision(self) -> str:
        """Return weights, configuration, precision and library, without loading the model."""
        found = self._find()
        config = {k: v for k, v in self._config(found).items() if k != "_diffusers_version"}
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        return (
            f"sha256:{found.sha256} config:{digest[:16]} x/127.5-1 {self.resolution}px "
            f"mean+std {self.precision} diffusers-{version('diffusers')}"
        )

    def load(self, device: str) -> None:
        """Load the autoencoder onto ``device``.

        Raises:
            ReedError: The autoencoder differs from the options, or is of another class.
        """
        found = self._find()
        config = self._config(found)
        family = str(config.get("_class_name", FAMILY))
        model_class = getattr(files.library("diffusers"), family, None)
        if model_class is None or not family.startswith(FAMILY):
            raise ReedError(
                f"{self.name}: {found.folder} is of the class {family!r}; use a diffusers "
                f"autoencoder whose class begins with {FAMILY}"
            )

        # The weights are filled in here, so that a missing or superfluous tensor is an error.
        model = model_class.from_config(config)
        state = {_renamed(key): value for key, value in files.read(found.files[0]).items()}
        fill(model, state, f"{self.name}: {found.files[0]}")
        self._compare(model.config, found.folder)
        self._model, self._device = model.requires_grad_(False).eval().to(device), device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``moments``, float32 [B, 2 ``channels``, h, w].

        Raises:
            BadSample: An image is not uint8 RGB.
            ReedError: The images have another size than ``resolution``.
        """
        import torch

        assert self._model is not None, "load() comes before encode()"
        pixels = images(samples, self._device)
        if pixels.shape[-1] != self.resolution:
            raise ReedError(
                f"{self.name}: images have {pixels.shape[-1]} pixels a side, it is set to "
                f"{self.resolution}: --set {self.name}.resolution={pixels.shape[-1]}"
            )

        # The deviation is stored instead of its logarithm, so that a draw needs no exponential.
        with computing(self._device, self.precision):
            posterior = self._model.encode(pixels.float() / 127.5 - 1).latent_dist
            moments = torch.cat([posterior.mean, posterior.std], dim=1)
        return {"moments": handed_over(moments)}

    def decode(self, latents: torch.Tensor | np.ndarray, half: float = 128.0) -> np.ndarray:
        """Decode latents to images, uint8 [B, R, R, 3].

        Args:
            latents: [B, ``channels``, h, w] in the scale of the cache, that is before
                ``(z - shift) * scale``. Samples of a trained net are stored in this scale.
            half: A pixel x in -1..1 becomes the integer part of clamp(127.5 x + half, 0, 255), so
                that 128 rounds and 127.5 cuts off.
        """
        import torch

        assert self._model is not None, "load() comes before decode()"
        with computing(self._device, self.precision):
            z = torch.as_tensor(latents).to(self._device, torch.float32)
            pixels = self._model.decode(z).sample.float()
            level = (pixels * 127.5 + half).clamp(0, 255).to(torch.uint8)
        return level.permute(0, 2, 3, 1).cpu().numpy()

    def _config(self, found: Found) -> dict[str, Any]:
        path = found.files[0].parent / "config.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReedError(
                f"{self.name}: cannot read {path}, which describes the weights beside it ({error})"
            ) from error

    def _compare(self, config: Any, folder: Path) -> None:
        actual = {
            "channels": config.latent_channels,
            "down": 2 ** (len(config.block_out_channels) - 1),
            "scale": config.get("scaling_factor") or 1.0,
            "shift": config.get("shift_factor") or 0.0,
        }
        for option, value in actual.items():
            if getattr(self, option) != value:
                raise ReedError(
                    f"{self.name}.{option} is {getattr(self, option)}, the autoencoder in {folder} "
                    f"has {value}: --set {self.name}.{option}={value}"
                )


def _renamed(key: str) -> str:
    """Return the current name of a parameter in diffusers."""
    match = re.fullmatch(r"(.*\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", key)
    return f"{match[1]}.{RENAMED[match[2]]}.{match[3]}" if match else key


ENCODERS.register("sd-vae")(
    partial(
        Vae,
        name="sd-vae",
        hub="stabilityai/sd-vae-ft-mse@31f26fdeee1355a5c34592e401dd41e45d25a493",
        licence="MIT",
    )
)
