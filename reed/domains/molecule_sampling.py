"""Integration of molecules from noise to data, and of the representations of guides with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reed.chem.molecule import ATOMS, BONDS
from reed.domains.molecule_options import MoleculeOptions
from reed.flows import categorical
from reed.flows.categorical import anything, symmetric
from reed.guides.reading import Reading
from reed.guides.view import View
from reed.nets import Extra, State
from reed.nets.semla import probable
from reed.nets.semla_drawing import mirrored, upper
from reed.nets.semla_layers import centred
from reed.seeding import seed_for

# Name and shape -> random numbers [B, *shape], where 0 stands for the number of atoms.
Numbers = Callable[..., Tensor]
_CALL = 1_000  # pairs of atoms in whose time the net could be called once more, on a CPU


@dataclass(frozen=True)
class SampleNoise:
    """The random numbers of sample `index`, which depend only on (seed, index)."""

    seed: int
    index: int

    def pick(self, sizes: Sequence[int]) -> int:
        """Pick one of the numbers of atoms."""
        return sizes[seed_for(self.seed, "size", self.index) % len(sizes)]

    def draw(self, name: str, *shape: int) -> Tensor:
        """Draw uniform numbers, or standard normal ones if `name` is "normal"."""
        seed = seed_for(self.seed, "molecule", self.index, name)
        draw = torch.randn if name == "normal" else torch.rand
        return draw(shape, generator=torch.Generator().manual_seed(seed))


def numbers_of(samples: Sequence[SampleNoise], counts: Sequence[int], device: Any) -> Numbers:
    """Return the random numbers of samples with these numbers of atoms.

    They are drawn per molecule in its own size, so that they do not depend on the other molecules
    of the batch.
    """
    length = max(counts)

    def numbers(name: str, *shape: int) -> Tensor:
        """Draw [B, *shape], where 0 in `shape` stands for the number of atoms; pad with 0."""
        rows = torch.zeros(len(counts), *[length if n == 0 else n for n in shape])
        for row, (sample, count) in enumerate(zip(samples, counts, strict=True)):
            values = sample.draw(name, *[count if n == 0 else n for n in shape])
            rows[(row, *map(slice, values.shape))] = values
        return rows.to(device)

    return numbers


def alike(counts: Sequence[int]) -> list[list[int]]:
    """Divide molecules into groups of similar sizes, so that little work is done on padding.

    The pairs of atoms with padding, and `_CALL` for each group, are as few as possible.

    Args:
        counts: Numbers of atoms.

    Returns:
        Rows of the molecules of each group.
    """
    rows = sorted(range(len(counts)), key=lambda row: (counts[row], row))
    sizes = [counts[row] for row in rows]
    ends = [n for n, size in enumerate(sizes, 1) if [size] != sizes[n : n + 1]]

    # The cheapest division of the first `end` molecules, by the size of its last group.
    cost, begin = {0: 0}, {}
    for end in ends:
        size = sizes[end - 1]
        cost[end], begin[end] = min(
            (cost[start] + (end - start) * size * size + _CALL, start) for start in cost
        )
    groups, end = [], len(rows)
    while end:
        groups.append(rows[begin[end] : end])
        end = begin[end]
    return groups[::-1]


@dataclass
class _Molecules:
    """Half-drawn molecules: the inputs of the net at time s (0 is noise and 1 is data)."""

    coords: Tensor
    atoms: Tensor
    bonds: Tensor
    time: Tensor
    mask: Tensor
    past: dict[str, Tensor] | None = None

    def of(self, rows: Tensor) -> dict[str, Any]:
        """Return the inputs of the net for some rows, int64 [n]."""
        names = ("coords", "atoms", "bonds", "time", "mask")
        inputs: dict[str, Any] = {name: getattr(self, name)[rows] for name in names}
        past = None if self.past is None else {k: v[rows] for k, v in self.past.items()}
        return inputs | {"past": past}


def integrate(
    net: nn.Module,
    mask: Tensor,
    numbers: Numbers,
    options: MoleculeOptions,
    dtype: torch.dtype,
    reading: Reading | None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Integrate from noise to data.

    Args:
        net: The net.
        mask: Real atoms are True, [B, N].
        numbers: Random numbers by name.
        options: Options of drawing molecules.
        dtype: Type of the coordinates.
        reading: The representations of guides; None for a net without guides.

    Returns:
        The last prediction of the net, with probabilities, and "z/NAME" -> representations.
    """
    now = _Molecules(
        centred(numbers("normal", 0, 3).to(dtype), mask),
        anything(numbers("atoms", 0), len(ATOMS)) * mask,
        anything(symmetric(numbers("bonds", 0, 0)), BONDS),
        torch.zeros(len(mask), dtype=dtype, device=mask.device),
        mask,
    )
    z = [] if reading is None else reading.start()

    # As in SemlaFlow, every prediction is also an input of the next step.
    past, times = None, options.times()
    for number, (s, s_next) in enumerate(zip(times[:-1], times[1:], strict=True)):
        now.time, now.past = torch.full_like(now.time, s), past
        if reading is None:
            raw = net(now.coords, now.atoms, now.bonds, now.time, mask, past)[0]
        else:
            raw, z = _guided(net, reading, now, (1 - s, 1 - s_next), z)
        past = probable(raw)

        now.coords = now.coords + (past["coords"] - now.coords) * ((s_next - s) / (1 - s))
        step, u = (s, s_next - s, options.noise), numbers(f"atoms{number}", 0)
        now.atoms = categorical.stepped(now.atoms, past["atoms"], *step, u)
        # Bonds are symmetric: half of them say the rest.
        u = symmetric(numbers(f"bonds{number}", 0, 0))
        halves = categorical.stepped(upper(now.bonds), upper(past["bonds"]), *step, upper(u))
        now.bonds = mirrored(halves, mask.shape[1])
    assert past is not None
    return past, {} if reading is None else reading.result(z)


def _guided(
    net: nn.Module,
    reading: Reading,
    now: _Molecules,
    times: tuple[float, float],
    z: list[Tensor],
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return the prediction of a step, and the z of joint guides after it (Euler).

    Args:
        net: The net.
        reading: The representations.
        now: The molecules.
        times: Time at the beginning and at the end of the step; 0 is data and 1 is noise.
        z: Representations that are denoised beside the molecules.
    """

    def states(rows: Tensor, extra: Extra, taps: Sequence[int]) -> Mapping[int, State]:
        return net(**now.of(rows), taps=taps, extra=extra)[1]

    def call(copies: list[bool], extra: Extra, taps: Sequence[int]) -> tuple[Any, Any]:
        rows = torch.arange(len(now.mask), device=now.mask.device).repeat(len(copies))
        return net(**now.of(rows), taps=taps, extra=extra)

    def given(rows: Tensor) -> Tensor:
        return net.given(mask=now.mask[rows])  # ty: ignore[not-callable]

    begin, end = times
    reading.advance(begin, View(states, given, now.mask), z)
    prediction, velocities = reading.evaluate(call, begin, beside=z, mask=now.mask)
    moved = [x + (end - begin) * v for x, v in zip(z, velocities, strict=True)]
    return prediction, moved
