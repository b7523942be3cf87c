"""Arrays that were computed elsewhere, as a column of a cache, by key and without the raw data."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from reed.build import column as columns
from reed.build import engines
from reed.build.engines import Share
from reed.cache import plan as plans
from reed.cache.plan import Plan
from reed.cache.schema import Column
from reed.encoders.array_file import ArrayFile
from reed.encoders.keyed import Arrays, open_arrays
from reed.errors import ReedError

ENCODER = "array-file"


class Keys:
    """A source that has nothing but the keys of a plan."""

    entries: tuple[str, ...] = ()
    views: int = 1

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def listing(self) -> dict[str, str]:
        """Return every key of the plan with its stamp."""
        return dict(zip(self.plan.keys, self.plan.stamps, strict=True))

    def read(self, key: str, view: int = 0) -> dict[str, Any]:
        """Return no entry."""
        return {}


def bring(
    cache: Path,
    name: str,
    file: Path,
    *,
    entry: str = "",
    codec: str = "",
    licence: str = "",
    progress: bool = True,
) -> Column:
    """Make a column from an array per key, or the shards that it lacks.

    Args:
        cache: Folder of the cache.
        name: Name of the column.
        file: The file or the folder; see `reed.encoders.keyed.open_arrays`.
        entry: Of parquet, the column with the arrays.
        codec: How the values are stored; by default as the encoder array-file does.
        licence: Licence of the arrays.
        progress: Whether to show a bar on a terminal.

    Returns:
        The description of the column, whose only field is ``array``.

    Raises:
        ReedError: The file holds no array for a key of the cache, or one that is no vector and no
            list of vectors, or the cache has mirrored samples.
    """
    frozen = plans.load(cache)
    if frozen.manifest.views > 1:
        raise ReedError(
            f"{cache} has a mirrored view of each sample, and {file} one array per key; "
            "use a cache that was built without --flip"
        )
    first = _first(frozen, file, entry)
    kind = {1: "sample", 2: "token"}.get(first.ndim)
    if kind is None or not first.shape[-1]:
        problem = f"an array of {file} is of shape {list(first.shape)}"
        raise ReedError(f"{problem}; import takes [channels] or [tokens, channels]")

    # The same settings as --set gives, so that the encoder can be created again.
    given = {"file": str(file.resolve()), "kind": kind, "channels": first.shape[-1]}
    given |= {"entry": entry} if entry else {}
    given |= {"licence": licence} if licence else {}
    encoder = dataclasses.replace(ArrayFile(), **(given | {"file": file.resolve()}))
    encoder.load("cpu")
    codecs = {"array": codec} if codec else None
    with contextlib.closing(encoder):
        job = columns.open_job(
            cache, frozen, name, encoder, Keys(frozen), codecs, encoder_name=ENCODER, options=given
        )
        engines.run(job, Share(), progress=progress)
    return job.column


def _first(frozen: Plan, file: Path, entry: str) -> np.ndarray:
    """Return the array of the first key that has one."""
    with contextlib.closing(open_arrays(file, entry)) as arrays:
        return arrays[_key(frozen, file, arrays)]


def _key(frozen: Plan, file: Path, arrays: Arrays) -> str:
    key = next((key for key in frozen.keys if key in arrays), None)
    if key is None:
        there = ", ".join(repr(key) for key, _ in zip(arrays, range(2), strict=False))
        raise ReedError(
            f"{file} has no array for any key of {frozen.manifest.samples:,}; the cache has keys "
            f"such as {frozen.keys[0]!r}, the file {there or 'none at all'}"
        )
    return key
