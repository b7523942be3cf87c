"""Where the payloads of records are in several shards."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

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
        self._where: dict[str, tuple[np.ndarray, np.ndarray]] = {}

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

        views: list[memoryview] = []
        for arrays in out.values():
            if len(arrays) and isinstance(arrays[0], memoryview):  # then all are
                views += cast("Sequence[memoryview]", arrays)
            else:
                views += map(offsets.bytes_of, arrays)
        ordered = [views[i] for i in order.tolist()]
        return zip(numbers[order].tolist(), starts[order].tolist(), ordered, strict=True)

    def _starts(self, part: str, shards: np.ndarray, records: np.ndarray) -> np.ndarray:
        """Return the offsets of one part of some records."""
        if part not in self._where:
            self._where[part] = self._indexed(part)
        spaced, listed = self._where[part]

        # Of a shard without a stride, `first` is where its offsets begin among the listed ones.
        first, stride = spaced[shards].T
        starts = first + records * stride
        if len(listed):
            is_listed = stride < 0
            starts[is_listed] = listed[(first + records)[is_listed]]
        return starts

    def _indexed(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Return first offset and stride of a part by shard, and the offsets without a stride."""
        spaced, listed, count = np.full((max(self._markers) + 1, 2), -1), [], 0
        for number, marker in self._markers.items():
            where = marker.parts[part]["offsets"]
            if isinstance(where, dict):
                spaced[number] = where["first"], where["stride"]
            else:
                spaced[number, 0], count = count, count + len(where)
                listed.append(np.array(where, dtype=np.int64))
        return spaced, np.concatenate(listed) if listed else np.empty(0, np.int64)
