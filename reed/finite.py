"""Weights that are not finite, of which every output would be nonsense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reed.errors import ReedError


def check_finite(content: Any, where: str) -> None:
    """Fail if a tensor holds NaN or infinity; masks, which are added to scores, may hold infinity.

    Args:
        content: A tensor, or nested tables and lists of them; the rest is passed over.
        where: The file, for the message.
    """
    import torch

    for name, value in _tensors(content, ""):
        if not value.numel() or value.is_meta or not value.is_floating_point():
            continue

        # The extremes are NaN if one number is, and take no memory. Types of eight bits have none.
        value = value.float() if "float8" in str(value.dtype) else value
        extremes = torch.aminmax(value.detach()) if value.element_size() > 1 else ()
        is_bad = torch.isnan if "mask" in name else lambda number: ~torch.isfinite(number)
        if any(is_bad(number) for number in extremes):
            problem = f"{where}: the weights {name!r} are not finite"
            raise ReedError(f"{problem}; download the file again, or take a sound checkpoint")


def _tensors(content: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the tensors in a container with their names, which are joined by dots."""
    if hasattr(content, "element_size"):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
        for place, value in enumerate(content):
            yield from _tensors(value, f"{name}.{place}" if name else str(place))
