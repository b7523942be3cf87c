"""Stage two: shards -> batches, read straight into a ring of preallocated (pinned) buffers."""

from __future__ import annotations

import contextlib
import itertools
import resource
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from reed.cache.codecs import codecs
from reed.cache.joined import Joined
from reed.cache.opened import Cache
from reed.cache.order import Order, RaggedOrder
from reed.cache.reader import OpenShards
from reed.cache.ring import Buffer
from reed.cache.schema import Field
from reed.errors import ReedError, at_least
from reed.seeding import seed_for

_MOST_FILES = 65536


@dataclass(frozen=True)
class Stored:
    """One batch as stored: rows of this rank, in order.

    step: of the global batch; rows: positions in cache order; first, total: where they begin in
    the global batch, and how many that has; parts: per requested place its parts, each
    [rows, ...], padded with zeros to `length` where samples differ; lengths: [rows] then, else
    None. Views of a ring buffer, overwritten once the next batch is asked for.
    """

    step: int
    rows: np.ndarray
    first: int
    total: int
    parts: dict[str, list[torch.Tensor]]
    lengths: np.ndarray | None = None
    length: int = 0

    def mask(self, device: torch.device | str = "cpu") -> torch.Tensor | None:
        """[rows, length], True on real tokens; None where all samples have one length."""
        if self.lengths is None:
            return None
        mask = torch.from_numpy(np.arange(self.length) < self.lengths[:, None])
        if torch.device(device).type == "cuda":
            mask = mask.pin_memory()  # from other memory the copy would wait for the GPU
        return mask.to(device, non_blocking=True)


_Read = tuple[Stored, list[ReedError]]  # a batch, and what could not be read of it


class ShardStream:
    """Batches of some fields of a cache, in an order that is a pure function of (seed, step).

    places: name -> "column/field"; batch: samples of the global batch, of which this rank reads
    its contiguous `batch / world` rows, or tokens: the most padded tokens of a global batch, where
    samples differ in length; threads: readers beside the consumer (0 reads in place); ahead:
    batches in flight; skip: how many unreadable records to do without before that is an error.
    Where the cache has several views of a sample, one is drawn per sample, for all fields.
    one_per: "column/field" of a label: each epoch takes one sample per value, drawn anew.
    Raises ReedError if a column is absent or incomplete, before anything is read. A sample that
    one of the columns left out is in no batch; `left_out` counts them, `skipped` the unreadable.
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
        self._plan = cache.plan
        self._joined = Joined(cache, places, skip)
        self._seed, self._rank, self._world, self._skip = seed, rank, world, skip
        self._threads, self._ahead, self._pin = threads, max(ahead, threads + 1), pin
        self.left_out, self.skipped = self._joined.left_out, 0
        groups = self._joined.labels(cache, one_per) if one_per else None
        self._order = _order(self._joined, places, batch, tokens, seed, groups)
        self._ring: list[dict[str, dict[str, Buffer]]] = []
        self._copied: dict[int, torch.cuda.Event] = {}  # place in the ring -> when it may be reused

    @property
    def samples(self) -> int:
        """Samples of one epoch."""
        return self._order.records

    @property
    def batch(self) -> float:
        """Samples of a global batch, the mean over an epoch."""
        return self.samples / self._order.steps

    @property
    def fewest(self) -> int:
        """Samples of the smallest global batch."""
        return self._order.fewest

    @property
    def lacking(self) -> dict[str, list[str]]:
        """Column -> keys of the samples of the plan that it left out."""
        keys = self._plan.keys
        return {name: [keys[i] for i in rows] for name, rows in self._joined.lacking.items()}

    def numbers(self, name: str) -> np.ndarray:
        """A requested field of one number per sample, such as a label, of the whole epoch."""
        return self._joined.numbers(name)

    def field(self, name: str) -> Field:
        """The field behind a requested name."""
        return next(c.fields[name] for c in self._joined.columns if name in c.fields)

    def key(self, place: int) -> str:
        """The sample key of a place in the epoch, such as one of `numbers`."""
        return self._plan.keys[self._joined.rows[place]]

    def keys_at(self, step: int) -> list[str]:
        """The sample keys of this rank's rows of a global batch."""
        batch, mine = self._share_at(step)
        return [self._plan.keys[row] for row in self._joined.rows[batch[mine]]]

    def batches(self, start: int = 0) -> Generator[Stored]:
        """Endless batches from global step `start` on; one such iteration at a time."""
        if not self._ring:  # one more than are in flight: the consumer still holds one
            self._ring = [self._buffers() for _ in range(self._ahead + 1)]
        limit = _file_limit() // len(self._joined.columns)
        with contextlib.ExitStack() as closing:
            opened = {column.name: column.open(limit) for column in self._joined.columns}
            for each in opened.values():
                closing.callback(each.close)
            steps = itertools.count(start)
            read = self._read_ahead if self._threads else self._read_in_place
            for stored, failed in read(steps, opened):
                self._count(failed)
                yield stored

    def _read_in_place(
        self, steps: Iterator[int], opened: dict[str, OpenShards]
    ) -> Iterator[_Read]:
        return (self._read(step, opened) for step in steps)

    def _read_ahead(self, steps: Iterator[int], opened: dict[str, OpenShards]) -> Iterator[_Read]:
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="reed-stream")
        pending: deque[Future[_Read]] = deque()
        try:
            while True:
                while len(pending) < self._ahead:
                    pending.append(pool.submit(self._read, next(steps), opened))
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def decode(self, stored: Stored, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
        """The batch on a device, decoded there: name -> [rows, ...], floats as float32.

        The result has memory of its own and stays valid.
        """
        values = {}
        for column in self._joined.columns:
            for name, field in column.fields.items():
                parts = [p.to(device, non_blocking=True, copy=True) for p in stored.parts[name]]
                state = column.state_on(name, device)
                values[name] = codecs.codec_of(field).decode(parts, state)
        if torch.device(device).type == "cuda":  # the copies wait for the work queued before them
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            self._copied[stored.step % len(self._ring)] = event
        return values

    def _share_at(self, step: int) -> tuple[np.ndarray, slice]:
        """A global batch as places in the joined rows, and this rank's part of it."""
        batch = self._order.batch_at(step)
        return batch, slice(*(len(batch) * r // self._world for r in (self._rank, self._rank + 1)))

    def _views_at(self, step: int, total: int) -> np.ndarray:
        """The view of every sample of a global batch."""
        rng = np.random.Generator(np.random.PCG64(seed_for(self._seed, "view", step)))
        return rng.integers(self._plan.manifest.views, size=total)

    def _buffers(self) -> dict[str, dict[str, Buffer]]:
        """Column -> part -> one buffer for the largest batch; a field asked for twice has one."""
        shapes = _largest(self._order, self._world)
        return {
            column.name: {
                part.name: Buffer(part, shapes, self._pin)
                for each in column.parts.values()
                for part in each
            }
            for column in self._joined.columns
        }

    def _read(self, step: int, opened: dict[str, OpenShards]) -> _Read:
        batch, mine = self._share_at(step)
        chosen, views = batch[mine], self._views_at(step, len(batch))[mine]
        rows = self._joined.rows[chosen]
        lengths, length = None, 0
        if isinstance(self._order, RaggedOrder):
            assert self._joined.lengths is not None  # which is why the order is one of lengths
            lengths, length = self._joined.lengths[chosen], self._order.length_at(step)
        place = step % len(self._ring)
        if place in self._copied:
            self._copied.pop(place).synchronize()
        parts: dict[str, list[torch.Tensor]] = {}
        tensors: list[torch.Tensor] = []
        failed: dict[int, ReedError] = {}
        for column in self._joined.columns:
            buffers = self._ring[place][column.name]
            held = {name: buffer.tensor(len(rows), length) for name, buffer in buffers.items()}
            out = {name: buffers[name].records(tensor, lengths) for name, tensor in held.items()}
            failed |= column.read(opened[column.name], rows, views, out)
            tensors += held.values()
            parts |= {name: [held[p.name] for p in each] for name, each in column.parts.items()}
        if failed:
            rows = rows.copy()
            lengths = None if lengths is None else lengths.copy()
            arrays = [rows, *([] if lengths is None else [lengths]), *(t.numpy() for t in tensors)]
            _replace(failed, arrays)
        stored = Stored(step, rows, mine.start, len(batch), parts, lengths, length)
        return stored, list(failed.values())

    def _count(self, failed: list[ReedError]) -> None:
        """Count the unreadable records of the batch that is handed out; too many are an error."""
        self.skipped += len(failed)
        if self.skipped > self._skip:
            raise failed[0]


def _replace(failed: dict[int, ReedError], arrays: list[np.ndarray]) -> None:
    """Put the batch's first good record in place of the unreadable ones, in every array."""
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
    if joined.lengths is None:
        if groups is not None:
            raise ReedError("one_per is for samples of different lengths, these have one")
        at_least(1, "the ", batch=batch)
        return Order(len(joined.rows), batch, seed)
    if tokens < 1:
        ragged = ", ".join(
            places[n] for c in joined.columns for n, f in c.fields.items() if None in f.shape
        )
        raise ReedError(f"{ragged}: samples of different lengths need a budget of tokens per batch")
    return RaggedOrder(joined.lengths, tokens, seed, groups)


def _largest(order: Order | RaggedOrder, world: int) -> set[tuple[int, int]]:
    """(rows of a rank, padded length) of the batches that need the most memory."""
    shapes = order.shapes if isinstance(order, RaggedOrder) else {(order.batch, 0)}
    return {(-(-rows // world), length) for rows, length in shapes}


def _file_limit() -> int:
    """How many files we may hold open: half of what the system grants, which is raised first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return (_MOST_FILES if soft == resource.RLIM_INFINITY else soft) // 2
