"""make bench-molecule: Semla's coordinate attention against one that holds every direction.

The net of SemlaFlow at its published sizes with random weights, float32, forward and backward. Ours
takes distances from a Gram matrix and never forms the directions between atoms; the baseline, our
own, forms them for every pair and set of coordinates, [B, 3, N, N, S], normalises and sums them.
Both give the same numbers, outputs and gradients at the inputs, which is checked first.

"attention" is that module alone, "layer" a middle layer of the net with either inside. Memory is
what autograd keeps between the passes, every storage once, without the weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))
import report
import torch
from torch import Tensor, nn

from reed.nets.semla_layers import EPS, CoordAttention, Layer, SemlaConfig, attention

TOLERANCE = 1e-4  # of the largest value


class Directions(CoordAttention):
    """The same, by the unit vectors between all atoms."""

    def forward(self, x: Tensor, messages: Tensor, pairs: Tensor, mask: Tensor) -> Tensor:
        x = self.coord_proj(self.coord_norm(x, mask).transpose(1, -1))  # [B, 3, N, S]
        apart = x[:, :, :, None] - x[:, :, None]  # [B, 3, N, N, S]
        lengths = apart.square().sum(1, keepdim=True).clamp(min=1e-12).sqrt()
        directions = apart / (lengths + EPS)
        weight = attention(messages, pairs)
        moved = (weight[:, None] * directions).sum(3)  # [B, 3, N, S]
        spread = (weight.square().sum(2) + EPS**2).sqrt()
        return self.attn_proj(moved * spread[:, None]).transpose(1, -1)


def inputs(config: SemlaConfig, batch: int, atoms: int) -> dict[str, Tensor]:
    """Random molecules of at least half of `atoms`; x [B, S, N, 3], h [B, N, D], m [B, N, N, S]."""
    mask = torch.arange(atoms) < torch.linspace(atoms / 2, atoms, batch)[:, None].ceil()
    pairs = mask[:, :, None] & mask[:, None] & ~torch.eye(atoms, dtype=torch.bool)
    x = torch.randn(batch, config.sets, atoms, 3) * mask[:, None, :, None]
    return {
        "x": x.requires_grad_(),
        "h": torch.randn(batch, atoms, config.width).requires_grad_(),
        "messages": torch.randn(batch, atoms, atoms, config.sets).requires_grad_(),
        "pairs": pairs,
        "mask": mask,
    }


def ways_of(config: SemlaConfig, given: dict[str, Tensor]) -> dict[str, tuple[nn.Module, Callable]]:
    """Name -> module, and its forward pass on what is given; each pair has the same weights."""
    x, h, messages, pairs, mask = given.values()
    found: dict[str, tuple[nn.Module, Callable]] = {}
    for name, kind in (("ours", CoordAttention), ("directions", Directions)):
        torch.manual_seed(0)
        layer = Layer(config, takes=False, gives=False)
        alone = kind(config.sets)
        alone.load_state_dict(layer.coord_attn.state_dict())
        layer.coord_attn = alone
        found[f"attention, {name}"] = (alone, lambda m=alone: (m(x, messages, pairs, mask),))
        found[f"layer, {name}"] = (layer, lambda m=layer: m(x, h, pairs, mask, None)[:2])
    return found


def step(way: Callable[[], tuple[Tensor, ...]]) -> None:
    """Forward and backward, from the sum of squares."""
    sum(out.square().sum() for out in way()).backward()


def seconds(way: Callable[[], tuple[Tensor, ...]]) -> float:
    """CPU time of one step."""
    began = process_time()
    step(way)
    return process_time() - began


def kept(module: nn.Module, way: Callable[[], tuple[Tensor, ...]]) -> float:
    """MB that autograd keeps for the backward pass, without the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
    found: dict[int, Any] = {}  # the storages themselves, so that no place is used twice

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = way()
    del out
    return sum(storage.nbytes() for storage in found.values()) / 2**20


def difference(
    ways: dict[str, tuple[nn.Module, Callable]], part: str, leaves: Sequence[Tensor]
) -> float:
    """The largest difference of outputs and of gradients at the inputs, in its largest value."""
    results = []
    for name in ("ours", "directions"):
        out = ways[f"{part}, {name}"][1]()
        loss = sum(each.square().sum() for each in out)
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        results.append([*out, *(each for each in gradients if each is not None)])
    return max(
        float(((one - other).abs().max() / other.abs().max()).detach())
        for one, other in zip(*results, strict=True)
    )


def measure(config: SemlaConfig, batch: int, atoms: int, runs: int) -> list[report.Figure]:
    """CPU seconds and MB of both ways, and their ratios."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    given = inputs(config, batch, atoms)
    ways = ways_of(config, given)
    leaves = [given[name] for name in ("x", "h", "messages")]
    what = f"{batch} molecules of up to {atoms} atoms"
    figures = []
    for part in ("attention", "layer"):
        off = difference(ways, part, leaves)
        assert off < TOLERANCE, f"{part}: ours and the baseline differ by {off:.2g}"
        figures.append(report.figure(f"{part}: largest difference", [off], "share", what))
    times = report.interleaved({n: lambda w=w: seconds(w) for n, (_, w) in ways.items()}, runs)
    memory = {name: [kept(*both)] for name, both in ways.items()}
    for values, unit, title in ((times, "CPU s", "time"), (memory, "MB kept", "memory")):
        figures += [report.figure(f"{n}: {title}", v, unit, what) for n, v in values.items()]
        for part in ("attention", "layer"):
            ratio = report.ratios(values, f"{part}, directions", f"{part}, ours")
            figures.append(replace(ratio, name=f"{ratio.name}: {title}"))
    return figures


@click.command()
@click.option("--batch", default=8, show_default=True, help="Molecules.")
@click.option("--atoms", default=48, show_default=True, help="Of the largest of them.")
@click.option("--runs", default=7, show_default=True)
def main(batch: int, atoms: int, runs: int) -> None:
    """Measure both, print a table, write runs/bench/molecule.json."""
    figures = measure(SemlaConfig(), batch, atoms, runs)
    what = "Coordinate attention by a Gram matrix, and by all directions between atoms"
    report.publish("molecule", what, figures)


if __name__ == "__main__":
    main()
