"""What a cache gives to a run: samples, those that a column lacks, labels, names of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from reed.cache.stream import ShardStream
from reed.domains.base import Bounded, Domain
from reed.errors import ReedError
from reed.train.run_data import Lacking, RunData

KEPT = 100  # keys of one column, in data.json


def check_labels(domain: Domain, stream: ShardStream, places: Mapping[str, str]) -> None:
    """ReedError for the first number that is not below the setting which bounds it.

    A label equal to `classes`, for one, is how the image domain tells a net that there is none.
    """
    limits = domain.limits if isinstance(domain, Bounded) else {}
    for role, setting in limits.items():
        numbers, limit = stream.numbers(role), getattr(domain, setting)
        bad = (numbers < 0) | (numbers >= limit)
        if bad.any():
            row = int(bad.argmax())
            raise ReedError(
                f"{places[role]} of sample {stream.key(row)!r} is {numbers[row]}, the greatest is "
                f"{numbers.max()}, and domain.{setting} is {limit}: labels go from 0 to "
                f"{limit - 1}; set domain.{setting}={numbers.max() + 1}, or mend the labels"
            )


def with_lacking(data: RunData, stream: ShardStream) -> RunData:
    """What the run keeps of its cache, with the samples that its columns lack."""
    lacking = {
        name: Lacking(len(keys), tuple(keys[:KEPT]))
        for name, keys in stream.lacking.items()
        if keys
    }
    return replace(data, left_out=stream.left_out, lacking=lacking)
