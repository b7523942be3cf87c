"""Images and image latents: flow matching with SiT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reed import config
from reed.cache import classes
from reed.cache.schema import Field
from reed.domains.base import DOMAINS, Batch, Noised, Warp
from reed.domains.image_fields import (
    as_image,
    as_stored,
    check_fields,
    net_shape,
    per_channel,
)
from reed.domains.image_guided import Request, drawn_with_guides
from reed.domains.image_options import SampleOptions
from reed.errors import ReedError
from reed.flows import samplers
from reed.flows.autoguidance import Pair, autoguided_velocity
from reed.flows.paths import get_path, get_time_law, interpolate, steepness, velocity_to
from reed.guides.guide import guides_of
from reed.nets import later_public
from reed.nets.sit import OWN, SiT, SiTConfig, sit_config
from reed.picture import grid, stretched, to_uint8
from reed.seeding import Draws, seed_for

PREDICTIONS = ("v", "x")


@DOMAINS.register("image")
@dataclass(frozen=True)
class ImageDomain:
    """Velocity matching on a linear or cosine path between an image (t = 0) and noise (t = 1).

    Attributes:
        classes: Number of labels.
        label_dropout: Probability that a sample is trained without its label. With 0, the net has
            no null class and cannot be guided; with 1, it is unconditional.
        path: Path from data to noise (see reed.flows.paths).
        times: Distribution of t (see reed.flows.paths); the sampler's grid has its shift.
        predict: What the net predicts: "v", the velocity, or "x", the data.
        floor: With "x", smallest divisor on the way from the data to the velocity.
        size: A published net, such as "SiT-XL/2"; empty to use net_settings alone.
        grid: Tokens per side of the net, from which patch_size follows; 0 for that of net_settings.
        net_settings: Fields of SiTConfig, which override those of `size`.
    """

    roles = ("x", "label")
    losses = ("diffusion",)
    standardised = ("x",)
    limits = {"label": "classes"}  # the label `classes` means "no label"
    sampling = SampleOptions
    shared = ("classes", "is_unconditional", "path", "predict", "floor")

    classes: int
    label_dropout: float = 0.1
    path: str = "linear"
    times: str = "uniform"
    predict: str = "v"
    floor: float = 0.05
    size: str = ""
    grid: int = 0
    net_settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        get_path(self.path)
        if get_time_law(self.times).shift != 1 and self.path != "linear":
            raise ReedError(f"times are {self.times!r} and path is {self.path!r}; use path linear")
        if self.predict not in PREDICTIONS:
            raise ReedError(f"predict is {self.predict!r}, it must be one of {PREDICTIONS}")
        if not 0 < self.floor < 1:
            raise ReedError(f"floor is {self.floor}, it must be between 0 and 1")
        if not 0 <= self.label_dropout <= 1:
            raise ReedError(f"label_dropout is {self.label_dropout}, it must be in [0, 1]")

    @property
    def is_unconditional(self) -> bool:
        """Whether the net never sees a label."""
        return self.label_dropout == 1

    def net(self, fields: Mapping[str, Field]) -> SiT:
        """Return a SiT for the shape of the field `x`, [C, H, W] with H = W, or tokens [H W, C]."""
        check_fields(fields["x"], fields["label"])
        channels, height, width = net_shape(fields["x"])
        if height != width:
            raise ReedError(f"SiT needs square data, {fields['x'].name!r} is {height}x{width}")

        # Sizes that the cache and the domain determine must not be set a second time.
        published = config.plain(sit_config(self.size)) if self.size else {}
        derived = {
            "input_size": height,
            "in_channels": channels,
            "num_classes": self.classes,
            "null_class": self.label_dropout > 0,
        }
        if self.grid:
            if height % self.grid:
                problem = f"domain.grid is {self.grid}, {fields['x'].name!r} is {height}x{width}"
                raise ReedError(f"{problem}: its side must be a multiple of the grid")
            derived["patch_size"] = height // self.grid
        for name in derived:
            if name in self.net_settings:
                raise ReedError(
                    f"net_settings.{name} follows from the cache and the domain; drop it"
                )
        return SiT(config.build(SiTConfig, published | self.net_settings | derived, "net_settings"))

    def published(self) -> dict[str, Any]:
        """Return settings as the training code of REPA and SiT names them in `args`."""
        shape = config.plain(sit_config(self.size)) if self.size else {}
        shape |= self.net_settings
        more = [n for n in OWN if shape.get(n, getattr(SiTConfig, n)) != getattr(SiTConfig, n)]
        later = later_public.layout_of(shape, self.predict, self.path) if more else ""
        if more and not later:
            raise ReedError(
                f"the public layout has no net with {', '.join(more)}; start another run from this "
                "one with reed-train --init RUN"
            )

        said = {
            "num_heads": shape.get("num_heads", SiTConfig.num_heads),
            "num_classes": self.classes,
            "path_type": self.path,
        }
        # Sampling depends on these settings, too; the public code has no names for them.
        if self.predict != "v" or get_time_law(self.times).shift != 1:
            said |= {"prediction": self.predict, "floor": self.floor, "times": self.times}
        if later:
            ratio = shape.get("mlp_ratio", SiTConfig.mlp_ratio)
            said |= {"layout": later, "mlp_ratio": ratio, "pred_type": self.predict}
        return said

    def collate(
        self,
        values: Mapping[str, Tensor],
        fields: Mapping[str, Field],
        targets: dict[str, Tensor],
        mask: Tensor | None = None,
    ) -> Batch:
        """Make a batch of labels [B] and "x" [B, C, H, W] in the net's scale.

        If moments are stored, "x" is the mean, and "std" has its standard deviation.
        """
        field, data = fields["x"], {"label": values["label"]}
        if field.kind == "moments":
            mean, std = values["x"].chunk(2, dim=1)
            data["std"] = std * per_channel(field.scale, std)
        else:
            mean = as_image(values["x"].float(), field)  # pixels may be stored as integers
        data["x"] = (mean - per_channel(field.shift, mean)) * per_channel(field.scale, mean)
        return Batch(data, targets, mask)

    def corrupt(self, batch: Batch, draws: Draws, warp: Warp | None = None) -> Noised:
        """Compute x_t and the velocity there.

        The order of draws is posterior, time, noise, label dropout.
        """
        x, label = batch.data["x"], batch.data["label"]
        if "std" in batch.data:
            x = x + batch.data["std"] * draws.normal(*x.shape[1:])
        path, law = get_path(self.path), get_time_law(self.times)
        drawn = law.times(getattr(draws, law.draws)(), path)  # [B]
        t = drawn if warp is None else warp(drawn)
        x_t, velocity = interpolate(path, x, draws.normal(*x.shape[1:]), t)
        if self.label_dropout > 0:
            label = torch.where(draws.uniform() < self.label_dropout, self.classes, label)
        target = x if self.predict == "x" else velocity
        return Noised({"x": x_t, "t": t, "y": label}, t, target, drawn)

    def loss(self, prediction: Tensor, noised: Noised, batch: Batch) -> dict[str, Tensor]:
        """Return the mean squared error of the velocity, [B], in float32."""
        error = prediction.float() - noised.target
        if self.predict == "x":
            error = error * steepness(get_path(self.path), noised.t, self.floor, error.ndim)
        return {"diffusion": error.square().flatten(1).mean(1)}

    def _velocity(self, prediction: Tensor, x_t: Tensor, t: float) -> Tensor:
        """Return the velocity that a prediction stands for, [B, C, H, W] float64."""
        if self.predict == "v":
            return prediction
        times = torch.full((len(x_t),), t, dtype=x_t.dtype, device=x_t.device)
        return velocity_to(get_path(self.path), prediction, x_t, times, self.floor)

    def generate(
        self, net: nn.Module, fields: Mapping[str, Field], indices: range, options: SampleOptions
    ) -> dict[str, np.ndarray]:
        """Draw samples in the scale of the stored data: "x" [N, C, H, W] float32, "label" [N].

        Of tokens, "x" is [N, T, C]. A net with guides also gives the representations that were
        drawn, as "z/NAME".
        """
        field, device = fields["x"], next(net.parameters()).device
        samples = [_SampleNoise(options.seed, index, self.classes) for index in indices]
        labels = [sample.label(options.labels) for sample in samples]
        if chosen := self.with_names(options, ()).label:
            labels = [int(chosen[index % len(chosen)]) for index in indices]
        if self.is_unconditional:  # such a net knows the null class alone
            _check_unconditional(options, isinstance(net, Pair))
            labels = [self.classes] * len(samples)
        y = torch.tensor(labels, device=device)
        shape = net_shape(field)

        def noise(step: int) -> Tensor:
            return torch.stack([sample.normal(shape, step) for sample in samples]).to(device)

        null = self.classes if self.label_dropout > 0 else None
        shift = get_time_law(self.times).shift
        drawn: dict[str, np.ndarray] = {}
        if (guides := guides_of(net)) is not None:
            path = get_path(self.path)
            request = Request(y, null, options, indices, path, shift, self._velocity)
            x, drawn = drawn_with_guides(net, guides, request, noise)
        else:
            guidance, read = options.guidance, self._velocity
            if isinstance(net, Pair):
                velocity = autoguided_velocity(net, y, guidance, read)
            else:
                velocity = samplers.guided_velocity(net, y, null, guidance, read)
            start, steps = noise(-1), options.steps
            if options.sampler == "sde":
                path = get_path(self.path)
                x = samplers.sde(velocity, start, steps, path, noise, shift=shift)
            else:
                x = samplers.ode(velocity, start, steps, options.sampler == "heun", shift)

        # Back from the net's scale to that of the stored data; the inverse of `collate`.
        x = x.float()
        x = x / per_channel(field.scale, x) + per_channel(field.shift, x)
        return {"x": as_stored(x, field).cpu().numpy(), "label": y.cpu().numpy(), **drawn}

    def with_names(self, options: SampleOptions, names: Sequence[str]) -> SampleOptions:
        """Return the options with numbers for the names of classes; see `Named`."""
        numbers = [classes.number_of(label, names, self.classes) for label in options.label]
        return replace(options, label=tuple(map(str, numbers)))

    def picture(self, samples: Mapping[str, Any], fields: Mapping[str, Field]) -> np.ndarray:
        """Draw the samples in a grid; of latents, the first three channels, with full contrast."""
        x = as_image(torch.as_tensor(samples["x"]), fields["x"]).numpy()
        are_pixels = fields["x"].kind == "data" and x.shape[1] in (1, 3)
        images = to_uint8(x, fields["x"]) if are_pixels else stretched(x)
        return grid(images, columns=math.ceil(math.sqrt(len(images))))


@dataclass(frozen=True)
class _SampleNoise:
    """The random numbers of sample `index`, which depend only on (seed, index)."""

    seed: int
    index: int
    classes: int

    def label(self, policy: str) -> int:
        """Return the label of the sample; policy: balanced or random."""
        if policy == "balanced":
            return self.index % self.classes
        return seed_for(self.seed, "label", self.index) % self.classes

    def normal(self, shape: tuple[int, ...], step: int) -> Tensor:
        """Draw standard normal numbers for a step of the sampler; step -1 is the initial noise."""
        seed = seed_for(self.seed, "sample", self.index, step)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _check_unconditional(options: SampleOptions, is_pair: bool) -> None:
    scale, label = 1.0 if is_pair else options.guidance.scale, options.label
    if scale > 1 or label:
        asked = f"--label {label[0]}" if label else f"guidance scale {scale}"
        raise ReedError(
            f"{asked} needs labels, and this net was trained without any (domain.label_dropout = "
            "1); leave it out"
        )
