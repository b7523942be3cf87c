"""Building one shard of a column: read, encode, write, mark."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from reed.build.encoding import encode_views
from reed.build.kept import Batch, Encoded, Kept
from reed.build.kept import Values as Values
from reed.build.reading import Reading, Views
from reed.build.source import BadSample as BadSample
from reed.build.source import Source as Source
from reed.build.storing import PIECE, Storing
from reed.build.tally import Tally as Tally
from reed.build.tally import Timing as Timing
from reed.cache import aside, files, place, reader, schema, verify
from reed.cache.codecs.codecs import State
from reed.cache.containers.block import Block
from reed.cache.plan import Plan
from reed.cache.schema import Column, Field, Marker
from reed.weights import Found, Origin


class Encoder(Protocol):
    """A frozen map from samples to one record per field.

    An encoder whose output has terms of use states them in ``terms``, which a build prints. One
    with a field of numbers that stand for letters, elements or the like states them in ``symbols``,
    {field: {number: name}}; `reed-cache info` then shows the share of each. Other numbers, such as
    padding, are not counted.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        """Source entries ("pixels"), fields of other columns ("describe/caption"), and "key"."""
        ...

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields of its records."""
        ...

    @property
    def licence(self) -> str:
        """Licence of the weights, or of the data if the encoder only copies them."""
        ...

    @property
    def batch_size(self) -> int:
        """Samples per call of ``encode``."""
        ...

    def revision(self) -> str:
        """Return what the output depends on besides its inputs: weights, preprocessing, layer."""
        ...

    def load(self, device: str) -> None:
        """Load the weights to ``device``; model libraries are imported here."""
        ...

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one array (or string) per field and sample, in order; may raise BadSample."""
        ...


@runtime_checkable
class ReadsFiles(Protocol):
    """The additional method of an encoder that reads files other than weights."""

    def check_files(self) -> None:
        """Open the files before anything is encoded; ReedError for what ``load`` would refuse."""
        ...


@runtime_checkable
class NeedsLibraries(Protocol):
    """The additional method of an encoder whose model needs libraries."""

    def check_libraries(self) -> None:
        """Raise ReedError if one of them is not installed."""
        ...


@runtime_checkable
class Downloads(Protocol):
    """The additional methods of an encoder with downloadable weights, see `reed.encoders.base`.

    Attributes:
        weights: Path of the weights to use in place of those of ``origin``.
    """

    weights: str | None

    @property
    def origin(self) -> Origin:
        """The origin of the public weights."""
        ...

    def prefetch(self) -> Found:
        """Download the weights unless a path was given; ReedError says which file to put where."""
        ...


@dataclass(frozen=True)
class Job:
    """One column to build: all that `build_shard` needs besides the number of the shard.

    The encoder is loaded; ``state`` is the calibration by field. What was encoded to calibrate is
    in ``kept``, and the first build of its shards uses it up.
    """

    cache: Path
    plan: Plan
    column: Column
    source: Source
    encoder: Encoder
    state: dict[str, State]
    kept: Kept = dataclasses.field(default_factory=Kept, compare=False, repr=False)

    @property
    def reading(self) -> Reading:
        """Return the reader of the samples."""
        views = self.plan.manifest.views
        return Reading(self.cache, self.column.name, self.source, self.encoder.reads, views)

    def cuts(self, shard: int) -> list[tuple[str, ...]]:
        """Return the keys of a shard in chunks; the chunks do not depend on who encodes them."""
        keys, size = self.plan.keys_of(shard), self.encoder.batch_size
        return [keys[start : start + size] for start in range(0, len(keys), size)]


def is_done(job: Job, shard: int) -> bool:
    """Whether a shard is in place, see `done_marker`."""
    return done_marker(job, shard) is not None


def done_marker(job: Job, shard: int) -> Marker | None:
    """Return the marker of a finished shard: one that a shallow verify accepts; else None.

    In an object store, it is one that was there when the command began; see `done_meanwhile`.
    """
    return verify.marker_in_place(job.cache, job.plan, job.column, shard)


def done_meanwhile(job: Job, shard: int) -> Marker | None:
    """Return what `done_marker` does, also where another machine has just stored the shard."""
    place.refresh(schema.marker_path(job.cache, job.column, shard))
    return done_marker(job, shard)


def build_shard(job: Job, shard: int, tally: Tally | None = None) -> tuple[Marker, Timing]:
    """Encode one shard and put it in place, marker last: a pure function of the frozen plan.

    Any process may call it any number of times; the bytes are the same. Samples that cannot be
    read are left out and recorded with the reason.

    Args:
        job: The column.
        shard: Number of the shard.
        tally: Tried and failed samples so far.

    Returns:
        The marker, and the seconds of each stage.

    Raises:
        ReedError: Too many samples failed.
    """
    timing, began = Timing(), time.perf_counter()
    failed: dict[str, str] = {}
    tally = tally or new_tally(job)

    def batches() -> Iterator[Batch]:
        for keys in job.cuts(shard):
            encoded = encode(job, shard, keys)
            encoded.count(failed, timing, tally)
            yield encoded.batch

    marker = write_shard(job, shard, batches(), failed, tally)
    timing.write = time.perf_counter() - began - timing.read - timing.encode
    return marker, timing


def new_tally(job: Job) -> Tally:
    """Return an empty tally of a column."""
    return Tally(job.column.name, len(job.plan.keys), allowed=job.plan.manifest.max_failed)


def encode(job: Job, shard: int, keys: tuple[str, ...], views: Views | None = None) -> Encoded:
    """Return one of the cuts of a shard, encoded, or what calibration has kept of it.

    Args:
        job: The column.
        shard: Number of the shard.
        keys: The keys of the cut.
        views: See `Reading.chunk`.
    """
    if kept := job.kept.take(shard, keys):
        return kept

    began = time.perf_counter()
    chunk = job.reading.chunk(shard, keys, views)
    read = time.perf_counter()
    failed = dict(chunk.failed)
    batch = encode_views(job, chunk, failed)
    timing = Timing(read - began, time.perf_counter() - read, noted=chunk.noted)
    return Encoded(batch, failed, len(keys), timing)


def write_shard(
    job: Job, shard: int, batches: Iterable[Batch], failed: dict[str, str], tally: Tally
) -> Marker:
    """Put the records of a shard in place, then its marker.

    A sample with a value that its codec cannot store (NaN, beyond float16, invalid Unicode) fails.

    Args:
        job: The column.
        shard: Number of the shard.
        batches: The encoded samples.
        failed: Key -> reason of failed samples; complete once ``batches`` is exhausted.
        tally: Tried and failed samples so far.
    """
    storing = Storing(job.column, job.state)

    def blocks() -> Iterator[Block]:
        pieces = (piece for batch in batches for piece in batch.pieces(PIECE))
        # What follows, and the encoder where it has no thread of its own, runs beside this.
        found = aside.called(storing.block, pieces, lambda piece: piece.bytes)
        with contextlib.closing(found):
            for block, unfit in found:
                if unfit:
                    failed.update(unfit)
                    tally.add(0, unfit)  # counted as tried when it was encoded
                yield block

    container = reader.CONTAINERS[job.column.container]
    with files.new_file(schema.shard_path(job.cache, job.column, shard)) as temp:
        index = container.write(temp, reader.parts_of(job.column.fields), blocks())
        tally.check()
    marker = Marker(
        column=job.column.name,
        shard=shard,
        keys=tuple(storing.keys),
        failed=failed,
        stats=storing.stats(),
        **index,
    )
    files.write_atomic(schema.marker_path(job.cache, job.column, shard), schema.dump(marker))
    return marker
