"""From encoded samples to the records of a shard: what is stored, the statistics, who fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from reed.build import device
from reed.build.kept import Batch, Values, select
from reed.cache.codecs import codecs
from reed.cache.codecs.batch import is_tensor, on_host
from reed.cache.codecs.codecs import Codec, State
from reed.cache.containers import tar
from reed.cache.containers.block import Block
from reed.cache.schema import Column, Field
from reed.cache.stats import Stats

PIECE = 16 << 20  # bytes that are encoded and written at a time: fewer calls, and bounded memory


class Storing:
    """Makes blocks of the samples of one shard.

    Args:
        column: The column.
        state: Its calibration, by field.
    """

    def __init__(self, column: Column, state: Mapping[str, State]) -> None:
        self._fields = [(f, codecs.codec_of(f), state[f.name]) for f in column.fields]
        self._stats = {
            field.name: Stats(field)
            for field in column.fields
            if field.kind not in ("text", "label")
        }
        self.keys: list[str] = []  # of the samples so far that fit

    def stats(self) -> dict[str, Any]:
        """Return the statistics of the samples so far, for the marker."""
        return {name: running.summary() for name, running in self._stats.items()}

    def block(self, batch: Batch) -> tuple[Block, dict[str, str]]:
        """Return the records of some samples, and why others do not fit, by key.

        What is on a GPU is encoded and counted there.
        """
        with device.beside(batch.events):
            return self._block(batch)

    def _block(self, batch: Batch) -> tuple[Block, dict[str, str]]:
        """See `block`."""
        fits = np.ones(len(batch.keys), bool)
        views = []
        for values in batch.views:
            parts = []
            for field, codec, state in self._fields:
                found, sound = _encoded(field, codec, values[field.name], state)
                parts += found
                fits &= sound
            views.append(device.fetched(parts))

        # Samples that fail leave no trace in the file or in the statistics.
        unfit: dict[str, str] = {}
        if not fits.all():
            unfit = {batch.keys[i]: self._reason(batch, i) for i in np.flatnonzero(~fits).tolist()}
            chosen = np.flatnonzero(fits).tolist()
            batch = batch.some(chosen)
            views = [[select(part, chosen) for part in parts] for parts in views]
        self.keys += batch.keys
        self._count(batch)
        count = range(len(batch.views))
        names = [tar.member_key(key, view) for key in batch.keys for view in count]
        return Block(names, [_in_turn(same) for same in zip(*views, strict=True)]), unfit

    def _count(self, batch: Batch) -> None:
        """Add samples to the statistics, each with all of its views before the next."""
        for name, running in self._stats.items():
            running.add_all(_in_turn([view[name] for view in batch.views]))

    def _reason(self, batch: Batch, i: int) -> str:
        """Return why a sample does not fit: the first reason there is."""
        for values in batch.views:
            for field, codec, state in self._fields:
                value = on_host(values[field.name][i])
                if not _encoded(field, codec, [value], state)[1][0]:
                    return f"field {field.name!r} {codec.refusal(value, state)}"
        raise AssertionError(f"{batch.keys[i]!r} fits")


def _encoded(
    field: Field, codec: Codec, values: Values, state: State
) -> tuple[Sequence[Any], np.ndarray]:
    """Return the parts of a field of some samples, and which samples fit."""
    if field.kind == "text" or isinstance(values, np.ndarray) or is_tensor(values):
        return codec.encode_all(values, state)
    arrays = [np.asarray(on_host(value)) for value in values]
    if len({(a.shape, a.dtype) for a in arrays}) == 1:
        return codec.encode_all(np.stack(arrays), state)

    # Rows of samples of different lengths are encoded as if each was a sample.
    rows = None in field.shape and codec.by_row and len({a.dtype for a in arrays}) == 1
    if not rows:
        encoded = [codec.encode_all(array[None], state) for array in arrays]
        parts = zip(*([part[0] for part in found] for found, _ in encoded), strict=True)
        return [list(part) for part in parts], np.array([fits[0] for _, fits in encoded])
    parts, sound = codec.encode_all(np.concatenate(arrays), state)
    bounds = np.cumsum([0, *map(len, arrays)]).tolist()
    split = [[part[a:b] for a, b in pairwise(bounds)] for part in parts]
    return split, np.array([sound[a:b].all() for a, b in pairwise(bounds)])


def _in_turn(views: Sequence[Any]) -> Any:
    """Return the values of all views, sample by sample."""
    if len(views) == 1:
        return views[0]
    if all(isinstance(v, np.ndarray) for v in views) and len({v.shape for v in views}) == 1:
        stacked = np.stack(views, axis=1)
        return stacked.reshape(len(views) * len(views[0]), *stacked.shape[2:])
    if all(map(is_tensor, views)):
        import torch

        return torch.stack(list(views), 1).flatten(0, 1)
    return [value for sample in zip(*views, strict=True) for value in sample]
