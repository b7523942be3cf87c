"""Integers only: which samples are in which batch, as a pure function of (cache, seed, step)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from reed.errors import ReedError
from reed.seeding import seed_for

BLOCK = 16  # consecutive records that travel together
WINDOW = 1024  # blocks whose records are mixed
GRAIN = 8  # lengths are padded to a multiple of it


@dataclass(frozen=True)
class Order:
    """Which records are in which global batch: a pure function of (records, seed, step).

    Epochs follow one another without a gap, so every record is seen exactly once per epoch,
    every batch is full, and a batch may span two epochs. In each epoch, blocks of 16
    consecutive records are permuted, and records are permuted inside windows of 1,024 blocks.
    """

    records: int
    batch: int
    seed: int

    @property
    def steps(self) -> float:
        """Batches of one epoch."""
        return self.records / self.batch

    @property
    def fewest(self) -> int:
        """Records of the smallest batch."""
        return self.batch

    def batch_at(self, step: int) -> np.ndarray:
        """The records of global batch `step`, [batch] int64, in order."""
        wanted = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, places = np.divmod(wanted, self.records)
        found = np.empty(self.batch, dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            found[chosen] = self._at(int(epoch), places[chosen])
        return found

    def _at(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """The records at some places of an epoch."""
        blocks = _block_order(self.records, self.seed, epoch)
        # One block may be short. Places after its window are moved up by what it lacks, so that
        # windows can be found by division.
        size, short = WINDOW * BLOCK, -self.records % BLOCK
        short_window = int(np.flatnonzero(blocks == len(blocks) - 1)[0]) // WINDOW
        moved = places + short * (places >= (short_window + 1) * size - short)
        windows, offsets = np.divmod(moved, size)
        found = np.empty(len(places), dtype=np.int64)
        for window in np.unique(windows):
            chosen = windows == window
            order = _window_order(self.records, self.seed, epoch, int(window))
            found[chosen] = order[offsets[chosen]]
        return found


class RaggedOrder:
    """Which records are in which batch, where samples differ in length: batches under a budget.

    lengths: of every record; tokens: the most padded tokens that a batch may have. Lengths are
    rounded up to a multiple of 8; records that share the result form a bucket, and a bucket too
    small to fill one batch joins the next longer one. Every epoch permutes each bucket, cuts it
    into batches of nearly equal size, and permutes the batches. All epochs have the same number
    of batches and every record is in exactly one of them, so the place of a step is arithmetic.
    Raises ReedError when one sample alone exceeds the budget.

    groups: a number per record; each epoch then takes one record, drawn anew, of those that share
    a number. A group counts as long as its longest record, so that the batches stay as many; what
    is drawn is padded to no more than it needs.
    """

    def __init__(
        self, lengths: np.ndarray, tokens: int, seed: int, groups: np.ndarray | None = None
    ) -> None:
        longest = int(lengths.max())
        if longest > tokens:
            raise ReedError(f"the longest sample has {longest} tokens, the budget is {tokens}")
        self._seed, self._lengths, self._tokens = seed, lengths, tokens
        self._groups = None if groups is None else _Groups.of(groups)
        units = lengths if self._groups is None else self._groups.largest(lengths)
        self._buckets = _buckets(units, tokens)
        self._batches = [
            (bucket, place, bucket.batches)
            for bucket in self._buckets
            for place in range(bucket.batches)
        ]

    @property
    def records(self) -> int:
        """Records of one epoch: all, or one of each group."""
        return sum(len(bucket.members) for bucket in self._buckets)

    @property
    def steps(self) -> int:
        """Batches of one epoch."""
        return len(self._batches)

    @property
    def fewest(self) -> int:
        """Records of the smallest batch."""
        return min(len(bucket.members) // bucket.batches for bucket in self._buckets)

    @property
    def shapes(self) -> set[tuple[int, int]]:
        """(rows, padded length) of every batch there can be, the fullest of each bucket."""
        return {(-(-len(b.members) // b.batches), b.length) for b in self._buckets}

    def batch_at(self, step: int) -> np.ndarray:
        """The records of global batch `step`, int64."""
        epoch, place = divmod(step, self.steps)
        bucket, part, parts = self._batches[_order_of(self.steps, self._seed, epoch)[place]]
        rng = np.random.Generator(
            np.random.PCG64(seed_for(self._seed, "bucket", bucket.length, epoch))
        )
        units = np.array_split(rng.permutation(bucket.members), parts)[part]
        return units if self._groups is None else self._groups.draw(units, self._seed, epoch)

    def length_at(self, step: int) -> int:
        """The length that batch `step` is padded to."""
        if self._groups is not None:
            return int(_padded(self._lengths[self.batch_at(step)], self._tokens).max())
        epoch, place = divmod(step, self.steps)
        return self._batches[_order_of(self.steps, self._seed, epoch)[place]][0].length


@dataclass(frozen=True)
class _Groups:
    """Records by group: those of group g are records[starts[g] : starts[g] + counts[g]]."""

    records: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray) -> _Groups:
        _, starts, counts = np.unique(np.sort(numbers), return_index=True, return_counts=True)
        return cls(np.argsort(numbers, kind="stable"), starts, counts)

    def largest(self, lengths: np.ndarray) -> np.ndarray:
        return np.maximum.reduceat(lengths[self.records], self.starts)

    def draw(self, groups: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        places = (_numbers(len(self.starts), seed, epoch)[groups] * self.counts[groups]).astype(int)
        return self.records[self.starts[groups] + places]


@dataclass(frozen=True)
class _Bucket:
    """Records padded to one length, and the number of batches they make."""

    length: int
    members: np.ndarray
    batches: int


def _buckets(lengths: np.ndarray, tokens: int) -> list[_Bucket]:
    padded = _padded(lengths, tokens)
    buckets: list[_Bucket] = []
    waiting = np.empty(0, dtype=np.int64)
    for length in (levels := np.unique(padded).tolist()):
        waiting = np.concatenate([waiting, np.flatnonzero(padded == length)])
        rows = tokens // length
        if len(waiting) >= rows or length == levels[-1]:
            buckets.append(_Bucket(length, waiting, -(-len(waiting) // rows)))
            waiting = waiting[:0]
    return buckets


def _padded(lengths: np.ndarray, tokens: int) -> np.ndarray:
    return np.minimum(-(-np.maximum(lengths, 1) // GRAIN) * GRAIN, tokens)


@lru_cache(maxsize=2)
def _numbers(groups: int, seed: int, epoch: int) -> np.ndarray:
    """A number in [0, 1) for every group."""
    rng = np.random.Generator(np.random.PCG64(seed_for(seed, "member", epoch)))
    return rng.random(groups)


@lru_cache(maxsize=2)
def _order_of(batches: int, seed: int, epoch: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(seed_for(seed, "batches", epoch)))
    return rng.permutation(batches)


@lru_cache(maxsize=2)
def _block_order(records: int, seed: int, epoch: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(seed_for(seed, "blocks", epoch)))
    return rng.permutation(-(-records // BLOCK))


@lru_cache(maxsize=4)
def _window_order(records: int, seed: int, epoch: int, window: int) -> np.ndarray:
    blocks = _block_order(records, seed, epoch)[window * WINDOW : (window + 1) * WINDOW]
    members = (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
    members = members[members < records]
    rng = np.random.Generator(np.random.PCG64(seed_for(seed, "window", epoch, window)))
    return rng.permutation(members)
