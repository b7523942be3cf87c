"""Vectors per residue from models that read one chain at a time: the bookkeeping of batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reed.cache.schema import Field
from reed.encoders.protein.chain import segments
from reed.errors import ReedError

# A sample, and the residues of one of its chains.
Chain = tuple[dict[str, Any], slice]


def check_layer(name: str, layer: int, layers: int) -> None:
    """Raise ReedError unless a layer, counted from 1 with 0 for the last, is one of a model's.

    Args:
        name: Name of the encoder, for the message.
        layer: The layer.
        layers: How many the model has.
    """
    if not 0 <= layer <= layers:
        raise ReedError(f"{name}.layer is {layer}; it has layers 1 to {layers}, 0 is the last")


def fields(dim: int) -> tuple[Field, ...]:
    """Return the fields ``tokens`` [L, dim] and ``mean`` [dim]."""
    tokens = Field("tokens", "token", (None, dim), "int8")
    return (tokens, Field("mean", "sample", (dim,), "float32"))


def encode(
    samples: Sequence[dict[str, Any]], run: Callable[[Sequence[Chain]], list[np.ndarray]]
) -> dict[str, list[np.ndarray]]:
    """Return ``tokens`` and their ``mean`` over each sample, whose chains do not see one another.

    Args:
        samples: The samples.
        run: Function from chains to one array [length, dim] per chain, float32.
    """
    chains = [(i, part) for i, sample in enumerate(samples) for part in segments(sample)]
    states = run([(samples[i], part) for i, part in chains])

    parts: list[list[np.ndarray]] = [[] for _ in samples]
    for (i, _), state in zip(chains, states, strict=True):
        parts[i].append(state)
    tokens = [np.concatenate(part) for part in parts]
    return {"tokens": tokens, "mean": [each.mean(0) for each in tokens]}
