"""Converting a cache to another container: a new cache with the same samples, bit by bit."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from reed.cache import account, files, place, reader, schema, verify
from reed.cache import plan as plans
from reed.cache.containers import tar
from reed.cache.plan import Plan
from reed.cache.schema import Column, Marker
from reed.errors import ReedError, suggest


def convert(
    cache: Path, out: Path, to: str, names: Collection[str] = (), *, progress: bool = True
) -> Plan:
    """Write a cache with some columns in another container; the other columns are copied.

    Every shard is checked first, then written, read back and compared before its marker is written.
    Shards that are in place are kept, so a second call resumes.

    Args:
        cache: Folder of the cache.
        out: Folder of the new cache.
        to: Container of the converted columns.
        names: The columns to convert; all by default.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        The plan of both caches.
    """
    if to not in schema.CONTAINERS:
        raise ReedError(f"unknown container {to!r}.{suggest(to, schema.CONTAINERS)}")
    if out.resolve() == cache.resolve():
        raise ReedError(f"--out {out} is the cache itself; name a new folder")

    frozen = plans.load(cache)
    columns = [schema.load_column(cache, name) for name in schema.columns(cache)]
    chosen = {schema.load_column(cache, name).name for name in names or schema.columns(cache)}
    listed = [account.NAME] if (cache / account.NAME).is_file() else []
    keys = sorted(path.name for path in cache.glob("keys*.txt"))
    for name in [*keys, *listed, "manifest.json"]:
        _put(out / name, (cache / name).read_bytes())

    quiet = None if progress else True  # None: shown where there is a terminal
    with tqdm(total=len(columns) * frozen.shards, unit="shard", disable=quiet) as bar:
        for column in columns:
            bar.set_description(column.name)
            target = replace(column, container=to if column.name in chosen else column.container)
            _describe(cache, out, column, target)
            for shard in range(frozen.shards):
                if verify.marker_in_place(out, frozen, target, shard) is None:
                    _convert_shard(cache, out, frozen, column, target, shard)
                bar.update()
    return frozen


def _put(path: Path, data: bytes) -> None:
    """Write a file; raise ReedError if one with other content is there."""
    if not path.exists():
        files.write_atomic(path, data, overwrite=False)
    if path.read_bytes() != data:
        raise ReedError(f"{path} is there and differs; name a new folder with --out")


def _describe(cache: Path, out: Path, column: Column, target: Column) -> None:
    """Write the description and the calibration of a column, after checking them."""
    reader.load_state(cache, column)  # raises an error for a damaged calibration
    if column.calibration:
        name = f"{column.name}/calibration.npz"
        _put(out / name, (cache / name).read_bytes())
    _put(out / column.name / "column.json", schema.dump(target))


def _convert_shard(
    cache: Path, out: Path, frozen: Plan, column: Column, target: Column, shard: int
) -> None:
    """Write one shard in the container of ``target``, compare it with its source, then mark it."""
    source = schema.shard_path(cache, column, shard)
    try:
        marker = verify.check_marker(cache, frozen, column, shard)
        verify.check_file(cache, frozen, column, marker)
    except ReedError as error:
        raise ReedError(f"{source}: {error}; run reed-cache repair {cache}") from error
    views, parts = frozen.manifest.views, reader.parts_of(column.fields)
    source = place.whole(source, marker.sha256)

    def members() -> Iterator[tuple[str, list]]:
        for row, values in enumerate(_stored(source, column, marker, views)):
            values = [
                v.tobytes() if p.dtype == "utf8" else v for p, v in zip(parts, values, strict=True)
            ]
            yield tar.member_key(marker.keys[row // views], row % views), values

    # The marker makes the shard count, so it is written only after the comparison.
    path = schema.shard_path(out, target, shard)
    with files.new_file(path) as temp:
        index = reader.CONTAINERS[target.container].write(temp, parts, members())
        copied = replace(marker, **index)
        before = chain.from_iterable(_stored(source, column, marker, views))
        after = chain.from_iterable(_stored(temp, target, copied, views))
        if not all(_equal(a, b) for a, b in zip(before, after, strict=True)):
            raise ReedError(f"{path} does not read back as {source}; is the disk sound?")
    files.write_atomic(schema.marker_path(out, target, shard), schema.dump(copied))


def _stored(path: Path, column: Column, marker: Marker, views: int) -> Iterator[list[np.ndarray]]:
    """Yield the parts of every record of a shard file, as stored."""
    parts = reader.parts_of(column.fields)
    opened = reader.CONTAINERS[column.container].Shard(path, marker.parts)
    with contextlib.closing(opened):
        for row in range(len(marker.keys) * views):
            yield list(reader.stored(opened.read, marker, parts, row).values())


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
