"""The one strict comparison of state dicts: every name and shape must be there, and no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reed.errors import ReedError

SHOWN = 8  # names in a message


def fill(model: Any, state: Mapping[str, Any], where: str) -> None:
    """Load a state dict into a torch module, key for key; ReedError that lists what differs."""
    compare(where, {key: tuple(value.shape) for key, value in model.state_dict().items()}, state)
    model.load_state_dict(state, strict=True)


def compare(where: str, want: Mapping[str, tuple[int, ...]], state: Mapping[str, Any]) -> None:
    """ReedError with the first few names of each difference, unless names and shapes are equal.

    where: the file, for the message; want: the shape that each tensor must have.
    """
    have = {key: tuple(getattr(value, "shape", ())) for key, value in state.items()}
    differences = {
        "missing": sorted(want.keys() - have),
        "unexpected": sorted(have.keys() - want),
        "of another shape": [
            f"{key} {have[key]} instead of {want[key]}"
            for key in sorted(want.keys() & have)
            if have[key] != want[key]
        ],
    }
    parts = []
    for what, names in differences.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            parts.append(f"{len(names)} {what} ({', '.join(names[:SHOWN])}{more})")
    if parts:
        raise ReedError(f"{where}: the weights are of another model: {'; '.join(parts)}")
