"""Records of one column by shard and place, whatever the container."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reed.cache import codecs, schema, shards
from reed.cache.codecs import Part, State
from reed.cache.schema import Column, Field, Marker
from reed.errors import ReedError

CONTAINERS = {"tar": shards}


class OpenShards:
    """A few open shards of one column, least recently used first to go; one per thread."""

    def __init__(self, cache: Path, column: Column, markers: Sequence[Marker], limit: int = 64):
        self._cache, self._column, self._markers, self._limit = cache, column, markers, limit
        self._open: OrderedDict[int, Any] = OrderedDict()

    def read(self, shard: int, rows: Sequence[int], out: dict[str, Sequence[np.ndarray]]) -> None:
        """Fill `out[part][j]` with record `rows[j]` of a shard; ReedError names what broke."""
        marker = self._markers[shard]
        try:
            self._get(shard, marker).read(rows, out)
        except (EOFError, OSError) as error:
            path = schema.shard_path(self._cache, self._column, shard)
            where = f"{path}, key {marker.keys[rows[0]]!r}"
            raise ReedError(f"{where}: {error}; run reed-cache verify {self._cache}") from error

    def _get(self, shard: int, marker: Marker) -> Any:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if len(self._open) >= self._limit:
            self._open.popitem(last=False)[1].close()
        path = schema.shard_path(self._cache, self._column, shard)
        self._open[shard] = CONTAINERS[self._column.container].Shard(path, marker.parts)
        return self._open[shard]

    def close(self) -> None:
        """Close every open shard."""
        for shard in self._open.values():
            shard.close()
        self._open.clear()


def empty(part: Part, marker: Marker, row: int) -> np.ndarray:
    """An array of the stored size of one part of record `row`."""
    if not part.is_ragged:
        return np.empty(part.shape or (1,), part.dtype)
    length = marker.parts[part.name]["lengths"][row]
    if part.dtype == "utf8":
        return np.empty((length,), np.uint8)
    return np.empty((length, *part.shape[1:]), part.dtype)


def records(
    cache: Path, column: Column, shard: int, fields: Sequence[Field], state: dict[str, State]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every record of a shard, decoded: key and {field: array or string}, for stage one."""
    marker = schema.load_marker(cache, column, shard)
    opened = OpenShards(cache, column, {shard: marker})  # type: ignore[arg-type]
    parts = {field.name: codecs.codec_of(field).parts(field) for field in fields}
    with contextlib.closing(opened):
        for row, key in enumerate(marker.keys):
            arrays = {p.name: empty(p, marker, row) for group in parts.values() for p in group}
            opened.read(shard, [row], {name: [array] for name, array in arrays.items()})
            yield key, {f.name: _decode(f, parts[f.name], arrays, state[f.name]) for f in fields}


def _decode(field: Field, parts: Sequence[Part], arrays: dict[str, np.ndarray], state: State):
    if field.kind == "text":
        return arrays[parts[0].name].tobytes().decode()
    import torch

    shaped = [arrays[p.name] if p.shape else arrays[p.name].reshape(()) for p in parts]
    tensors = [torch.from_numpy(array)[None] for array in shaped]
    torch_state = {name: torch.from_numpy(array) for name, array in state.items()}
    return codecs.codec_of(field).decode(tensors, torch_state)[0].numpy()


def load_state(cache: Path, column: Column) -> dict[str, State]:
    """The calibration of every field, from calibration.npz; ReedError when its hash differs."""
    state: dict[str, State] = {field.name: {} for field in column.fields}
    if not column.calibration:
        return state
    path = cache / column.name / "calibration.npz"
    digest = schema.file_sha256(path)
    if digest != column.calibration:
        raise ReedError(f"{path} has sha256 {digest[:12]}, column.json {column.calibration[:12]}")
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            field, _, key = name.partition("/")
            state[field][key] = arrays[name]
    return state
