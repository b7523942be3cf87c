"""Encoded samples, and those that are kept from the calibration of a column for its shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reed.build.reading import size_of
from reed.build.tally import Tally, Timing
from reed.cache.codecs.batch import is_tensor, on_host

# One value for each sample of a batch, in order; they may be the rows of one array.
Values = Sequence[Any] | np.ndarray
MOST = 1 << 28  # bytes that a column keeps in memory; what does not fit is encoded again


@dataclass(frozen=True)
class Batch:
    """Encoded samples, as the encoder returned them.

    Attributes:
        keys: Their keys.
        views: For each view of the samples, {field: one value per key}.
        events: After which values on a GPU are there, see `reed.build.device.mark`.
    """

    keys: Sequence[str]
    views: Sequence[Mapping[str, Values]]
    events: Sequence[Any] = ()

    def some(self, chosen: Sequence[int]) -> Batch:
        """Return some of the samples, in the order in which they are."""
        if len(chosen) == len(self.keys):
            return self
        views = [{n: select(v, chosen) for n, v in view.items()} for view in self.views]
        return Batch([self.keys[i] for i in chosen], views, self.events)

    def pieces(self, size: int) -> Iterator[Batch]:
        """Yield the samples in batches of about so many bytes."""
        step = max(1, size * len(self.keys) // max(1, self.bytes))
        for start in range(0, len(self.keys), step):
            part = slice(start, start + step)
            views = [{n: v[part] for n, v in view.items()} for view in self.views]
            yield Batch(self.keys[part], views, self.events)

    def samples(self) -> Iterator[dict[str, Any]]:
        """Yield the values of every view of every sample."""
        for i in range(len(self.keys)):
            for view in self.views:
                yield {name: on_host(values[i]) for name, values in view.items()}

    @property
    def bytes(self) -> int:
        """The approximate size in memory."""
        every = [values for view in self.views for values in view.values()]
        return sum(size_of(v) if hasattr(v, "nbytes") else sum(map(size_of, v)) for v in every)


def select(values: Any, chosen: Sequence[int]) -> Any:
    """Return some of the values."""
    if isinstance(values, np.ndarray) or is_tensor(values):
        return values[list(chosen)]
    return [values[i] for i in chosen]


@dataclass(frozen=True)
class Encoded:
    """The samples of one call of the encoder, or of one per view.

    Attributes:
        batch: The encoded samples.
        failed: Key -> reason, of the samples that could not be read or encoded.
        tried: Number of samples, with those that failed.
        timing: The seconds that it took, and what the source noted.
    """

    batch: Batch
    failed: dict[str, str]
    tried: int
    timing: Timing

    def count(self, failed: dict[str, str], timing: Timing, tally: Tally) -> None:
        """Add the failed samples, the seconds and the counts to those of a shard.

        Raises:
            ReedError: Too many samples have failed, so that a bad source stops a build early.
        """
        timing.add(self.timing)
        failed |= self.failed
        tally.add(self.tried, self.failed)


@dataclass
class Kept:
    """What calibration has encoded, until the shards are built: at most ``MOST`` bytes.

    It is in memory alone. A build that is killed leaves nothing behind, and the next one encodes
    these samples again.
    """

    _cuts: dict[tuple[int, tuple[str, ...]], Encoded] = field(default_factory=dict)
    _bytes: int = 0

    def add(self, shard: int, keys: tuple[str, ...], encoded: Encoded) -> None:
        """Keep an encoded cut of a shard if there is room."""
        size = encoded.batch.bytes
        if self._bytes + size <= MOST:
            self._cuts[shard, keys] = encoded
            self._bytes += size

    def take(self, shard: int, keys: tuple[str, ...]) -> Encoded | None:
        """Return a cut and no longer keep it; None if it is not kept."""
        encoded = self._cuts.pop((shard, keys), None)
        if encoded:
            self._bytes -= encoded.batch.bytes
        return encoded

    def drop(self, shard: int) -> None:
        """Keep nothing more of a shard, which is in place."""
        for cut in [cut for cut in self._cuts if cut[0] == shard]:
            self.take(*cut)
