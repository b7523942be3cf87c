"""REED: representation-aligned diffusion and flow models, trained from a feature cache."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reed.cache.opened import Cache as Cache
    from reed.cache.opened import open_cache as open_cache

__version__ = "0.1.0"
__all__ = ["Cache", "__version__", "open_cache"]


def __getattr__(name: str) -> Any:
    """Import `Cache` and `open_cache` when they are first used, because they import numpy."""
    if name not in ("Cache", "open_cache"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from reed.cache import opened

    return getattr(opened, name)


def _bound_spinning() -> None:
    """Limit the spinning of idle OpenMP threads, unless the user has set how they wait.

    An OpenMP thread that has done its part spins until the others are done. By default it spins for
    several milliseconds with libgomp (GNU) and for 200 with libomp and libiomp5 (LLVM, Intel). If
    another process needs the same core, spinning takes time from the very threads it waits for.

    These environment variables belong to the runtimes and are not a configuration of ours. libgomp
    has no function to set this, and it reads the variable once, when importing torch loads it. A
    library should not change os.environ, but only this module runs first in all of our processes:
    commands, launched ranks, spawned readers, and Ray workers on nodes where we start nothing
    ourselves. If torch was imported before, it is too late for this process, but child processes
    inherit the variables.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # of 300,000; docs/measured.md has why
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # ms, of 200


def _keep_buffers() -> None:
    """Let glibc keep large buffers for reuse, unless the user has set how it allocates.

    By default glibc maps every large buffer anew and unmaps it when it is freed, so that the kernel
    clears its pages each time. An encoder on a CPU spends most of its time there. Without such
    mappings, large buffers come from the heap, of which up to 2 GiB stay with the process.

    glibc reads its own variables before any of our code runs, so this is a call. It comes first in
    all of our processes for the reasons given above, and holds for buffers that are made later.
    """
    names = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    if sys.platform != "linux" or not {*names, "GLIBC_TUNABLES"}.isdisjoint(os.environ):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt:
        mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


_bound_spinning()
_keep_buffers()
