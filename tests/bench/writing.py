"""Rows of make bench-stage1: writing shards with an encoder that costs nothing, and the floor.

Records are 256 x 768 tokens and the moments of a latent, 8 x 32 x 32 in float16; torch has one
thread. The encoder returns arrays that are there already, so what is left of a build is reading
nothing, checking, encoding to the codec, statistics, hashing and writing. The floor copies as many
bytes as a shard of int8 has, hashes them with sha256 and writes them. Another checkout is measured
in a process of its own; the processes take turns, and rates are per CPU second. The clock shows
what threads gain that encode, and that hash and write, at the same time.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import report

CODECS = ("int8", "float16", "pca:128+int8")
RECORDS, BATCH = 128, 16


class Source:
    """Numbered samples."""

    entries, views = ("number",), 1

    def listing(self) -> dict[str, str]:
        return {f"{i:06d}": "1" for i in range(RECORDS)}

    def read(self, key: str, view: int = 0) -> dict[str, Any]:
        return {"number": int(key)}


class Free:
    """An encoder that costs nothing: every batch is the same arrays."""

    licence, batch_size, reads = "", BATCH, ("number",)

    def __init__(self, codec: str) -> None:
        import numpy as np

        from reed.cache.schema import Field

        rng = np.random.default_rng(0)
        tokens, moments = (256, 768), (8, 32, 32)
        self.fields = (
            Field("tokens", "token", tokens, codec),
            Field("moments", "moments", moments, "float16"),
        )
        self._values = {
            field.name: rng.standard_normal((BATCH, *field.shape)).astype(np.float32)
            for field in self.fields
        }

    def revision(self) -> str:
        return "1"

    def encode(self, samples: Sequence[Any]) -> dict[str, Any]:
        return {name: values[: len(samples)] for name, values in self._values.items()}


def writer(folder: Path, codec: str) -> Callable[[], tuple[float, float]]:
    """Return a function that builds a shard and returns its CPU seconds and its seconds."""
    from reed.build import column
    from reed.build import shard as build
    from reed.cache import plan

    frozen = plan.freeze(
        folder,
        Source().listing(),
        pipeline="bench",
        domain="image",
        source="numbers",
        shard_size=RECORDS,
    )
    job = column.open_job(folder, frozen, "encoded", Free(codec), Source(), {})
    job.kept.drop(0)

    def write() -> tuple[float, float]:
        began, wall = time.process_time(), time.perf_counter()
        build.build_shard(job, 0)
        return time.process_time() - began, time.perf_counter() - wall

    return write


def floor(folder: Path, size: int) -> float:
    """CPU seconds of copying, hashing and writing so many bytes, batch by batch, and syncing."""
    piece = os.urandom(size * BATCH // RECORDS)
    copy = memoryview(bytearray(len(piece)))
    began, digest = time.process_time(), hashlib.sha256()
    with open(folder / "floor", "wb", buffering=0) as file:
        for _ in range(RECORDS // BATCH):
            copy[:] = piece
            digest.update(copy)
            file.write(copy)
        os.fsync(file.fileno())
    took = time.process_time() - began
    (folder / "floor").unlink()
    return took


def serve() -> None:
    """Build a shard for every line on stdin, which names a codec; print its seconds."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ways = {codec: writer(Path(folder) / str(i), codec) for i, codec in enumerate(CODECS)}
        for line in sys.stdin:
            sys.stdout.write(json.dumps(ways[line.strip()]()) + "\n")
            sys.stdout.flush()


def started(package: Path | None) -> subprocess.Popen[str]:
    """A process that serves; with a package in another folder, if one is given."""
    own = "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]; "
    code = f"import sys; {own if package else ''}"
    env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    env |= {"PYTHONPATH": str(package)} if package else {}
    words = [sys.executable, "-c", f"{code}import reed, writing; writing.serve()"]
    pipe = subprocess.PIPE
    # the working folder comes before the path, and may be a checkout
    here = Path(__file__).parent
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=env, cwd=here)


def asked(process: subprocess.Popen[str], codec: str, walls: list[float]) -> float:
    """Records per CPU second of a process that serves; adds those per second to a list."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(codec + "\n")
    process.stdin.flush()
    cpu, wall = json.loads(process.stdout.readline())
    walls.append(RECORDS / wall)
    return RECORDS / cpu


def figures(other: Path | None, runs: int) -> list[report.Figure]:
    """Measure writing with this package, with that in the folder `other`, and the floors."""
    bytes_of = {"int8": 256 * 772, "float16": 2 * 256 * 768, "pca:128+int8": 256 * 132}
    servers = {"this": started(None)} | ({"other": started(other)} if other else {})
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[], float]] = {}
        walls: dict[str, list[float]] = {}
        for codec in CODECS:
            size = (bytes_of[codec] + 2 * 8 * 32 * 32) * RECORDS
            for name, process in servers.items():
                way = f"{name}, {codec}"
                walls[way] = []
                ways[way] = lambda p=process, c=codec, w=walls[way]: asked(p, c, w)
            ways[f"floor, {codec}"] = lambda s=size: RECORDS / floor(Path(folder), s)
        rates = report.interleaved(ways, runs)
    for process in servers.values():
        process.communicate()  # ends its input, and so the process

    walls = {way: values[1:] for way, values in walls.items()}  # without the first round
    found = [report.figure(f"writing: {way}", rate, "records/CPU s") for way, rate in rates.items()]
    for codec in CODECS:
        for against in ("other", "floor") if other else ("floor",):
            ratio = report.ratios(rates, f"this, {codec}", f"{against}, {codec}")
            found.append(replace(ratio, name=f"writing: {ratio.name}"))
        if other:
            ratio = report.ratios(walls, f"this, {codec}", f"other, {codec}")
            found.append(replace(ratio, name=f"writing, by the clock: {ratio.name}"))
    return found
