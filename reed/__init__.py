"""REED: representation-aligned diffusion and flow models, trained from a feature cache."""

from __future__ import annotations

import os
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


def _bound_spinning() -> None:
    """Let idle OpenMP threads spin for about a millisecond, unless the user has said how they wait.

    A thread that has done its part spins until the others have, by default several milliseconds
    with libgomp (GNU) and 200 with libomp and libiomp5 (LLVM, Intel). On a core that another
    process wants, too, that burns the time which the threads it waits for would need.

    These are variables of the runtimes, and no configuration of ours. libgomp has no function in
    their place and reads them once, when it is loaded, which importing torch does. They are set
    here, though a library had better leave os.environ alone, since only this runs first in all
    processes of ours: commands, launched ranks, spawned readers, and Ray workers on nodes where
    we start nothing. Where torch was imported before, it is too late for that process; those that
    it starts inherit them.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # of 300,000; docs/measured.md has why
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # ms, of 200


_bound_spinning()
