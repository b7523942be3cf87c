"""Drawing images from a net with guides: x and, where z is denoised beside it, z together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reed.errors import ReedError
from reed.flows import samplers
from reed.flows.paths import Path, get_path
from reed.guides.guide import Guides
from reed.guides.reading import Reading
from reed.guides.training import own_clock, x_time, z_time
from reed.guides.view import View
from reed.nets import Extra, State


@dataclass(frozen=True)
class Request:
    """The images to draw.

    Attributes:
        labels: Labels, int64 [B].
        null: The label that means "no label"; None for a net without one.
        options: Sampling options of the image domain.
        indices: Numbers of the samples.
        path: Path that the net was trained on.
        shift: Shift of the sampler's times.
        read: Makes a velocity of what the net predicts for x.
    """

    labels: Tensor
    null: int | None
    options: Any
    indices: range
    path: Path
    shift: float = 1.0
    read: samplers.Reading = samplers.as_it_is


def drawn_with_guides(
    net: nn.Module, guides: Guides, request: Request, noise: Callable[[int], Tensor]
) -> tuple[Tensor, dict[str, Any]]:
    """Draw images and their representations.

    Args:
        net: The net, to which the guides are attached.
        guides: Its guides.
        request: The images to draw.
        noise: Step (-1 for the start) -> standard normal numbers, [B, C, H, W].

    Returns:
        Images in the scale of the net, float64 [B, C, H, W], and "z/NAME" -> representations.

    Raises:
        ReedError: The guidance does not fit the net.
    """
    options = request.options
    samplers.check_steps(options.steps)
    is_sde = options.sampler == "sde"
    last, shift = samplers.LAST_STEP if is_sde else None, request.shift
    starts = samplers.starts(options.steps, last, shift)
    reading = Reading(guides, options.seed, request.indices, starts[-1], options.z)

    # What cannot be drawn is refused before the first evaluation.
    options.guidance.check_null(request.null)
    if reading.lag and is_sde:
        raise ReedError(
            f"a representation runs ahead of x by {reading.lag}, and the sampler sde moves both on "
            "one time; use euler or heun"
        )

    velocity = _Velocity(net, reading, request)
    parts = (noise(-1), *reading.start())
    if is_sde:
        paths = [request.path, *[get_path("linear")] * len(reading.joint)]

        def all_noise(step: int) -> tuple[Tensor, ...]:
            return noise(step), *[reading.noise(guide, step=step) for guide in reading.joint]

        x, *z = samplers.sde_parts(velocity, parts, options.steps, paths, all_noise, shift=shift)
    else:
        clocks = [own_clock(x_time, reading.lag)]
        clocks += [own_clock(z_time, guide.spec.config.lag) for guide in reading.joint]
        heun = options.sampler == "heun"
        x, *z = samplers.ode_parts(velocity, parts, options.steps, clocks, heun, shift)
    return x, reading.result(z)


class _Velocity:
    """The velocities of x and of the z beside it, guided where guidance is on."""

    def __init__(self, net: nn.Module, reading: Reading, request: Request) -> None:
        self._net, self._reading, self._request = net, reading, request
        self._x_time = own_clock(x_time, reading.lag)

    def __call__(self, parts: samplers.Parts, clock: float, start: float) -> samplers.Parts:
        x, *z = parts
        guidance = self._request.options.guidance

        # The corrector of a Heun step uses the representations of its beginning.
        if clock == start:
            y = self._request.labels
            view = View(
                lambda rows, extra, taps: self._net(
                    x[rows].float(), self._times(len(rows), clock), y[rows], taps=taps, extra=extra
                )[1],
                lambda rows: self._net.given(y=y[rows]),  # ty: ignore[not-callable]
            )
            self._reading.advance(clock, view, z)

        v, v_z = self._reading.evaluate(
            partial(self._call, x, clock),
            clock,
            label_scale=guidance.scale if guidance.is_on(self._x_time(start)) else 1.0,
            start=start,
            beside=z,
        )
        return self._request.read(v.double(), x, self._x_time(clock)), *v_z

    def _times(self, rows: int, clock: float) -> Tensor:
        return torch.full(
            (rows,), self._x_time(clock), dtype=torch.float32, device=self._request.labels.device
        )

    def _call(
        self, x: Tensor, clock: float, labelled: list[bool], extra: Extra, taps: Sequence[int]
    ) -> tuple[Tensor, Mapping[int, State]]:
        y, null = self._request.labels, self._request.null
        labels = [y if is_on or null is None else torch.full_like(y, null) for is_on in labelled]
        inputs = x.float().repeat(len(labelled), *[1] * (x.ndim - 1))
        times = self._times(len(inputs), clock)
        v, states = self._net(inputs, times, torch.cat(labels), taps=taps, extra=extra)
        return v.double(), states
