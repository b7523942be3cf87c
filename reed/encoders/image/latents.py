"""What the latents of diffusers' autoencoders are, as config.json and the weights say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reed.errors import ReedError

if TYPE_CHECKING:
    import torch

FAMILY = "AutoencoderKL"  # autoencoders whose posterior has a mean and a standard deviation

STATED = (  # settings that say what the latents are
    "latent_channels",
    "block_out_channels",
    "encoder_block_out_channels",
    "scaling_factor",
    "shift_factor",
    "latents_mean",
    "latents_std",
    "patch_size",
    "batch_norm_eps",
)
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Latents:
    """The latents of an autoencoder.

    Attributes:
        channels: Channels that a net sees.
        down: Pixels per latent pixel and side.
        scale, shift: A net sees (z - shift) * scale; one number, or one per channel.
        is_drawn: Whether an image has a distribution of latents, and not one latent.
        patch: Latent pixels per side that become the channels of one.
    """

    channels: int
    down: int
    scale: Numbers
    shift: Numbers
    is_drawn: bool = True
    patch: int = 1


def is_known(family: str) -> bool:
    """Return whether the latents of a class of diffusers are known here."""
    return family in _MAKERS or family.startswith(FAMILY)


def latents_of(config: Mapping[str, Any], state: Callable[[], Mapping[str, Any]]) -> Latents:
    """Return the latents of an autoencoder of a known class.

    Args:
        config: The content of config.json, with the defaults of its class.
        state: Reads the weights, which only some classes need.

    Raises:
        ReedError: The configuration lacks what autoencoders of images state.
    """
    family = str(config.get("_class_name", FAMILY))
    try:
        latents = _MAKERS.get(family, _of_kl)(config, state)
    except KeyError as error:
        raise ReedError(
            f"an autoencoder of the class {family!r} has no {error}, so its latents are not those "
            "of one image; use an autoencoder of images"
        ) from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        said = {name: config[name] for name in STATED if name in config}
        raise ReedError(
            f"it says of its latents {said}, and some of it is not what diffusers writes "
            f"({error}); download it again"
        ) from error

    # A factor of 0 or nan, or of fewer channels than there are, would train a net on nothing.
    for name, numbers in (("scale", latents.scale), ("shift", latents.shift)):
        if len(numbers) not in (1, latents.channels):
            problem = f"the {name} has {len(numbers)} numbers, the latents {latents.channels}"
            raise ReedError(f"{problem} channels; download it again")
        if not all(map(math.isfinite, numbers)) or (name == "scale" and min(numbers) <= 0):
            want = "above 0" if name == "scale" else "finite"
            shown = ", ".join(f"{number:g}" for number in numbers[:8])
            raise ReedError(f"the {name} of the latents is {shown}, which must be {want}")
    return latents


def _factor(config: Mapping[str, Any]) -> float:
    """Return the scaling factor, which is 1 where none is stated."""
    factor = config.get("scaling_factor")
    return 1.0 if factor is None else float(factor)


def _whole(config: Mapping[str, Any], name: str) -> int:
    if type(number := config[name]) is not int or number < 1:
        raise ValueError(f"{name} is {number!r}")
    return number


def _down(stages: Sequence[int]) -> int:
    """Return the pixels per latent pixel: every stage but the last halves the side."""
    if not len(stages):
        raise ValueError("there are no stages")
    return 2 ** (len(stages) - 1)


def _of_kl(config: Mapping[str, Any], state: Callable[[], Mapping[str, Any]]) -> Latents:
    """Latents of AutoencoderKL, scaled as the pipelines of Stable Diffusion (XL, 3) do it."""
    channels, factor = _whole(config, "latent_channels"), _factor(config)
    down = _down(config["block_out_channels"])
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean and std:
        scale = tuple(factor / float(number) for number in std)
        return Latents(channels, down, scale, tuple(float(number) for number in mean))
    return Latents(channels, down, (factor,), (float(config.get("shift_factor") or 0),))


def _of_flux2(config: Mapping[str, Any], state: Callable[[], Mapping[str, Any]]) -> Latents:
    """Latents of FLUX.2: patches of 2 x 2, standardised by the running statistics of a norm."""
    import torch

    patch, _ = config.get("patch_size") or (2, 2)
    tensors, eps = state(), config.get("batch_norm_eps", 1e-4)
    mean, variance = (tensors[f"bn.running_{name}"].float() for name in ("mean", "var"))
    scale = 1 / torch.sqrt(variance + eps)
    down = _down(config["block_out_channels"]) * patch
    channels = _whole(config, "latent_channels") * patch**2
    return Latents(channels, down, tuple(scale.tolist()), tuple(mean.tolist()), patch=patch)


def _of_dc(config: Mapping[str, Any], state: Callable[[], Mapping[str, Any]]) -> Latents:
    """Latents of DC-AE, one per image, scaled as the pipelines of SANA do it."""
    down = _down(config["encoder_block_out_channels"])
    channels, scale = _whole(config, "latent_channels"), (_factor(config),)
    return Latents(channels, down, scale, (0.0,), is_drawn=False)


_MAKERS = {"AutoencoderDC": _of_dc, "AutoencoderKLFlux2": _of_flux2}


def patched(z: torch.Tensor, patch: int) -> torch.Tensor:
    """Return [B, C, h p, w p] as [B, C p², h, w]: channel, then row and column in the patch."""
    if patch == 1:
        return z
    z = z.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [B, C, h, p, w, p]
    return z.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def unpatched(z: torch.Tensor, patch: int) -> torch.Tensor:
    """Return what `patched` was given."""
    if patch == 1:
        return z
    z = z.unflatten(1, (-1, patch, patch)).permute(0, 1, 4, 2, 5, 3)  # [B, C, h, p, w, p]
    return z.flatten(4, 5).flatten(2, 3)
