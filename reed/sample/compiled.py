"""Sampling with a compiled net: blocks by torch.compile, and on a GPU one recorded pass.

Every shape has a graph of its own (`dynamic=False`): with one for all shapes, the bits of a sample
would depend on the batch that a process happens to draw first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reed.domains.base import FixedShapes
from reed.errors import ReedError
from reed.nets import Net

if TYPE_CHECKING:
    from reed.sample.sampler import Sampler

SHAPES = 64  # most graphs that blocks may share; torch's default of 8 is too few for two nets
TIMED = 3  # passes of each kind that are timed; the faster one counts

Forward = Callable[..., Any]
# Maps a forward pass and its inputs to a function that repeats the pass for other such inputs.
Recorder = Callable[[Forward, tuple[Tensor, ...]], Forward]


@dataclass
class Cost:
    """What the passes with inputs of one shape cost.

    Attributes:
        eager: Seconds of a pass that is not compiled.
        first: Seconds until the first compiled pass is done, compiling included.
        later: Seconds of every other compiled pass.
        calls: How often this shape was asked for.
    """

    eager: float
    first: float
    later: float
    calls: int = 0


class Passes:
    """The forward pass of a net with compiled blocks, which also measures what compiling gains.

    Args:
        forward: The forward pass.
        record: Makes a pass that is repeated as it is; None to call `forward` each time. A pass
            with keywords, as nets with guides have, is never recorded.
        finish: Waits until the device is done, for the clock.
    """

    def __init__(
        self,
        forward: Forward,
        record: Recorder | None = None,
        finish: Callable[[], None] = lambda: None,
    ) -> None:
        self._forward, self._record, self._finish = forward, record, finish
        self._ready: dict[Any, Forward] = {}
        self.costs: dict[Any, Cost] = {}

    def __call__(self, *inputs: Tensor, **named: Any) -> Any:
        """Return what the net gives."""
        shapes = tuple((tuple(x.shape), x.dtype) for x in inputs)
        key = (shapes, *sorted(name for name, value in named.items() if value is not None))
        if key not in self._ready:
            self._prepare(key, inputs, named)
        self.costs[key].calls += 1
        return self._ready[key](*inputs, **named)

    def _prepare(self, key: Any, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        """Compile for the shapes of these inputs, and measure the passes before and after."""
        with torch.compiler.set_stance("force_eager"):
            eager = min(self._seconds(self._forward, inputs, named) for _ in range(TIMED))

        began, once = perf_counter(), self._forward
        if self._record is not None and not named:
            once = self._record(self._forward, inputs)
        first = self._seconds(once, inputs, named, began)
        later = min(self._seconds(once, inputs, named) for _ in range(TIMED))
        self._ready[key], self.costs[key] = once, Cost(eager, first, later)

    def _seconds(
        self,
        call: Forward,
        inputs: tuple[Tensor, ...],
        named: dict[str, Any],
        began: float | None = None,
    ) -> float:
        began = perf_counter() if began is None else began
        call(*inputs, **named)
        self._finish()
        return perf_counter() - began


class Compiled:
    """The compiled nets of a sampler.

    Args:
        passes: The forward passes of the nets.
        say: Shows a line to the user, once.
    """

    def __init__(self, passes: list[Passes], say: Callable[[str], None]) -> None:
        self._passes, self._say, self._has_said = passes, say, False

    def drew(self, size: int) -> None:
        """Say after the first batch, which had so many samples, when compiling will have paid."""
        if self._has_said:
            return
        costs = [cost for each in self._passes for cost in each.costs.values()]
        if calls := sum(cost.calls for cost in costs):
            self._has_said = True
            self._say(said(costs, calls, size))


def said(costs: list[Cost], calls: int, size: int) -> str:
    """Return after how many batches compiling pays, from the costs and calls of one batch."""
    spent = sum(cost.first - cost.later for cost in costs)
    eager = sum(cost.calls * cost.eager for cost in costs)
    later = sum(cost.calls * cost.later for cost in costs)
    line = f"--compile: {spent:.0f} s to compile; a pass takes {1000 * later / calls:.3g} ms"
    line += f", {1000 * eager / calls:.3g} ms without"
    if eager <= later:
        return f"{line}, so it does not pay here"
    return f"{line}, so it pays after {max(1, round(spent / (eager - later))):,} batches of {size}"


def compile_net(sampler: Sampler, say: Callable[[str], None]) -> None:
    """Compile the net of a sampler, and those that guide it.

    Args:
        sampler: The sampler; compiling is part of its recipe from now on.
        say: Shows a line to the user: after how many batches it pays.

    Raises:
        ReedError: Samples of this kind have many shapes, or nothing can be compiled here.
    """
    domain = sampler.domain
    if not (isinstance(domain, FixedShapes) and domain.fixed_shapes):
        raise ReedError(
            f"--compile needs batches of one shape, and those of kind {sampler.kind!r} have many, "
            "for each of which the net would be compiled; leave it out"
        )
    device = next(sampler.net.parameters()).device
    on_gpu = device.type == "cuda"
    check_compiler(device)

    # Equal blocks share a graph, but count together: two nets with guidance exceed torch's limit.
    import torch._dynamo

    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(SHAPES, settings.recompile_limit)

    finish = torch.cuda.synchronize if on_gpu else lambda: None
    all_passes = []
    for net in [part for part in sampler.net.modules() if isinstance(part, Net)]:
        for block in net.repeated():
            block.compile(dynamic=False, options=_options(device))
        passes = Passes(net.forward, recorded if on_gpu else None, finish)
        setattr(net, "forward", passes)  # noqa: B010 - a type checker sees a method there
        all_passes.append(passes)
    sampler.compiled = Compiled(all_passes, say)
    sampler.about["compile"] = True
    sampler.name += "-compiled"


def check_compiler(device: torch.device) -> None:
    """Raise ReedError unless torch.compile works for the device."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:  # whatever is amiss: no compiler, no Triton, a Python too new
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ReedError(
            f"--compile: torch.compile does not work on this machine for {device.type} "
            f"({(lines or [type(error).__name__])[0]}); it needs a C++ compiler such as g++, and "
            "on a GPU Triton; install them, or leave --compile out"
        ) from error


def _options(device: torch.device) -> dict[str, Any] | None:
    """Return options of the compiler: kernels of a GPU are not chosen by timing, if it can."""
    import torch._inductor.config

    known = "deterministic" in torch._inductor.config.get_config_copy()  # not before torch 2.10
    return {"deterministic": True} if known and device.type == "cuda" else None


def recorded(forward: Forward, inputs: tuple[Tensor, ...]) -> Forward:
    """Record a pass as one CUDA graph, which is launched as a whole from then on.

    Args:
        forward: The forward pass, which returns the prediction and states at no taps.
        inputs: Inputs of the shapes that all later ones have.

    Returns:
        A function of other inputs, which are copied to where the graph reads them.
    """
    kind = inputs[0].device.type
    buffers = [x.clone() for x in inputs]
    # Weights that autocast has cast and keeps would be gone when the graph is launched again.
    cast = torch.autocast(
        kind,
        dtype=torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,
    )

    # Kernels are compiled and loaded beforehand, as neither may happen while recording.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), cast:
        for _ in range(3):
            forward(*buffers)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), cast:
        out = forward(*buffers)[0]

    def replay(*given: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        for buffer, x in zip(buffers, given, strict=True):
            buffer.copy_(x)
        graph.replay()
        return out.clone(), {}

    return replay
