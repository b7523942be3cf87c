"""What a cache gives to a run: samples, those that a column lacks, labels, names of classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reed import config
from reed.cache import schema
from reed.cache.files import write_atomic
from reed.cache.stream import ShardStream
from reed.domains.base import Domain
from reed.errors import ReedError

NAME = "data.json"  # in the run's folder
KEPT, SHOWN = 100, 3  # keys of one column: in the file, in a line


def check_labels(domain: Domain, stream: ShardStream, places: Mapping[str, str]) -> None:
    """ReedError for the first number that is not below the setting which bounds it.

    A domain says so in `limits`, role -> the name of that setting: a label equal to `classes` is
    how the image domain tells a net that there is none.
    """
    for role, setting in getattr(domain, "limits", {}).items():
        numbers, limit = stream.numbers(role), getattr(domain, setting)
        bad = (numbers < 0) | (numbers >= limit)
        if bad.any():
            row = int(bad.argmax())
            raise ReedError(
                f"{places[role]} of sample {stream.key(row)!r} is {numbers[row]}, the greatest is "
                f"{numbers.max()}, and domain.{setting} is {limit}: labels go from 0 to "
                f"{limit - 1}; set domain.{setting}={numbers.max() + 1}, or mend the labels"
            )


def record(shards: Path, stream: ShardStream) -> dict[str, Any]:
    """What is written to data.json: counts of samples, and per column how many it lacks."""
    manifest = schema.load_manifest(shards)
    return {
        "samples": manifest.samples,
        "trained_on": manifest.samples - stream.left_out,
        "lacking": {
            name: {"count": len(keys), "keys": keys[:KEPT]}
            for name, keys in stream.lacking.items()
            if keys
        },
        "classes": list(manifest.classes),
    }


def write(run: Path, found: Mapping[str, Any]) -> None:
    """Put the record into the run's folder."""
    write_atomic(run / NAME, (json.dumps(found, indent=1) + "\n").encode())


def read(run: Path) -> dict[str, Any]:
    """The record of a run; empty where it has none, as those of before."""
    return config.read(run / NAME) if (run / NAME).is_file() else {}


def line(found: Mapping[str, Any]) -> str:
    """The samples that are not trained on, and why, in one line; empty where there are none."""
    if not found.get("lacking"):
        return ""
    lacks = "; ".join(
        f"{name} lacks {each['count']:,} ({_some(each)})" for name, each in found["lacking"].items()
    )
    return f"trains on {found['trained_on']:,} of the cache's {found['samples']:,} samples: {lacks}"


def _some(lacking: Mapping[str, Any]) -> str:
    more = ", …" if lacking["count"] > SHOWN else ""
    return ", ".join(lacking["keys"][:SHOWN]) + more
