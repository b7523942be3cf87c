"""REED: representation-aligned diffusion and flow models, trained from a feature cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reed.cache.opened import Cache as Cache
    from reed.cache.opened import open_cache as open_cache

__version__ = "0.1.0"
__all__ = ["Cache", "__version__", "open_cache"]


def __getattr__(name: str) -> Any:
    """Find `Cache` and `open_cache` when they are first asked for: they import numpy."""
    if name not in ("Cache", "open_cache"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from reed.cache import opened

    return getattr(opened, name)
