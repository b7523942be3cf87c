"""The samples that the page of a cache shows, with their values in every column."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from reed.cache.opened import open_cache
from reed.cache.plan import Plan
from reed.view import peek
from reed.view.info import Summary


@dataclass(frozen=True)
class Sample:
    """The first view of a sample.

    Attributes:
        row: Row of the sample.
        key: Key of the sample.
        values: Decoded values, arrays or texts: {column: {field: value}}.
        missing: Reasons by column, for columns that lack the sample.
    """

    row: int
    key: str
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def choose(
    frozen: Plan, columns: Sequence[Summary], count: int, seed: int, first: int | None = None
) -> list[int]:
    """Return random rows in cache order, from the shards that most columns have.

    Args:
        frozen: Plan of the cache.
        columns: State of the columns.
        count: Number of rows; there may be fewer.
        seed: Seed of the choice.
        first: Row to put first in any case; None for none.
    """
    built = Counter(marker.shard for column in columns for marker in column.markers)
    most = max(built.values(), default=0)
    rows = [row for shard in sorted(built) if built[shard] == most for row in frozen.rows(shard)]
    front = [] if first is None else [first]
    rows = [row for row in rows if row != first]
    drawn = np.random.default_rng(seed).permutation(len(rows))[: count - len(front)]
    return front + sorted(rows[i] for i in drawn)


def read(
    cache: Path,
    frozen: Plan,
    columns: Sequence[Summary],
    rows: Sequence[int],
    progress: bool = True,
) -> list[Sample]:
    """Read the samples at rows from every column; ReedError if a column is damaged."""
    samples = [Sample(row, frozen.keys[row]) for row in rows]
    shards: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        shards[frozen.locate(sample.row)[0]].append(sample)
    total = len(columns) * len(samples)
    with tqdm(total=total, desc="read", disable=not progress, dynamic_ncols=True) as bar:
        for summary in columns:
            for shard, members in shards.items():
                _read(cache, frozen, summary, shard, members)
                bar.update(len(members))
    return samples


def _read(cache: Path, frozen: Plan, summary: Summary, shard: int, members: list[Sample]) -> None:
    """Fill in the values of samples of one shard from one column."""
    column = summary.column
    for sample in members:
        if reason := peek.missing(cache, frozen, column, sample.row):
            sample.missing[column.name] = reason
    wanted = {sample.key: sample for sample in members if column.name not in sample.missing}
    if wanted:
        with open_cache(cache) as opened:
            for key, values in opened.records(column.name, shards=[shard], keys=wanted.keys()):
                wanted[key].values[column.name] = values


def nearest(vectors: Mapping[int, np.ndarray], count: int = 5) -> dict[int, list[list[Any]]]:
    """Return the nearest other vectors of each vector by cosine.

    Args:
        vectors: Vectors [D] by index of the sample; a zero vector has the cosine 0 to all others.
        count: Number of neighbours, at most.

    Returns:
        [[index, cosine], ...] by index of the sample, the highest cosine first.
    """
    indices = list(vectors)
    if len(indices) < 2:
        return {}
    stacked = np.stack([vectors[index] for index in indices]).astype(np.float64)
    unit = stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-30)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(count, len(indices) - 1)]
    return {
        index: [[indices[i], round(float(cosine[row, i]), 4)] for i in order[row]]
        for row, index in enumerate(indices)
    }
