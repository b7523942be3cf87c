"""The pace of a build, measured on a few samples: hours per stage, and the stage that limits it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from reed.build import shard as build
from reed.build import size as sizing
from reed.build.shared import most_workers
from reed.build.size import Size
from reed.build.source import Listing
from reed.build.tally import Timing
from reed.bytes import human
from reed.cache import files, plan
from reed.errors import ReedError
from reed.jobs import JobSpec
from reed.stage_one import Build
from reed.wording import counted

SAMPLES = 64  # that are timed; as many before them warm up
PROBE = 256 * 2**20  # bytes of the file that measures the disk
WORTH_IT = 0.8  # share of a record that another codec may take to be named
SMALLER = ("int8", "pca:128+int8", "pca:32+int8")  # codecs, from larger to smaller records


@dataclass(frozen=True)
class Pace:
    """Seconds per sample of the three stages of one column, each on its own.

    Attributes:
        read: Of reading, in one process.
        encode: Of encoding.
        write: Of storing: conversion, hash and file, or the bytes at the rate of the disk if that
            takes longer.
    """

    read: float
    encode: float
    write: float


def lines(prepared: Build, device: str) -> Iterator[str]:
    """Yield lines on the disk and on every column that has something to write.

    A few samples are built on the file system of the cache, in a folder that is removed.

    Args:
        prepared: The build.
        device: Where encoders run.
    """
    with _folder(prepared.request.cache) as name:
        folder = Path(name)
        probe = min(PROBE, files.free(folder) // 4)  # less on a disk that is almost full
        rate = disk_rate(folder, probe)
        yield f"disk: {human(rate)} per second ({human(probe)} were written and removed)"
        count = _freeze(prepared, folder / "few")

        # A column whose encoder cannot be loaded here does not hide the others.
        for job, size in zip(prepared.jobs, prepared.sizes, strict=True):
            if not size.shards:
                continue
            try:
                timing, of = _timed(replace(job, cache=folder / "few", device=device))
            except ReedError as error:
                yield f"  {size.column}: not measured: {error}"
                continue
            slow = size.record * prepared.plan.manifest.views / rate
            pace = Pace(timing.read / of, timing.encode / of, max(timing.write / of, slow))
            yield _line(size, pace, device, count)
            if pace.write > max(pace.read / most_workers(), pace.encode) or not _fits(prepared):
                yield from _smaller(prepared, job, size)


def disk_rate(folder: Path, size: int) -> float:
    """Return the bytes per second with which a file of a size is written to a folder and synced."""
    block = os.urandom(2**20)
    path, began = folder / "probe", perf_counter()
    with open(path, "wb", buffering=0) as file:
        for _ in range(max(1, size // len(block))):
            file.write(block)
        os.fsync(file.fileno())
    seconds = perf_counter() - began
    written = path.stat().st_size
    path.unlink()
    return written / seconds


def _folder(cache: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder on the file system where the cache is or would be."""
    place = files.nearest(cache)
    try:
        return tempfile.TemporaryDirectory(prefix=".reed-plan-", dir=place)
    except OSError as error:
        raise ReedError(
            f"cannot write to {place}: {error.strerror}; choose another --cache, or plan "
            "without --measure"
        ) from error


def _freeze(prepared: Build, cache: Path) -> int:
    """Freeze the plan of a cache of a few samples, in two shards; return their number."""
    listing, keys = prepared.listing, sorted(prepared.listing)
    few = keys[:: max(1, len(keys) // (2 * SAMPLES))][: 2 * SAMPLES]
    own = {"shard_size": -(-len(few) // 2), "extend": False, "max_failed": 1.0}
    found = Listing({key: listing[key] for key in few}, classes=listing.classes)
    plan.freeze(cache, found, {}, {}, {}, **{**prepared.settings, **own})
    return len(few) - len(few) // 2


def _timed(spec: JobSpec) -> tuple[Timing, int]:
    """Build all shards of a column; return the seconds of the last, and its number of samples."""
    job = spec.open()
    timing, shards = Timing(), job.plan.shards
    for shard in range(shards):
        _, timing = build.build_shard(job, shard)
    return timing, len(job.plan.rows(shards - 1))


def _line(size: Size, pace: Pace, device: str, count: int) -> str:
    """Return the line of one column: milliseconds per sample, time per stage, which limits."""
    each = ", ".join(f"{stage} {1000 * seconds:.3g} ms" for stage, seconds in vars(pace).items())
    whole = {
        f"read ({counted(most_workers(), 'process')})": pace.read / most_workers(),
        f"encode ({device})": pace.encode,
        "write": pace.write,
    }
    hours = ", ".join(
        f"{stage} {sizing.duration(seconds * size.samples)}" for stage, seconds in whole.items()
    )
    limit = max(whole, key=whole.__getitem__).partition(" ")[0]
    return (
        f"  {size.column}: {each} per sample ({count} were timed); for the "
        f"{counted(size.samples, 'missing sample')} {hours}: {limit} limits"
    )


def _fits(prepared: Build) -> bool:
    """Whether the missing shards fit on the disk."""
    need = sum(size.bytes for size in prepared.sizes)
    return need <= files.free(prepared.request.cache)


def _smaller(prepared: Build, job: JobSpec, size: Size) -> Iterator[str]:
    """Yield a line with the first codec that makes records clearly smaller, if there is one."""
    cache = prepared.request.cache / ".planned"  # not there: the column is new in it
    for field in filter(lambda field: field.is_target, job.make_encoder().fields):
        for codec in SMALLER:
            codecs = dict(job.codecs) | {field.name: codec}
            try:
                other = replace(job, cache=cache, codecs=tuple(codecs.items())).describe()
                need = sizing.size_of(cache, prepared.plan, other).record
            except ReedError:  # the codec does not take this field
                continue
            if need <= WORTH_IT * size.record:
                yield (
                    f"  {size.column}: --codec {size.column}/{field.name}={codec} would write "
                    f"{human(need)} per record instead of {human(size.record)}"
                )
                return
