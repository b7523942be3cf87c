"""Batches of a cache, read straight into a ring of preallocated (pinned) buffers."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from reed.cache import ahead as early
from reed.cache import files
from reed.cache.codecs import codecs
from reed.cache.joined import Joined
from reed.cache.opened import Cache
from reed.cache.order import Order, RaggedOrder, largest
from reed.cache.reader import OpenShards
from reed.cache.ring import Fields, Ring
from reed.cache.schema import Field
from reed.cache.stored import Stored as Stored
from reed.errors import ReedError
from reed.seeding import seed_for

_Opened = dict[str, OpenShards]
_Read = tuple[Stored, list[ReedError]]  # a batch, and the errors of its unreadable records


class ShardStream:
    """Batches of fields of a cache, in an order that is a pure function of (seed, step).

    Where the cache has several views of a sample, one view is drawn per sample, for all fields.
    A sample that one of the columns left out is in no batch.

    Args:
        cache: The open cache.
        places: Name -> address "column/field".
        batch: Samples of a global batch; this process reads ``batch / world`` consecutive ones.
        tokens: In place of ``batch`` where samples differ in length: the largest number of padded
            tokens of a global batch.
        seed: Seed of the order.
        rank: Number of this process.
        world: Number of processes.
        threads: Threads that read ahead; 0 reads in the calling thread.
        ahead: Batches that are read ahead; more of a slow object store.
        pin: Whether to use page-locked memory.
        skip: Number of unreadable records to replace before they are an error.
        one_per: Address of a label; each epoch takes one randomly drawn sample per value.

    Attributes:
        left_out: Number of samples that are not in all columns.
        skipped: Number of unreadable records so far.

    Raises:
        ReedError: A column is missing or incomplete, or a setting does not fit; raised before
            anything is read.
    """

    def __init__(
        self,
        cache: Cache,
        places: Mapping[str, str],
        batch: int = 0,
        *,
        tokens: int = 0,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
        ahead: int = 3,
        pin: bool = False,
        skip: int = 0,
        one_per: str = "",
    ) -> None:
        if batch % world:
            raise ReedError(
                f"the global batch ({batch}) is not a multiple of the {world} processes"
            )
        for place in places.values():
            if cache.column_and_field(place)[1].kind == "text":
                raise ReedError(
                    f"{place} is text, which no net can read; name a column that encodes it"
                )

        # The join finds incomplete columns now rather than in the middle of training.
        self._plan = cache.plan
        self._joined = Joined(cache, places, skip)
        self._seed, self._rank, self._world, self._skip = seed, rank, world, skip
        threads, ahead = early.paced(cache.folder, threads, ahead)
        self._threads, self._ahead, self._pin = threads, max(ahead, threads + 1), pin
        self.left_out, self.skipped = self._joined.left_out, 0
        groups = self._joined.labels(cache, one_per) if one_per else None
        self._order = _order(self._joined, places, batch, tokens, seed, groups)
        self._window = early.window(cache.folder, self.batch)
        self._ring: Ring | None = None
        self._until: dict[str, int] = {}  # name -> the last step that it is read for

    @property
    def samples(self) -> int:
        """Return the number of samples per epoch."""
        return self._order.records

    @property
    def batch(self) -> float:
        """Return the mean number of samples of a global batch."""
        return self.samples / self._order.steps

    @property
    def fewest(self) -> int:
        """Return the number of samples of the smallest global batch."""
        return self._order.fewest

    @property
    def lacking(self) -> dict[str, list[str]]:
        """Return the keys of the samples that each column left out."""
        lacking = self._joined.lacking.items()
        return {name: [self._plan.keys[i] for i in rows] for name, rows in lacking}

    def numbers(self, name: str) -> np.ndarray:
        """Return a requested field of one number per sample, such as a label, for an epoch."""
        return self._joined.numbers(name)

    def field(self, name: str) -> Field:
        """Return the field that was requested under a name."""
        return next(c.fields[name] for c in self._joined.columns if name in c.fields)

    def key(self, position: int) -> str:
        """Return the key of the sample at a position of `numbers`."""
        return self._plan.keys[self._joined.rows[position]]

    def keys_at(self, step: int) -> list[str]:
        """Return the keys of this process's samples of a global batch."""
        batch, mine = self._share_at(step)
        return [self._plan.keys[row] for row in self._joined.rows[batch[mine]]]

    def read_until(self, name: str, step: int) -> None:
        """Leave a field out of the batches from a step on, but for those that are read already.

        Its bytes are not read, and its memory is freed. The samples of the batches stay the same.
        """
        assert any(name in column.fields for column in self._joined.columns), name
        self._until[name] = step - 1

    def batches(self, start: int = 0) -> Generator[Stored]:
        """Yield endless batches from a global step on; only one iteration may run at a time."""
        if self._ring is None:  # one more than are read ahead: the consumer holds one
            self._ring = Ring(self._ahead + 1, largest(self._order, self._world), self._pin)
        self._ring.prepare(self._parts_at(start))
        limit = files.most_open() // len(self._joined.columns)
        with contextlib.ExitStack() as closing:
            opened = {column.name: column.open(limit) for column in self._joined.columns}
            for shards in opened.values():
                closing.callback(shards.close)

            # Whatever reads the shards ends before they are closed.
            read = self._read_ahead if self._threads else self._read_in_place
            touching = early.touching(lambda s: self._touch(opened, s), start, self._window)
            said = closing.enter_context(touching)
            source = closing.enter_context(contextlib.closing(read(itertools.count(start), opened)))
            for stored, failed in source:
                said(stored.step)
                self._count(failed)
                yield stored

    def _read_in_place(self, steps: Iterator[int], opened: _Opened) -> Generator[_Read]:
        yield from (self._read(step, opened) for step in steps)

    def _read_ahead(self, steps: Iterator[int], opened: _Opened) -> Generator[_Read]:
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="reed-stream")
        pending: deque[Future[_Read]] = deque()
        try:
            while True:
                while len(pending) < self._ahead:
                    pending.append(pool.submit(self._read, next(steps), opened))
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _touch(self, opened: _Opened, step: int) -> None:
        """Fetch this process's part of a batch from the store, where copies of it are kept."""
        batch, mine = self._share_at(step)
        rows, views = self._joined.rows[batch[mine]], self._views_at(step, len(batch))[mine]
        for name in self._parts_at(step):
            next(c for c in self._joined.columns if c.name == name).touch(opened[name], rows, views)

    def decode(self, stored: Stored, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
        """Copy a batch to a device and decode it there.

        Returns:
            Name -> [B, ...], floats as float32. The tensors have their own memory and stay valid.
        """
        values = {}
        for column in self._joined.columns:
            for name, field in column.fields.items():
                if name not in stored.parts:
                    continue
                parts = [p.to(device, non_blocking=True, copy=True) for p in stored.parts[name]]
                state = column.state_on(name, device)
                values[name] = codecs.codec_of(field).decode(parts, state)
        if torch.device(device).type == "cuda":  # copies run after the work queued before
            assert self._ring is not None
            self._ring.copied(stored.step, device)
        return values

    def _share_at(self, step: int) -> tuple[np.ndarray, slice]:
        """Return a global batch as positions in the joined rows, and this process's slice of it."""
        batch = self._order.batch_at(step)
        return batch, slice(*(len(batch) * r // self._world for r in (self._rank, self._rank + 1)))

    def _views_at(self, step: int, total: int) -> np.ndarray:
        """Return the view of every sample of a global batch."""
        rng = np.random.Generator(np.random.PCG64(seed_for(self._seed, "view", step)))
        return rng.integers(self._plan.manifest.views, size=total)

    def _parts_at(self, step: int) -> Fields:
        """Return column -> name -> parts, of the fields that a batch holds."""
        found = {
            column.name: {n: p for n, p in column.parts.items() if self._until.get(n, step) >= step}
            for column in self._joined.columns
        }
        return {column: parts for column, parts in found.items() if parts}

    def _read(self, step: int, opened: _Opened) -> _Read:
        """Read this process's part of a global batch into the ring."""
        batch, mine = self._share_at(step)
        chosen, views = batch[mine], self._views_at(step, len(batch))[mine]
        rows = self._joined.rows[chosen]
        lengths, length = None, 0
        if isinstance(self._order, RaggedOrder):
            assert self._joined.lengths is not None
            lengths, length = self._joined.lengths[chosen], self._order.length_at(step)

        # A buffer may be overwritten only after its copy to the device has ended.
        assert self._ring is not None
        wanted = self._parts_at(step)
        ring = self._ring.at(step, wanted)

        parts: dict[str, list[torch.Tensor]] = {}
        tensors: list[torch.Tensor] = []
        failed: dict[int, ReedError] = {}
        for column in (column for column in self._joined.columns if column.name in wanted):
            buffers = ring[column.name]
            by_part = {name: buffer.tensor(len(rows), length) for name, buffer in buffers.items()}
            out = {name: buffers[name].records(tensor, lengths) for name, tensor in by_part.items()}
            failed |= column.read(opened[column.name], rows, views, out)
            tensors += by_part.values()
            named = wanted[column.name].items()
            parts |= {name: [by_part[p.name] for p in ps] for name, ps in named}

        if failed:
            rows = rows.copy()
            lengths = None if lengths is None else lengths.copy()
            arrays = [rows, *([] if lengths is None else [lengths]), *(t.numpy() for t in tensors)]
            _replace(failed, arrays)
        stored = Stored(step, rows, mine.start, len(batch), parts, lengths, length)
        return stored, list(failed.values())

    def _count(self, failed: list[ReedError]) -> None:
        """Count the unreadable records of a batch; raise the first error if there are too many."""
        self.skipped += len(failed)
        if self.skipped > self._skip:
            raise failed[0]


def _replace(failed: dict[int, ReedError], arrays: list[np.ndarray]) -> None:
    """Replace the unreadable records of a batch by its first good record, in every array."""
    good = next((j for j in range(len(arrays[0])) if j not in failed), None)
    if good is None:
        raise next(iter(failed.values()))
    for array in arrays:
        array[list(failed)] = array[good]


def _order(
    joined: Joined,
    places: Mapping[str, str],
    batch: int,
    tokens: int,
    seed: int,
    groups: np.ndarray | None,
) -> Order | RaggedOrder:
    """Return the order of the batches."""
    if joined.lengths is None:
        if groups is not None:
            raise ReedError("one_per is for samples of different lengths, these have one")
        if batch < 1:
            raise ReedError(f"the batch is {batch}; give its number of samples, such as batch=256")
        return Order(len(joined.rows), batch, seed)

    # A number of samples would leave the memory of a batch open.
    if tokens < 1:
        fields = (f for column in joined.columns for f in column.fields.items())
        ragged = ", ".join(places[name] for name, field in fields if None in field.shape)
        raise ReedError(
            f"{ragged}: samples of different lengths need a budget of tokens per batch; give the "
            "largest number of padded tokens of a batch in place of batch, such as tokens=4096"
        )
    return RaggedOrder(joined.lengths, tokens, seed, groups)
