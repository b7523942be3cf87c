"""Settings that the weights which a run starts from state, such as the neighbours of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from reed import config
from reed.train import public
from reed.train.run_data import domain_class


def of_init(table: Mapping[str, Any], domain: str) -> dict[str, Any]:
    """Return the settings that the weights of `init` state, to be merged over the recipe.

    A run that exists keeps its own, and then the file is not read. Another run, as `init`, states
    none.

    Args:
        table: The settings, with `init` and `run`.
        domain: Name of the domain; only one that Continues takes settings from weights.

    Raises:
        ReedError: The weights cannot be read.
    """
    names = getattr(domain_class(domain), "continues", {})
    init = Path(str(table.get("init") or ""))
    if not names or init.is_dir():
        return {}

    # A run that is resumed needs no file, which may be gone by then.
    stored = Path(str(table["run"])) / "config.json"
    if stored.is_file():
        old = config.read(stored).get("domain", {})
        found = {name: _at(old, name) for name in names}
    else:
        args = public.read(init).args
        found = {
            name: next((args[key] for key in keys if key in args), None)
            for name, keys in names.items()
        }

    return reduce(config.merge, [_nested(f"domain.{n}", v) for n, v in found.items()], {})


def _at(table: Any, name: str) -> Any:
    """Return the value of a dotted name in a nested table; None if there is none."""
    for part in name.split("."):
        table = table.get(part) if isinstance(table, Mapping) else None
    return table


def _nested(name: str, value: Any) -> dict[str, Any]:
    """Return the table in which a dotted name has a value; an empty one for None."""
    if value is None:
        return {}
    for part in reversed(name.split(".")):
        value = {part: value}
    return value
