"""How many bytes a build will write, whether they fit, and how long it will take."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reed.bytes import human
from reed.cache import reader, schema
from reed.cache.codecs.codecs import Part
from reed.cache.plan import Plan
from reed.cache.schema import Column
from reed.errors import ReedError

TEXT = 200  # bytes: the guess for a text, before one was written
ROWS = 256  # the guess for the length of an array whose length varies


@dataclass(frozen=True)
class Size:
    """What one column has still to write.

    shards, bytes: of the shards that lack a marker; record: bytes of one record; basis: how the
    bytes are known: "exact", "from shard 3" (its mean record), or the guess that was made;
    seconds: at the pace of the shards that are there, None before the first.
    """

    column: str
    shards: int
    bytes: int
    record: float
    basis: str
    seconds: float | None = None


def size_of(cache: Path, plan: Plan, column: Column) -> Size:
    """What is missing of a column, which need not exist yet; nothing is encoded for it."""
    places = [schema.marker_path(cache, column, shard) for shard in range(plan.shards)]
    missing = [shard for shard, path in enumerate(places) if not path.is_file()]
    samples = [len(plan.rows(shard)) for shard in missing]
    views = plan.manifest.views
    parts = reader.parts_of(column.fields)
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
    pace = _seconds_per_shard(cache, column, [path for path in places if path.is_file()])
    seconds = None if pace is None else pace * len(missing)
    return Size(column.name, len(missing), total, record, basis, seconds)


def _seconds_per_shard(cache: Path, column: Column, markers: Sequence[Path]) -> float | None:
    """The median time between a column's files: its description, then marker after marker.

    Whoever built them (ranks, an array) is in that pace; a pause between two runs is not.
    """
    if not markers:
        return None
    described = cache / column.name / "column.json"
    times = sorted(path.stat().st_mtime for path in [described, *markers])
    return float(np.median(np.diff(times)))


def _measured(container: str, parts: Sequence[Part]) -> tuple[float, float]:
    """Bytes per record, and per shard beside them: from one record and two, written and removed."""
    rng = np.random.default_rng(0)
    values = [_example(part, rng) for part in parts]
    with tempfile.TemporaryDirectory() as folder:
        one, two = (
            reader.CONTAINERS[container].write(
                Path(folder) / f"{count}.{container}",
                parts,
                [(f"sample-{i}", values) for i in range(count)],
            )["bytes"]
            for count in (1, 2)
        )
    return two - one, 2 * one - two


def _example(part: Part, rng: np.random.Generator) -> Any:
    if part.dtype == "utf8":
        return rng.integers(97, 123, TEXT, dtype=np.uint8).tobytes()
    shape = tuple(ROWS if n is None else n for n in part.shape)
    return rng.integers(0, 100, shape).astype(part.dtype)


def free(cache: Path) -> int:
    """Free bytes of the file system where a cache is or would be."""
    there = cache.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def check(cache: Path, sizes: Iterable[Size], reclaimed: int = 0) -> None:
    """ReedError when what is missing does not fit; reclaimed: bytes that go before."""
    need, room = sum(size.bytes for size in sizes), free(cache) + reclaimed
    if need > room:
        raise ReedError(
            f"{cache} needs {human(need)} more and its file system has {human(room)} free; make "
            "room, choose another --cache or a smaller --codec, or go on with --force"
        )


def duration(seconds: float) -> str:
    """Seconds as people read them: 5400 is "1.5 h"."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def stored(cache: Path) -> int:
    """Bytes of the files that the columns of a cache hold."""
    folders = [cache / name for name in schema.columns(cache)]
    return sum(path.stat().st_size for folder in folders for path in folder.iterdir())
