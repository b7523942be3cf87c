"""Stage one: missing shards -> read -> encode -> write -> mark."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from reed.cache import codecs, reader, schema
from reed.cache.codecs import State
from reed.cache.plan import Plan
from reed.cache.schema import Column, Field, Marker
from reed.cache.stats import Stats
from reed.errors import ReedError

MAX_FAILED = 0.01  # of a shard's samples


class BadSample(Exception):
    """A sample that a source cannot read or an encoder cannot take; the message is the reason."""


class Source(Protocol):
    """A raw data set: stable keys, and the named entries of each sample."""

    entries: tuple[str, ...]

    def listing(self) -> dict[str, str]:
        """Every key with a cheap stamp of its content (such as the file's size)."""
        ...

    def read(self, key: str) -> dict[str, Any]:
        """The entries of one sample; raises BadSample with the reason."""
        ...


class Encoder(Protocol):
    """A frozen map from samples to one record per field.

    reads: source entries ("pixels") and fields of other columns ("describe/caption");
    fields: what it writes; licence: of the weights; batch_size: samples per call of encode.
    """

    reads: tuple[str, ...]
    fields: tuple[Field, ...]
    licence: str
    batch_size: int

    def revision(self) -> str:
        """What the output depends on besides its inputs: weights sha256, preprocessing, layer."""
        ...

    def load(self, device: str) -> None:
        """Bring the weights to `device`; model libraries are imported here."""
        ...

    def encode(self, samples: Sequence[dict[str, Any]]) -> dict[str, Sequence[Any]]:
        """For each field one array (or string) per sample, in order; may raise BadSample."""
        ...


@dataclass(frozen=True)
class Job:
    """One column to build: everything that build_shard needs besides the shard's number."""

    cache: Path
    plan: Plan
    column: Column
    source: Source
    encoder: Encoder
    state: dict[str, State]


@dataclass
class Timing:
    """Seconds spent reading samples, encoding them and writing the shard."""

    read: float = 0.0
    encode: float = 0.0
    write: float = 0.0

    def add(self, other: Timing) -> None:
        """Add the seconds of another shard."""
        self.read += other.read
        self.encode += other.encode
        self.write += other.write

    def summary(self) -> str:
        """One line that says what limits."""
        return f"read {self.read:.1f} s, encode {self.encode:.1f} s, write {self.write:.1f} s"


def is_done(job: Job, shard: int) -> bool:
    """Whether a shard has a sound marker and a file of the size that the marker states."""
    try:
        marker = schema.load_marker(job.cache, job.column, shard)
    except ReedError:
        return False
    path = schema.shard_path(job.cache, job.column, shard)
    return path.is_file() and path.stat().st_size == marker.bytes


def build_shard(job: Job, shard: int) -> tuple[Marker, Timing]:
    """Encode one shard and put it in place, marker last: a pure function of the frozen plan.

    Any process may call it, any number of times; the bytes come out the same. Samples that
    cannot be read are left out and recorded with the reason; ReedError above 1 % of the shard.
    """
    timing, began = Timing(), time.perf_counter()
    failed: dict[str, str] = {}
    written: list[str] = []
    stats = {f.name: Stats(f) for f in job.column.fields if f.kind not in ("text", "label")}

    def encoded() -> Iterator[tuple[str, Sequence[Any]]]:
        for key, values in encode_samples(job, shard, failed, timing):
            arrays = _stored(job, key, values)
            for name, running in stats.items():
                running.add(values[name])
            yield key, arrays
            written.append(key)

    parts = [part for f in job.column.fields for part in codecs.codec_of(f).parts(f)]
    container = reader.CONTAINERS[job.column.container]
    with schema.new_file(schema.shard_path(job.cache, job.column, shard)) as temp:
        index = container.write(temp, parts, encoded())
    marker = Marker(
        column=job.column.name, shard=shard, keys=tuple(written), failed=failed,
        stats={name: running.summary() for name, running in stats.items()}, **index,
    )  # fmt: skip
    schema.write_atomic(schema.marker_path(job.cache, job.column, shard), schema.dump(marker))
    timing.write = time.perf_counter() - began - timing.read - timing.encode
    return marker, timing


def encode_samples(
    job: Job, shard: int, failed: dict[str, str], timing: Timing
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and {field: value} of every good sample of a shard; the others go to `failed`.

    Batches are always cut at the same places, so the bytes do not depend on who runs this.
    """
    samples = _samples(job, shard, failed)
    while True:
        began = time.perf_counter()
        batch = list(islice(samples, job.encoder.batch_size))
        timing.read += time.perf_counter() - began
        _refuse_many(job, shard, failed)
        if not batch:
            return
        began = time.perf_counter()
        encoded = _encode(job, batch, failed)
        timing.encode += time.perf_counter() - began
        yield from encoded


def _encode(
    job: Job, batch: list[tuple[str, dict[str, Any]]], failed: dict[str, str]
) -> list[tuple[str, dict[str, Any]]]:
    """One call for the batch; if the encoder refuses it, one per sample, to find which it is."""
    try:
        values = job.encoder.encode([sample for _, sample in batch])
    except BadSample as error:
        if len(batch) > 1:
            return [good for one in batch for good in _encode(job, [one], failed)]
        failed[batch[0][0]] = str(error)
        return []
    names = [field.name for field in job.column.fields]
    for name in names:
        if len(values.get(name, ())) != len(batch):
            raise ReedError(
                f"column {job.column.name!r}: the encoder gave {len(values.get(name, ()))} values "
                f"of field {name!r} for {len(batch)} samples"
            )
    records = [(key, {n: values[n][i] for n in names}) for i, (key, _) in enumerate(batch)]
    for key, record in records:
        _check_shapes(job, key, record)
    return records


def _check_shapes(job: Job, key: str, values: dict[str, Any]) -> None:
    for field in job.column.fields:
        shape = tuple(getattr(values[field.name], "shape", ()))
        fits = len(shape) == len(field.shape) and all(
            want in (None, have) for want, have in zip(field.shape, shape, strict=True)
        )
        if not fits:
            raise ReedError(
                f"column {job.column.name!r}, field {field.name!r}, key {key!r}: "
                f"shape {shape} is not {field.shape}, which the encoder states"
            )


def _samples(job: Job, shard: int, failed: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and what the encoder reads of every sample that can be read."""
    stored = {
        place: _column_values(job, shard, place) for place in job.encoder.reads if "/" in place
    }
    raw = [entry for entry in job.encoder.reads if "/" not in entry]
    for key in job.plan.keys_of(shard):
        try:
            entries = job.source.read(key) if raw else {}
            sample = {entry: entries[entry] for entry in raw}
            for place, values in stored.items():
                if key not in values:
                    raise BadSample(f"not in column {place.split('/')[0]!r}")
                sample[place] = values[key]
        except BadSample as error:
            failed[key] = str(error)
            continue
        yield key, sample


def _column_values(job: Job, shard: int, place: str) -> dict[str, Any]:
    column, field = schema.column_and_field(job.cache, place)
    state = reader.load_state(job.cache, column)
    found = reader.records(job.cache, column, shard, [field], state)
    return {key: values[field.name] for key, values in found}


def _stored(job: Job, key: str, values: dict[str, Any]) -> list[Any]:
    """The parts of one record, in the column's order."""
    arrays: list[Any] = []
    for field in job.column.fields:
        try:
            arrays += codecs.codec_of(field).encode(values[field.name], job.state[field.name])
        except ReedError as error:
            where = f"column {job.column.name!r}, field {field.name!r}, key {key!r}"
            raise ReedError(f"{where}: {error}") from error
    return arrays


def _refuse_many(job: Job, shard: int, failed: dict[str, str]) -> None:
    total = len(job.plan.rows(shard))
    if len(failed) > max(1, MAX_FAILED * total):
        key, reason = next(iter(failed.items()))
        raise ReedError(
            f"column {job.column.name!r} shard {shard}: {len(failed)} of {total} samples failed, "
            f"more than 1 % (first: {key!r}: {reason}); mend the source and rerun"
        )
