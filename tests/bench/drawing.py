"""Rows of make bench-gpu: drawing images, with the net as it is, compiled, and the public way.

The net has random weights. "public" keeps its state in float64 and doubles the batch at every step,
as SiT's forward_with_cfg does; with guidance on [0, 0.7] and without. All ways draw the same
batch, in the precision of the setting, in turn. "seconds to compile" is what the first compiled
batch took more than the later ones. "differ" is the largest difference of compiled samples from the
others, over the largest value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import report

SEED = 0


@dataclass(frozen=True)
class Drawing:
    """What is drawn: a net of SiT, latents of so many channels and pixels, and how."""

    name: str
    net: dict[str, Any] = field(default_factory=dict)
    latents: tuple[int, int] = (4, 32)
    batch: int = 64
    steps: int = 10
    precision: str = "bf16"


def sampler_of(drawing: Drawing, device: str) -> Any:
    """A sampler of random weights, the same at each call."""
    import torch

    from reed.cache.schema import Field
    from reed.domains.image import ImageDomain
    from reed.sample.sampler import Sampler

    channels, side = drawing.latents
    fields = {"x": Field("x", "data", (channels, side, side)), "label": Field("label", "label", ())}
    domain = ImageDomain(classes=1000, **drawing.net)
    torch.manual_seed(SEED)
    with torch.device(device):
        net = domain.net(fields)
        for weight in net.parameters():  # zeros would make a velocity of 0
            weight.data += 0.02 * torch.randn_like(weight)
    about = {"step": 0, "checkpoint": "random weights"}
    return Sampler(net, "image", domain, fields, {}, about, "random", drawing.precision)


def public(sampler: Any, drawing: Drawing, guided: bool) -> Callable[[], Any]:
    """A batch by the sampler that doubles every step."""
    import torch

    from reed.flows.samplers import ode
    from reed.precision import computing

    device = next(sampler.net.parameters()).device
    channels, side = drawing.latents
    y = torch.arange(drawing.batch, device=device) % 1000
    noise = torch.randn(drawing.batch, channels, side, side, device=device)

    def velocity(x: Any, t: float, _: float) -> Any:
        times = torch.full((2 * len(x),), t, device=device)
        labels = torch.cat([y, torch.full_like(y, 1000)])
        both = sampler.net(torch.cat([x, x]).float(), times, labels)[0].double()
        label, null = both.chunk(2)
        return null + (1.8 if guided and t <= 0.7 else 1.0) * (label - null)

    def draw() -> Any:
        with computing(str(device), drawing.precision):
            return ode(velocity, noise, drawing.steps).cpu()

    return draw


def measure(drawing: Drawing, device: str, runs: int) -> list[report.Figure]:
    """The figures: images/s of every way and their ratios, seconds to compile, the difference."""
    from reed.domains.image import SampleOptions
    from reed.flows.samplers import Guidance
    from reed.sample.compiled import compile_net

    said, lines = drawing.name, []
    eager, fast = sampler_of(drawing, device), sampler_of(drawing, device)
    compile_net(fast, lines.append)
    figures = []
    for how, guidance in (("", Guidance()), (", guided", Guidance(1.8, 0.0, 0.7))):
        options = SampleOptions("euler", drawing.steps, guidance)
        ways: dict[str, Callable[[], Any]] = {
            f"{said}{how}: plain": lambda o=options: eager.batch(0, o, drawing.batch)["x"],
            f"{said}{how}: compiled": lambda o=options: fast.batch(0, o, drawing.batch)["x"],
            f"{said}{how}: public": public(eager, drawing, guided=bool(how)),
        }
        plain, compiled, other = ways
        began = perf_counter()
        found = ways[compiled]()
        first = perf_counter() - began
        rates = report.interleaved({n: _rate(way, drawing.batch) for n, way in ways.items()}, runs)
        figures += [report.figure(name, values, "images/s") for name, values in rates.items()]
        figures += [report.ratios(rates, compiled, plain), report.ratios(rates, compiled, other)]
        figures.append(report.ratios(rates, plain, other))
        spent = first - drawing.batch / float(np.median(rates[compiled]))
        figures.append(report.figure(f"{compiled}: seconds to compile", [spent], "s"))
        as_is = ways[plain]()
        off = float(np.abs(found - as_is).max() / np.abs(as_is).max())
        figures.append(report.figure(f"{compiled}: differ", [off], "share", plain))
    print("\n".join(lines))
    return figures


def _rate(way: Callable[[], Any], images: int) -> Callable[[], float]:
    """Images per second of a call of `way`, which ends with the images on the CPU."""

    def run() -> float:
        began = perf_counter()
        way()
        return images / (perf_counter() - began)

    return run
