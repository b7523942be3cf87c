"""What a source computes by a library whose results change: part of the revision of a column.

Conformers that are made from SMILES change with RDKit's release, for example. Columns that read
them would otherwise hold shards of two kinds after a repair or an extension under another release.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from reed.build.reading import entries_of
from reed.build.shard import Downloads, Encoder
from reed.build.source import Source
from reed.cache import schema
from reed.cache.schema import Column
from reed.errors import ReedError

_BY = "; source computed by "


@runtime_checkable
class Computes(Protocol):
    """The additional method of a source that computes entries instead of reading them."""

    def computed_by(self) -> str:
        """Return the library that computes and its version, "rdkit 2026.09.1"; else nothing."""
        ...


def by(reads: Sequence[str], source: Source) -> str:
    """Return what computes the entries of a source that a column reads; empty if nothing does."""
    return source.computed_by() if entries_of(reads) and isinstance(source, Computes) else ""


def revision(encoder: Encoder, source: Source) -> str:
    """Return all that a column depends on: its encoder's revision, and what its source computes."""
    now = by(encoder.reads, source)
    return encoder.revision() + (f"{_BY}{now}" if now else "")


def as_recorded(column: Column, wanted: str) -> str:
    """Return a wanted revision with what the source of an existing column was computed by."""
    _, mark, built = column.revision.partition(_BY)
    return wanted.partition(_BY)[0] + mark + built


def check(cache: Path, column: Column, source: Source) -> str:
    """Check that a source computes by the version that a column was built with.

    Args:
        cache: Folder of the cache.
        column: The existing column.
        source: Source of the raw data.

    Returns:
        A line for the user if the column does not say its version, as those of earlier versions of
        this package; else nothing.

    Raises:
        ReedError: The column was built with another version.
    """
    now, built = by(column.reads, source), column.revision.partition(_BY)[2]
    if now and not built:
        return (
            f"{cache / column.name} does not say which version computed the values of its source: "
            f"whether {now} computes the same is not known"
        )
    if now != built:
        raise ReedError(
            f"{cache / column.name} has values that {built} computed, now it is "
            f"{now or 'nothing'}, which makes others; install {built} again, or build another "
            f"column of all samples: --encoder OTHER-NAME={column.encoder}"
        )
    return ""


def check_all(cache: Path, names: Iterable[str], source: Source) -> list[str]:
    """Check existing columns, see `check`, before anything is changed; return its lines."""
    found = [
        check(cache, schema.load_column(cache, name), source)
        for name in names
        if schema.has_shards(cache, name)
    ]
    return [line for line in found if line]


def check_reader(cache: Path, column: Column, encoder: Encoder, source: Source) -> None:
    """Raise ReedError if a column that may have to be built again has another revision now.

    The revision of an encoder with weights is compared only when it is loaded.

    Args:
        cache: Folder of the cache.
        column: The column.
        encoder: Its encoder, not loaded.
        source: Source of the raw data.
    """
    if isinstance(encoder, Downloads):
        return
    now = as_recorded(column, revision(encoder, source))
    if column.revision != now:
        raise ReedError(
            f"{cache / column.name} reads what the repair may change, and was built with revision "
            f"{column.revision!r}, now it is {now!r}; repair with the versions of the first build"
        )
