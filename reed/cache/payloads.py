"""Where the payloads of records are in several shards."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from reed.cache.containers import offsets
from reed.cache.schema import Marker


class Payloads:
    """Finds the payloads of records of several shards of a column at once.

    Args:
        markers: Marker by shard.
    """

    def __init__(self, markers: Mapping[int, Marker]) -> None:
        self._markers = markers
        self._spaced: dict[str, np.ndarray] = {}  # by part: first offset and stride of each shard

    def of(
        self, shards: np.ndarray, records: np.ndarray, out: offsets.Out, without: Collection[int]
    ) -> Iterator[tuple[int, int, memoryview]]:
        """Yield shard, offset and memory of every payload, in order of shard and offset.

        Args:
            shards: The shard of every record.
            records: Their positions in these shards.
            out: Part -> arrays; ``out[part][j]`` is for record ``records[j]``.
            without: Shards whose payloads are left out.
        """
        starts = np.concatenate([self._starts(name, shards, records) for name in out])
        numbers = np.tile(shards, len(out))
        order = np.lexsort((starts, numbers))
        if without:
            order = order[~np.isin(numbers[order], list(without))]

        views = [offsets.bytes_of(array) for arrays in out.values() for array in arrays]
        ordered = [views[i] for i in order.tolist()]
        return zip(numbers[order].tolist(), starts[order].tolist(), ordered, strict=True)

    def _starts(self, part: str, shards: np.ndarray, records: np.ndarray) -> np.ndarray:
        """Return the offsets of one part of some records."""
        if part not in self._spaced:
            spaced = np.full((max(self._markers) + 1, 2), -1)
            for number, marker in self._markers.items():
                if isinstance(where := marker.parts[part]["offsets"], dict):
                    spaced[number] = where["first"], where["stride"]
            self._spaced[part] = spaced

        # Offsets that are not equally spaced are listed in the marker.
        first, stride = self._spaced[part][shards].T
        starts = first + records * stride
        for shard in np.unique(shards[first < 0]).tolist():
            chosen, listed = shards == shard, self._markers[shard].parts[part]["offsets"]
            starts[chosen] = offsets.starts_of(listed, records[chosen].tolist())
        return starts
