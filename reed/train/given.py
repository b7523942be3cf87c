"""Checks of a cache when a run starts: labels in range, and the samples that columns lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from reed.cache.stream import ShardStream
from reed.domains.base import Bounded, Domain
from reed.errors import ReedError
from reed.train.run_data import Lacking, RunData

KEPT = 100  # lacking keys of each column that data.json lists


def check_labels(domain: Domain, stream: ShardStream, places: Mapping[str, str]) -> None:
    """Check that every number that the domain limits is at least 0 and below its limit.

    For example, the image domain uses the label `classes` for "no label", so no sample may have it.

    Args:
        domain: The domain; only a Bounded one has limits.
        stream: The samples of the run.
        places: Role -> "column/field", for messages.

    Raises:
        ReedError: A number is out of range; the message names the first sample.
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
    """Return the run's data with the samples that its columns lack, as the stream found them."""
    lacking = {
        name: Lacking(len(keys), tuple(keys[:KEPT]))
        for name, keys in stream.lacking.items()
        if keys
    }
    return replace(data, left_out=stream.left_out, lacking=lacking)
