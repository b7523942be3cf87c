"""Some samples of a cache: which ones a page shows, and all that the columns hold of them."""

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
    """One sample, its first view. values: {column: {field: array or string}}, as decoded.

    missing: column -> why it has nothing of the sample.
    """

    row: int
    key: str
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def choose(
    frozen: Plan, columns: Sequence[Summary], count: int, seed: int, first: int | None = None
) -> list[int]:
    """Rows drawn at random from the shards that most columns have, in cache order.

    first: a row that is there in any case, at the front. Fewer than `count` where there are fewer.
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
    """What every column has of the samples at some rows; ReedError where it is damaged."""
    samples = [Sample(row, frozen.keys[row]) for row in rows]
    shards: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        shards[frozen.locate(sample.row)[0]].append(sample)
    total = len(columns) * len(samples)
    with tqdm(total=total, desc="read", disable=not progress, dynamic_ncols=True) as bar:
        for each in columns:
            for shard, there in shards.items():
                _read(cache, frozen, each, shard, there)
                bar.update(len(there))
    return samples


def _read(cache: Path, frozen: Plan, summary: Summary, shard: int, there: list[Sample]) -> None:
    """Fill in what one column has of samples of one shard."""
    column = summary.column
    for sample in there:
        if reason := peek.missing(cache, frozen, column, sample.row):
            sample.missing[column.name] = reason
    wanted = {each.key: each for each in there if column.name not in each.missing}
    if wanted:
        with open_cache(cache) as opened:
            for key, values in opened.records(column.name, shards=[shard], keys=wanted.keys()):
                wanted[key].values[column.name] = values


def nearest(vectors: Mapping[int, np.ndarray], count: int = 5) -> dict[int, list[list[Any]]]:
    """The nearest others of each vector by cosine: place -> [[place, cosine], ...], best first.

    vectors: place -> [D]. A zero vector is at 0 from all.
    """
    places = list(vectors)
    if len(places) < 2:
        return {}
    stacked = np.stack([vectors[place] for place in places]).astype(np.float64)
    unit = stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-30)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(count, len(places) - 1)]
    return {
        place: [[places[i], round(float(cosine[row, i]), 4)] for i in order[row]]
        for row, place in enumerate(places)
    }
