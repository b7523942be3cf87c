"""Stage one on a Ray cluster: one task per shard, each of which calls build_shards.

The driver loads no encoder, so it needs no GPU. Ray repeats a task whose worker died; the worker
leaves a temporary file, as any other killed build does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from typing import Any, Protocol

from reed.build import engines, overlap
from reed.build import shard as build
from reed.build.engines import Share
from reed.build.shard import Job, Timing
from reed.cache.plan import Plan
from reed.cache.schema import Marker
from reed.errors import ReedError
from reed.extras import pip_install

RETRIES = 3  # how often Ray repeats a task whose worker or node died
LOST = (
    5  # how often a task is started anew after that if its node died: machines that are preempted
)


class Openable(Hashable, Protocol):
    """A job described by names and paths: picklable, and equal to its copies in other processes."""

    def open(self) -> Job:
        """Return the job with its encoder loaded."""
        ...


def connect() -> Any:
    """Return the module ray, connected to the existing cluster or to one that this call starts."""
    try:
        import ray
    except ImportError as error:
        problem = "--engine ray needs the package ray, which is not installed"
        raise ReedError(f"{problem}; run: {pip_install('ray')}") from error
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING, log_to_driver=False)
    return ray


def pick_device(ray: Any, name: str) -> str:
    """Return the device of each task; Ray assigns the GPU, "auto" uses one if there is any."""
    if name == "auto":
        return "cuda" if ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"
    return "cuda" if name.startswith("cuda") else name


def run(
    ray: Any,
    name: str,
    plan: Plan,
    spec: Openable,
    share: Share,
    *,
    gpu: bool = False,
    workers: int = 0,
    retry: bool = False,
    progress: bool = True,
) -> Timing:
    """Build the missing shards of a column; return when all of them are in place.

    Args:
        ray: The module ray, from `connect`.
        name: Name of the column.
        plan: Plan of the cache.
        spec: The job; workers open it once and keep it for later shards.
        share: The share of this launch.
        gpu: Whether each task gets a whole GPU.
        workers: Reading processes per task.
        retry: Whether to build shards with failed samples again.
        progress: Whether to show the bar.

    Returns:
        The seconds of each stage, over all tasks.
    """
    needs = {"num_cpus": 1 + workers, "num_gpus": int(gpu), "max_retries": RETRIES}
    list_todo, build_one = (ray.remote(**needs)(task) for task in (_todo, _build))
    left = _get(ray, name, list_todo.remote(spec, share, retry))
    timing = Timing()

    # The workers open the job once, whatever the number of shards.
    def start(shard: int) -> Any:
        return build_one.remote(spec, shard, workers)

    with engines.Bar(plan, name, left, timing, progress) as bar:
        for marker in _built(ray, name, start, left, timing):
            bar.shard(marker)
    return timing


def _built(
    ray: Any, name: str, start: Callable[[int], Any], left: engines.Todo, timing: Timing
) -> Iterator[Marker]:
    """Yield the marker of each missing shard as it is built."""
    waiting = {start(shard): (shard, LOST) for shard in left.missing}
    try:
        while waiting:
            (task,), _ = ray.wait(list(waiting))
            shard, tries = waiting.pop(task)
            try:
                marker, spent, counted = _get(ray, name, task)
            except ReedError as error:
                # That nodes died is seldom the fault of the shard.
                if not tries or not isinstance(error.__cause__, ray.exceptions.NodeDiedError):
                    raise
                waiting[start(shard)] = shard, tries - 1
                continue

            timing.add(spent)
            left.tally.add(*counted)
            left.tally.check()
            yield marker
    finally:
        # After an error nobody waits for the other tasks, so they must not go on.
        for task in waiting:
            ray.cancel(task, force=True)


def _get(ray: Any, name: str, task: Any) -> Any:
    """Return the result of a task; raise its ReedError, or one if the workers died."""
    try:
        result = ray.get(task)
    except ray.exceptions.RayTaskError:  # a bug, with its traceback
        raise
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ReedError(
            f"column {name!r}: a Ray worker died {RETRIES + 1} times over the same shard "
            f"({reason}); rerun to resume, or without --engine ray to see why"
        ) from error
    if isinstance(result, ReedError):
        raise result
    return result


# ---- in the workers: a ReedError is returned, because Ray prints a traceback for each raised one


@lru_cache(maxsize=1)
def _opened(spec: Openable) -> Job:
    """Return the opened job; each worker process keeps one loaded encoder for its next tasks."""
    return spec.open()


def _todo(spec: Openable, share: Share, retry: bool) -> engines.Todo | ReedError:
    """Return the remaining work, or the error."""
    try:
        return engines.todo(_opened(spec), share, retry=retry)
    except ReedError as error:
        return error


def _build(
    spec: Openable, shard: int, workers: int
) -> tuple[Marker, Timing, tuple[int, dict[str, str]]] | ReedError:
    """Build one shard; return its marker, seconds, tried and failed samples, or the error."""
    try:
        job, timing = _opened(spec), Timing()
        (marker,) = overlap.build_shards(job, [shard], timing, build.new_tally(job), workers)
    except ReedError as error:
        return error
    return marker, timing, (len(marker.keys) + len(marker.failed), marker.failed)
