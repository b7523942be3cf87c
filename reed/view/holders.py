"""The runs that read a column, by what their recipes say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reed import config


def holders(runs: Path, cache: Path) -> dict[str, Path]:
    """Return the columns of a cache that runs read, each with the first run that does.

    Args:
        runs: A folder of runs, in which sweeps may be folders of runs.
        cache: The cache.

    Raises:
        ReedError: The config.json of a run cannot be read.
    """
    found: dict[str, Path] = {}
    for path in sorted([*runs.glob("*/config.json"), *runs.glob("*/*/config.json")]):
        table = config.read(path)
        if Path(str(table.get("shards", ""))).resolve() == cache.resolve():
            for address in _addresses(table):
                found.setdefault(address.partition("/")[0], path.parent)
    return found


def _addresses(table: dict[str, Any]) -> Iterator[str]:
    """Yield every "column/field" that a recipe reads."""
    yield from map(str, table.get("data", {}).values())
    for kind in ("align", "guide"):
        for entry in table.get(kind, {}).values():
            yield str(entry.get("target", ""))
