"""Representations of cached samples, which the samples that are drawn get in place of their own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from reed.guides.guide import Guides


def of(guides: Guides, keys: Sequence[str], indices: range) -> dict[str, Tensor]:
    """Return the representations of a batch by guide, [B, ...]; none without keys.

    Args:
        guides: The guides of the net, with their columns.
        keys: Keys of cached samples, which the samples get in turn.
        indices: Numbers of the samples.
    """
    found = {}
    for guide in guides.all() if keys else ():
        assert guide.column is not None, guide.spec.name
        rows = guide.column.rows(guide.column.numbers(keys)).to(guide.null.device)
        z = guide.normed(rows).to(guide.null.dtype)
        found[guide.spec.name] = z[[number % len(keys) for number in indices]]
    return found


def noised(wanted: Tensor, noise: Tensor, time: float) -> tuple[Tensor, Tensor]:
    """Return what a wanted z is at a time, and its velocity there, both float64 [B, ...].

    Where z is denoised beside x, a wanted one takes the linear path on which it was noised in
    training. The solver, whose steps have errors of their own, does not move it.

    Args:
        wanted: Representations, [B, ...].
        noise: What they are at t = 1.
        time: The time.
    """
    wanted, noise = wanted.double(), noise.double()
    return (1 - time) * wanted + time * noise, noise - wanted
