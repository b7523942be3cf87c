"""The samples of a cache as a map-style torch Dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from reed.cache.opened import Cache


class CacheDataset(Dataset[dict[str, Any]]):
    """The samples that all of some places have, in cache order, decoded on access.

    A sample is {name: value}: a tensor (floats as float32, a label as an int64 scalar), or a string
    where the field is text. The data set can be read in any number of DataLoader workers, forked or
    spawned. Where samples differ in length, a DataLoader needs a ``collate_fn`` that pads them.

    Args:
        cache: The open cache.
        places: Name -> address "column/field".
        view: The view to read; 1 is the mirrored one.

    Attributes:
        keys: The keys of the samples, in the same order.
    """

    def __init__(self, cache: Cache, places: Mapping[str, str], view: int = 0) -> None:
        joined = cache.join(places)
        self._cache, self._view = cache, view
        self._columns, self._rows = joined.columns, joined.rows
        self.keys: list[str] = [cache.plan.keys[row] for row in joined.rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, sample = self._rows[index], {}
        for column in self._columns:
            shard, position = int(column.shard[row]), int(column.place[row])
            fields = column.fields.values()
            values = self._cache.read(column.name, fields, shard, position, self._view)
            for name, field in column.fields.items():
                value = values[field.name]
                sample[name] = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        return sample
