"""The size of a build: the bytes it will write, whether they fit, and the time it will take."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reed.bytes import human
from reed.cache import files, reader, schema
from reed.cache.codecs.codecs import Part
from reed.cache.plan import Plan
from reed.cache.schema import Column
from reed.errors import ReedError
from reed.store import mirror

TEXT = 200  # bytes assumed for a text before one was written
ROWS = 256  # length assumed where the length varies


@dataclass(frozen=True)
class Size:
    """The part of one column that is still to be written.

    Attributes:
        column: Name of the column.
        shards: Shards without a marker.
        samples: Samples of these shards.
        bytes: Bytes of these shards.
        record: Bytes of one record.
        basis: How the bytes are known: "exact", "close", "from shard 3" (its mean record), or a
            guess.
        seconds: Time at the rate of the finished shards; None before the first.
    """

    column: str
    shards: int
    samples: int
    bytes: int
    record: float
    basis: str
    seconds: float | None = None


def size_of(cache: Path, plan: Plan, column: Column) -> Size:
    """Return what is missing of a column, which need not exist yet; nothing is encoded."""
    markers = [schema.marker_path(cache, column, shard) for shard in range(plan.shards)]
    missing = [shard for shard, path in enumerate(markers) if not path.is_file()]
    samples = [len(plan.rows(shard)) for shard in missing]
    views = plan.manifest.views
    parts = reader.parts_of(column.fields)

    # Where lengths vary, a finished shard gives a better estimate than an assumed length.
    ragged = any(part.is_ragged for part in parts)
    if ragged and len(missing) < plan.shards:
        first = next(shard for shard in range(plan.shards) if shard not in missing)
        marker = schema.load_marker(cache, column, first)
        record, fixed = marker.bytes / max(1, len(marker.keys) * views), 0.0
        basis = f"from shard {first}"
    else:
        record, fixed = _measured(column.container, parts)
        texts = any(part.dtype == "utf8" for part in parts)
        guess = f"guess: {TEXT} bytes of text" if texts else f"guess: length {ROWS}"
        basis = guess if ragged else "exact" if column.container == "tar" else "close"

    total = sum(round(fixed + record * count * views) for count in samples)
    rate = _seconds_per_shard(cache, column, [path for path in markers if path.is_file()])
    seconds = None if rate is None else rate * len(missing)
    return Size(column.name, len(missing), sum(samples), total, record, basis, seconds)


def _seconds_per_shard(cache: Path, column: Column, markers: Sequence[Path]) -> float | None:
    """Return the median time between a column's files: its description, then marker after marker.

    All processes that built them (ranks, an array) count together; a pause between two runs does
    not change a median.
    """
    if not markers:
        return None
    described = cache / column.name / "column.json"
    times = sorted(path.stat().st_mtime for path in [described, *markers])
    return float(np.median(np.diff(times)))


def _measured(container: str, parts: Sequence[Part]) -> tuple[float, float]:
    """Return bytes per record and additional bytes per shard, from two temporary shards."""
    rng = np.random.default_rng(0)
    values = [_example(part, rng) for part in parts]
    with tempfile.TemporaryDirectory() as folder:
        first, second = (
            reader.CONTAINERS[container].write(
                Path(folder) / f"{count}.{container}",
                parts,
                [(f"sample-{i}", values) for i in range(count)],
            )["bytes"]
            for count in (1, 2)
        )
    return second - first, 2 * first - second


def _example(part: Part, rng: np.random.Generator) -> Any:
    """Return a random value of one part."""
    if part.dtype == "utf8":
        return rng.integers(97, 123, TEXT, dtype=np.uint8).tobytes()
    shape = tuple(ROWS if n is None else n for n in part.shape)
    return rng.integers(0, 100, shape).astype(part.dtype)


def check(cache: Path, sizes: Iterable[Size], reclaimed: int = 0) -> None:
    """Raise ReedError if the missing shards do not fit.

    Args:
        cache: Folder of the cache.
        sizes: What each column has still to write.
        reclaimed: Bytes that are removed before.
    """
    if mirror.of(cache):  # a store grows
        return
    need, room = sum(size.bytes for size in sizes), files.free(cache) + reclaimed
    if need > room:
        raise ReedError(
            f"{cache} needs {human(need)} more and its file system has {human(room)} free; make "
            "room, choose another --cache or a smaller --codec, or go on with --force"
        )


def duration(seconds: float) -> str:
    """Return seconds in a readable unit: 5400 is "1.5 h"."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def stored(cache: Path) -> int:
    """Return the bytes of all files in the columns of a cache."""
    return sum(files.size_of(cache / name, follow=True) for name in schema.columns(cache))
