"""Images as the latents of a variational autoencoder: what a latent model generates."""

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
from reed.encoders.image.batches import check_precision, images
from reed.errors import ReedError
from reed.precision import computing
from reed.weights import Found, Origin

if TYPE_CHECKING:
    import torch

FAMILY = "AutoencoderKL"  # those with a posterior of mean and standard deviation
WEIGHTS = "diffusion_pytorch_model.safetensors"
# Attention layers as files of 2022 and 2023 name them, and as the library does now.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass
class Vae(PublicWeights):
    """Mean and standard deviation (not its logarithm) of a diffusers autoencoder's posterior.

    moments: [2 * channels, resolution / down, resolution / down], means first, as the encoder
    gives them; a net sees (z - shift) * scale. Images go in as x / 127.5 - 1.

    hub: the public weights, REPOSITORY@REVISION, and subfolder: where in it they are; weights: a
    folder with config.json, instead. resolution, channels, down, scale and shift are compared
    with the images and with config.json. precision: fp32, tf32 or bf16.
    """

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
    def fields(self) -> tuple[Field, ...]:
        """The moments, which fit float16 (the codec refuses what does not)."""
        side = self.resolution // self.down
        shape = (2 * self.channels, side, side)
        return (Field("moments", "moments", shape, "float16", (self.scale,), (self.shift,)),)

    @property
    def origin(self) -> Origin:
        """Where the public weights are."""
        inside = f"{self.subfolder}/" if self.subfolder else ""
        repo, _, revision = self.hub.partition("@")
        names = (f"{inside}config.json", f"{inside}{WEIGHTS}")
        return Origin(repo, revision or "main", names)

    def revision(self) -> str:
        """Weights, configuration, precision and library; nothing is loaded for it."""
        found = self._find()
        said = {k: v for k, v in self._config(found).items() if k != "_diffusers_version"}
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        return (
            f"sha256:{found.sha256} config:{digest[:16]} x/127.5-1 {self.resolution}px "
            f"mean+std {self.precision} diffusers-{version('diffusers')}"
        )

    def load(self, device: str) -> None:
        """The autoencoder on `device`; ReedError when it is not what the options say."""
        found = self._find()
        config = self._config(found)
        family = str(config.get("_class_name", FAMILY))
        made = getattr(files.library("diffusers"), family, None)
        if made is None or not family.startswith(FAMILY):
            raise ReedError(
                f"{self.name}: {found.folder} is of the class {family!r}; use a diffusers "
                f"autoencoder whose class begins with {FAMILY}"
            )
        model = made.from_config(config)
        state = {_renamed(key): value for key, value in files.read(found.files[0]).items()}
        files.fill(model, state, f"{self.name}: {found.files[0]}")
        self._compare(model.config, found.folder)
        self._model, self._device = model.requires_grad_(False).eval().to(device), device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """moments, float32 [B, 2 * channels, h, w]; BadSample when an image is not uint8 RGB."""
        import torch

        assert self._model is not None, "load() comes before encode()"
        pixels = images(samples, self._device)
        if pixels.shape[-1] != self.resolution:
            raise ReedError(
                f"{self.name}: images have {pixels.shape[-1]} pixels a side, it is set to "
                f"{self.resolution}: --set {self.name}.resolution={pixels.shape[-1]}"
            )
        with computing(self._device, self.precision):
            posterior = self._model.encode(pixels.float() / 127.5 - 1).latent_dist
            moments = torch.cat([posterior.mean, posterior.std], dim=1).float()
        return {"moments": moments.cpu().numpy()}

    def decode(self, latents: torch.Tensor | np.ndarray, half: float = 128.0) -> np.ndarray:
        """Images uint8 [B, R, R, 3] from latents [B, channels, h, w] in the scale of the cache.

        That is before (z - shift) * scale, as samples of a trained net are stored. A pixel x in
        -1..1 is clamp(127.5 x + half, 0, 255) without its fraction: 128 rounds, 127.5 cuts off.
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
        found = {
            "channels": config.latent_channels,
            "down": 2 ** (len(config.block_out_channels) - 1),
            "scale": config.get("scaling_factor") or 1.0,
            "shift": config.get("shift_factor") or 0.0,
        }
        for option, value in found.items():
            if getattr(self, option) != value:
                raise ReedError(
                    f"{self.name}.{option} is {getattr(self, option)}, the autoencoder in {folder} "
                    f"has {value}: --set {self.name}.{option}={value}"
                )


def _renamed(key: str) -> str:
    """A parameter by the name that today's library gives it."""
    old = re.fullmatch(r"(.*\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", key)
    return f"{old[1]}.{RENAMED[old[2]]}.{old[3]}" if old else key


ENCODERS.register("sd-vae")(
    partial(
        Vae,
        name="sd-vae",
        hub="stabilityai/sd-vae-ft-mse@31f26fdeee1355a5c34592e401dd41e45d25a493",
        licence="MIT",
    )
)
