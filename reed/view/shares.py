"""Shares of what numbers stand for: letters, elements, classes."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reed.cache import reader, schema
from reed.cache.codecs import codecs
from reed.cache.schema import Column, Field
from reed.encoders import ENCODERS
from reed.errors import ReedError
from reed.wording import counted

SAMPLES = 10_000  # samples that are read, at most; the order of a cache is random
INTEGERS = ("uint8", "int32", "int64")  # codecs that store them as they are
SHOWN = 24  # names in the line: all amino acids


def symbols_of(column: Column, field: Field, classes: Sequence[str]) -> Mapping[int, str] | None:
    """Return the names of the numbers of a field; None if it holds plain numbers.

    Args:
        column: The column, whose encoder may name the numbers.
        field: The field.
        classes: Names of the classes of the cache, by number.

    Returns:
        The names by number; a label whose classes have no names has none.
    """
    if field.kind == "label":
        # The names are those of the source's labels; another column may hold other numbers.
        return dict(enumerate(classes)) if "label" in column.reads else {}
    if field.codec not in INTEGERS or ":" in column.encoder:  # nobody's own code is run here
        return None
    try:
        encoder = ENCODERS.get(column.encoder)
    except Exception:  # a plugin that is not installed here, or raises anything
        return None
    return getattr(encoder, "symbols", {}).get(field.name)


def label_text(column: Column, field: Field, classes: Sequence[str], value: Any) -> str:
    """Return a label with the name of its class, if it has one, such as "label 2 (flags)"."""
    names = symbols_of(column, field, classes) or {}
    name = names.get(int(value)) if np.size(value) == 1 else None
    return f"{field.name} {value}" + (f" ({name})" if name else "")


def line(
    cache: Path, column: Column, field: Field, symbols: Mapping[int, str], shards: Sequence[int]
) -> str:
    """Return a line with the share of every name, the largest first.

    Args:
        cache: Folder of the cache.
        column: The column.
        field: The field.
        symbols: Names by number, see `symbols_of`.
        shards: The shards that are built.
    """
    try:
        counts, samples = _counted(cache, column, field, shards)
    except (ReedError, OSError, EOFError) as error:
        return f"shares cannot be read: {error}"

    # Of a label every number counts; of others those without a name, such as padding, do not.
    is_label = field.kind == "label"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [(number, n) for number, n in ordered if is_label or number in symbols]
    total = sum(n for _, n in shown)
    what = counted(total, "sample") if is_label else f"{total:,} in {counted(samples, 'sample')}"
    if is_label and not symbols and len(shown) > SHOWN:
        return f"{len(shown):,} different labels of {what}"
    shares = (
        f"{symbols.get(number, number)} {100 * n / total:.1f} %" for number, n in shown[:SHOWN]
    )
    more = f", and {len(shown) - SHOWN:,} more" if len(shown) > SHOWN else ""
    return f"shares of {what}: {', '.join(shares) or 'none'}{more}"


def _counted(
    cache: Path, column: Column, field: Field, shards: Sequence[int]
) -> tuple[Counter[int], int]:
    """Return how often the first samples have each number, and how many samples these are.

    Integers are stored as they are, so nothing is decoded, which would import torch.
    """
    views, counts, samples = schema.load_manifest(cache).views, Counter(), 0
    parts = codecs.codec_of(field).parts(field)
    for shard in shards:
        marker = reader.sound_marker(cache, column, shard, views)
        opened = reader.OpenShards(cache, column, {shard: marker}, views=views)
        rows = range(0, len(marker.keys) * views, views)[: SAMPLES - samples]
        with contextlib.closing(opened):
            for row in rows:
                stored = reader.stored(partial(opened.read, shard), marker, parts, row)
                counts.update(stored[field.name].ravel().tolist())
        samples += len(rows)
        if samples >= SAMPLES:
            break
    return counts, samples
