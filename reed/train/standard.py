"""Tokens that a net generates: each channel is standardised by the statistics of its column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from reed.cache import schema, stats
from reed.cache.opened import Cache
from reed.cache.schema import Column, Field
from reed.errors import ReedError

LEAST = 1e-6  # of the largest deviation; a channel below it never varies, and is only shifted


def standardised(
    cache: Cache, domain: Any, stored: Mapping[str, tuple[Column, Field]]
) -> dict[str, Field]:
    """Return the fields of a domain by role, with the scale and shift that the net sees.

    Args:
        cache: The cache.
        domain: The class of the domain.
        stored: Role -> column and field.

    Raises:
        ReedError: The column of tokens that are generated has no statistics.
    """
    from reed.domains.base import Standardises  # here, because it imports torch

    roles = domain.standardised if isinstance(domain, Standardises) else ()
    fields = {role: field for role, (_, field) in stored.items()}
    for role in roles:
        column, field = stored[role]

        # An encoder that knows a better scale than the statistics states it.
        is_stated = (field.scale, field.shift) != ((1.0,), (0.0,))
        if field.kind == "token" and not is_stated:
            mean, std = moments(cache, column, field)
            fields[role] = replace(
                field, scale=tuple((1 / std).tolist()), shift=tuple(mean.tolist())
            )
    return fields


def moments(cache: Cache, column: Column, field: Field) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel over a column, float64 [C].

    They are those of the values before the codec, from the markers of all shards. The deviation of
    a channel that never varies is 1.

    Raises:
        ReedError: A marker has no statistics of the field.
    """
    summaries = []

    # The other reads of a cache leave the sums in the markers out, which are most of their bytes.
    for shard in range(cache.plan.shards):
        marker = schema.load_marker(cache.folder, column, shard)
        found = marker.stats.get(field.name)
        if found is None:
            raise ReedError(
                f"data.x is {column.name}/{field.name}, and the marker of shard {shard} has no "
                f"statistics to standardise it by; build the column again: reed-cache repair"
            )
        summaries.append(found)
    known = stats.moments(summaries)
    if known is None:
        raise ReedError(
            f"data.x is {column.name}/{field.name}, and the column has no value to standardise it "
            "by; look at it with reed-cache info"
        )

    mean, std = known
    std = np.where(std > LEAST * std.max(), std, 1.0)
    return mean, std
