"""Encoded samples, and those that are kept from the calibration of a column for its shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reed.build.reading import size_of
from reed.build.tally import Tally, Timing

# A sample's key and, for each of its views, {field: value}.
Record = tuple[str, Sequence[dict[str, Any]]]
MOST = 1 << 28  # bytes that a column keeps in memory; what does not fit is encoded again


@dataclass(frozen=True)
class Encoded:
    """The samples of one call of the encoder, or of one per view.

    Attributes:
        records: The encoded samples.
        failed: Key -> reason, of the samples that could not be read or encoded.
        tried: Number of samples, with those that failed.
        timing: The seconds that it took, and what the source noted.
    """

    records: list[Record]
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

    @property
    def bytes(self) -> int:
        """The approximate size in memory."""
        views = (values for _, views in self.records for values in views)
        return sum(size_of(value) for values in views for value in values.values())


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
        size = encoded.bytes
        if self._bytes + size <= MOST:
            self._cuts[shard, keys] = encoded
            self._bytes += size

    def take(self, shard: int, keys: tuple[str, ...]) -> Encoded | None:
        """Return a cut and no longer keep it; None if it is not kept."""
        encoded = self._cuts.pop((shard, keys), None)
        if encoded:
            self._bytes -= encoded.bytes
        return encoded

    def drop(self, shard: int) -> None:
        """Keep nothing more of a shard, which is in place."""
        for cut in [cut for cut in self._cuts if cut[0] == shard]:
            self.take(*cut)
