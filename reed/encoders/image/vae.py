"""Images as the latents of an autoencoder, which a latent model generates."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reed import weights as files
from reed.build.shard import Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.image.batches import bytes_of, check_precision, handed_over, images
from reed.encoders.image.diffusers_model import DiffusersModel
from reed.encoders.image.latents import FAMILY, Latents, is_known, latents_of, patched, unpatched
from reed.errors import ReedError, suggest
from reed.precision import computing
from reed.weights import Found

if TYPE_CHECKING:
    import torch


@dataclass
class Vae(DiffusersModel):
    """Mean and standard deviation (not its logarithm) of a diffusers autoencoder's posterior.

    The field ``moments``, [2 ``channels``, ``resolution`` / ``down``, ``resolution`` / ``down``],
    holds the means first, in the scale of the encoder; a net sees ``(z - shift) * scale``. Images
    enter the encoder as x / 127.5 - 1. An autoencoder that gives one latent per image (DC-AE) has
    the field ``latents`` in place of ``moments``, [``channels``, …].

    ``resolution`` is compared with the images; ``channels``, ``down``, ``scale`` and ``shift`` are
    compared with config.json, from which they come where they are None.

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

    name: str
    hub: str
    licence: str = ""
    subfolder: str = ""
    weights: str | None = None
    resolution: int = 256
    channels: int | None = None
    down: int | None = None
    scale: float | None = None
    shift: float | None = None
    precision: str = "fp32"
    batch_size: int = 16

    _model: Any = field(default=None, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)
    _known: Latents | None = field(default=None, init=False, repr=False)

    reads = ("image",)

    def __post_init__(self) -> None:
        check_precision(self.name, self.precision)
        if self.down is not None:
            self._check_down(self.down)

    @property
    def source_settings(self) -> Mapping[str, Any]:
        """The resolution, because images are not resized."""
        return {"resolution": self.resolution}

    @property
    def fields(self) -> tuple[Field, ...]:
        """The field ``moments`` or ``latents``; its codec refuses what float16 cannot hold."""
        known = self.latents
        side = self.resolution // known.down
        name, kind, count = ("moments", "moments", 2) if known.is_drawn else ("latents", "data", 1)
        shape = (count * known.channels, side, side)
        return (Field(name, kind, shape, "float16", known.scale, known.shift),)

    @property
    def latents(self) -> Latents:
        """The latents: as the options state them, else as the files say, which are opened."""
        given = (self.channels, self.down, self.scale, self.shift)
        if self._known is None:
            channels, down, scale, shift = given
            if channels and down and scale is not None and shift is not None:
                self._known = Latents(channels, down, (scale,), (shift,))
            else:
                found = self._find()
                self._known = self._said(found, self._config(found))
                self._compare(self._known, found.folder)
                self._check_down(self._known.down)
        return self._known

    def revision(self) -> str:
        """Return weights, configuration, precision and library, without loading the model."""
        known = self.latents
        what = "mean+std" if known.is_drawn else "latent"
        what += f" {known.patch}x{known.patch}" if known.patch > 1 else ""
        how = f"x/127.5-1 {self.resolution}px {what} {self.precision}"
        return self._revision(self._find(), how)

    def load(self, device: str) -> None:
        """Load the autoencoder onto ``device``.

        Raises:
            ReedError: The autoencoder differs from the options, or is of another class.
        """
        found = self._find()
        config = self._config(found)
        said = self._said(found, config)
        model_class = self._class(found, config)
        model = self._built(model_class, found, config)
        model = self._filled(model, self._state(found), found, device)
        self._compare(said, found.folder)
        self._model, self._device, self._known = model, device, said

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``moments``, float32 [B, 2 ``channels``, h, w], or ``latents``, [B, …, h, w].

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
                f"{self.resolution}: {self._option('resolution', pixels.shape[-1])}"
            )

        # The deviation is stored instead of its logarithm, so that a draw needs no exponential.
        patch = self.latents.patch
        with computing(self._device, self.precision):
            encoded = self._model.encode(pixels.float() / 127.5 - 1)
            if not self.latents.is_drawn:
                return {"latents": handed_over(patched(encoded.latent, patch))}
            posterior = encoded.latent_dist
            parts = [patched(part, patch) for part in (posterior.mean, posterior.std)]
            moments = torch.cat(parts, dim=1)
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
            pixels = self._model.decode(unpatched(z, self.latents.patch)).sample.float()
            return bytes_of(pixels, half)

    def _class(self, found: Found, config: Mapping[str, Any]) -> Any:
        family = str(config.get("_class_name", FAMILY))
        model_class = getattr(files.library("diffusers"), family, None)
        if model_class is None or not is_known(family):
            raise ReedError(
                f"{self.name}: {found.folder} is of the class {family!r}; use a diffusers "
                f"autoencoder whose class begins with {FAMILY}, or AutoencoderDC"
            )
        return model_class

    def _said(self, found: Found, config: Mapping[str, Any]) -> Latents:
        """Return the latents as the files say; a setting that config.json lacks has its default."""
        given = inspect.signature(self._class(found, config).__init__).parameters.values()
        defaults = {p.name: p.default for p in given if p.default is not p.empty}
        try:
            return latents_of(defaults | dict(config), lambda: self._state(found))
        except ReedError as error:
            raise ReedError(
                f"{self.name}: {found.files[0].parent / 'config.json'}: {error}"
            ) from error

    def _check_down(self, down: int) -> None:
        if down < 1 or self.resolution < 1 or self.resolution % down:
            near = max(1, round(self.resolution / max(down, 1))) * down
            raise ReedError(
                f"{self.name}.resolution {self.resolution} is not a multiple of "
                f"{self.name}.down {down}, the pixels per latent pixel; a near one: "
                f"{self._option('resolution', near)}"
            )

    def _compare(self, said: Latents, folder: Path) -> None:
        """Raise ReedError unless the options are those of the autoencoder."""
        one = {"scale": said.scale, "shift": said.shift}
        actual: dict[str, Any] = {"channels": said.channels, "down": said.down}
        actual |= {n: numbers[0] if len(numbers) == 1 else numbers for n, numbers in one.items()}
        for option, value in actual.items():
            if (given := getattr(self, option)) is not None and given != value:
                raise ReedError(
                    f"{self.name}.{option} is {given}, the autoencoder in {folder} "
                    f"has {value}: {self._option(option, value)}"
                )


ENCODERS.register("sd-vae")(
    partial(
        Vae,
        name="sd-vae",
        hub="stabilityai/sd-vae-ft-mse@31f26fdeee1355a5c34592e401dd41e45d25a493",
        licence="MIT",
        channels=4,
        down=8,
        scale=0.18215,
        shift=0.0,
    )
)


# diffusers:NAME -> where the weights are; what the latents are is in their files.
PUBLIC = {
    "dc-ae-f32c32": "mit-han-lab/dc-ae-f32c32-in-1.0-diffusers",
    "e2e-flux-vae": "REPA-E/e2e-flux-vae",
    "e2e-invae": "REPA-E/e2e-invae-hf",
    "e2e-sd3.5-vae": "REPA-E/e2e-sd3.5-vae",
    "e2e-sdvae": "REPA-E/e2e-sdvae-hf",
    "e2e-vavae": "REPA-E/e2e-vavae-hf",
    "flux.1": "black-forest-labs/FLUX.1-dev/vae",
    "flux.2": "black-forest-labs/FLUX.2-dev/vae",
    "sd3.5": "stabilityai/stable-diffusion-3.5-large/vae",
    "sdxl": "madebyollin/sdxl-vae-fp16-fix",
}


def of_diffusers(name: str) -> partial[Vae]:
    """Return the encoder "diffusers:NAME".

    Args:
        name: A key of PUBLIC; or a repository of the hub, OWNER/NAME or OWNER/NAME/FOLDER, either
            with @REVISION; or a path that begins with ".", "/" or "~".

    Raises:
        ReedError: It is none of these.
    """
    known = {"name": f"diffusers:{name}", "licence": "as stated with the weights"}
    if name.startswith((".", "/", "~")):
        return partial(Vae, **known, hub="", weights=name)
    place, at, revision = PUBLIC.get(name, name).partition("@")
    owner, *rest = place.split("/", 2)
    if not rest or not all((owner, *rest)):
        hint = suggest(name, PUBLIC)
        raise ReedError(f"diffusers:{name} is neither OWNER/NAME of the hub nor a path.{hint}")
    return partial(
        Vae, **known, hub=f"{owner}/{rest[0]}{at}{revision}", subfolder="".join(rest[1:])
    )


ENCODERS.prefixes["diffusers"] = of_diffusers
