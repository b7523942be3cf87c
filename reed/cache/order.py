"""The order of training: which samples are in which batch, from (cache, seed, step) alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from reed.errors import ReedError
from reed.seeding import seed_for

BLOCK = 16  # consecutive records that stay in the same window
WINDOW = 1024  # blocks whose records are permuted together
GRAIN = 8  # lengths are padded to a multiple of this


@dataclass(frozen=True)
class Order:
    """Which records are in which global batch: a pure function of (records, seed, step).

    Epochs follow one another without a gap, so every record is seen exactly once per epoch, every
    batch is full, and a batch may span two epochs. In each epoch, blocks of 16 consecutive records
    are permuted, and records are permuted inside windows of 1,024 blocks.

    Attributes:
        records: Records of an epoch.
        batch: Records of a global batch.
        seed: Seed of the order.
    """

    records: int
    batch: int
    seed: int

    @property
    def steps(self) -> float:
        """Return the number of batches per epoch."""
        return self.records / self.batch

    @property
    def fewest(self) -> int:
        """Return the number of records of the smallest batch."""
        return self.batch

    def batch_at(self, step: int) -> np.ndarray:
        """Return the records of global batch ``step``, [batch] int64, in order."""
        count = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, positions = np.divmod(count, self.records)
        batch = np.empty(self.batch, dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            batch[chosen] = self._at(int(epoch), positions[chosen])
        return batch

    def _at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the records at some positions of an epoch."""
        blocks = _block_order(self.records, self.seed, epoch)

        # One block may be short. Positions after its window are moved up by the records that it
        # lacks, so that windows can be found by division.
        size, short = WINDOW * BLOCK, -self.records % BLOCK
        short_window = int(np.flatnonzero(blocks == len(blocks) - 1)[0]) // WINDOW
        moved = positions + short * (positions >= (short_window + 1) * size - short)
        windows, offsets = np.divmod(moved, size)

        records = np.empty(len(positions), dtype=np.int64)
        for window in np.unique(windows):
            chosen = windows == window
            order = _window_order(self.records, self.seed, epoch, int(window))
            records[chosen] = order[offsets[chosen]]
        return records


class RaggedOrder:
    """Which records are in which batch, where samples differ in length: batches within a budget.

    Lengths are rounded up to a multiple of 8. Records with the same rounded length form a bucket; a
    bucket that is too small to fill one batch joins the next longer one. Every epoch permutes each
    bucket, cuts it into batches of nearly equal size, and permutes the batches. All epochs have the
    same number of batches and every record is in exactly one of them, so the batch of a step can be
    computed.

    Args:
        lengths: Length of every record.
        tokens: Largest number of padded tokens of a batch.
        seed: Seed of the order.
        groups: Group number of every record. Each epoch then takes one record of every group, drawn
            at random. A group counts as long as its longest record, so that the number of batches
            is constant; the drawn records are padded only as far as they need.

    Raises:
        ReedError: A single sample exceeds the budget.
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
            (bucket, part, bucket.batches)
            for bucket in self._buckets
            for part in range(bucket.batches)
        ]

    @property
    def records(self) -> int:
        """Return the number of records per epoch: all of them, or one of each group."""
        return sum(len(bucket.members) for bucket in self._buckets)

    @property
    def steps(self) -> int:
        """Return the number of batches per epoch."""
        return len(self._batches)

    @property
    def fewest(self) -> int:
        """Return the number of records of the smallest batch."""
        return min(len(bucket.members) // bucket.batches for bucket in self._buckets)

    @property
    def shapes(self) -> set[tuple[int, int]]:
        """Return (records, padded length) of the fullest batch of every bucket."""
        return {(-(-len(b.members) // b.batches), b.length) for b in self._buckets}

    def batch_at(self, step: int) -> np.ndarray:
        """Return the records of global batch ``step``, int64."""
        epoch, position = divmod(step, self.steps)
        bucket, part, parts = self._batches[_order_of(self.steps, self._seed, epoch)[position]]
        rng = np.random.Generator(
            np.random.PCG64(seed_for(self._seed, "bucket", bucket.length, epoch))
        )
        units = np.array_split(rng.permutation(bucket.members), parts)[part]
        return units if self._groups is None else self._groups.draw(units, self._seed, epoch)

    def length_at(self, step: int) -> int:
        """Return the length that batch ``step`` is padded to."""
        if self._groups is not None:
            return int(_padded(self._lengths[self.batch_at(step)], self._tokens).max())
        epoch, position = divmod(step, self.steps)
        return self._batches[_order_of(self.steps, self._seed, epoch)[position]][0].length


@dataclass(frozen=True)
class _Groups:
    """Records by group: those of group g are records[starts[g] : starts[g] + counts[g]]."""

    records: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray) -> _Groups:
        """Sort records by their group numbers."""
        _, starts, counts = np.unique(np.sort(numbers), return_index=True, return_counts=True)
        return cls(np.argsort(numbers, kind="stable"), starts, counts)

    def largest(self, lengths: np.ndarray) -> np.ndarray:
        """Return the length of the longest record of every group."""
        return np.maximum.reduceat(lengths[self.records], self.starts)

    def draw(self, groups: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """Return one record of each of some groups, drawn for an epoch."""
        shares = _numbers(len(self.starts), seed, epoch)[groups]
        offsets = (shares * self.counts[groups]).astype(int)
        return self.records[self.starts[groups] + offsets]


@dataclass(frozen=True)
class _Bucket:
    """Records that are padded to the same length, and the number of batches that they make."""

    length: int
    members: np.ndarray
    batches: int


def _buckets(lengths: np.ndarray, tokens: int) -> list[_Bucket]:
    """Return the buckets of records with these lengths, for a budget of ``tokens`` per batch."""
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
    """Return lengths rounded up to a multiple of ``GRAIN``, at most ``tokens``."""
    return np.minimum(-(-np.maximum(lengths, 1) // GRAIN) * GRAIN, tokens)


@lru_cache(maxsize=2)
def _numbers(groups: int, seed: int, epoch: int) -> np.ndarray:
    """Return a random number in [0, 1) for every group."""
    rng = np.random.Generator(np.random.PCG64(seed_for(seed, "member", epoch)))
    return rng.random(groups)


@lru_cache(maxsize=2)
def _order_of(batches: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the batches of an epoch."""
    rng = np.random.Generator(np.random.PCG64(seed_for(seed, "batches", epoch)))
    return rng.permutation(batches)


@lru_cache(maxsize=2)
def _block_order(records: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the blocks of an epoch."""
    rng = np.random.Generator(np.random.PCG64(seed_for(seed, "blocks", epoch)))
    return rng.permutation(-(-records // BLOCK))


@lru_cache(maxsize=4)
def _window_order(records: int, seed: int, epoch: int, window: int) -> np.ndarray:
    """Return the records of one window of an epoch, in their order."""
    blocks = _block_order(records, seed, epoch)[window * WINDOW : (window + 1) * WINDOW]
    members = (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
    members = members[members < records]
    rng = np.random.Generator(np.random.PCG64(seed_for(seed, "window", epoch, window)))
    return rng.permutation(members)


def largest(order: Order | RaggedOrder, world: int) -> set[tuple[int, int]]:
    """Return (samples per process, padded length) of the batches that need the most memory."""
    shapes = order.shapes if isinstance(order, RaggedOrder) else {(order.batch, 0)}
    return {(-(-rows // world), length) for rows, length in shapes}
