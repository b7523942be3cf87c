"""Pipelines: one module (what is cached) and one recipe (how it is trained) per data set.

One of your own is named "module:attribute" and needs no registration: the attribute is its
Pipeline, and the recipe is the .toml file of the same name beside the module.
"""

from __future__ import annotations

import importlib
import importlib.util
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from reed import config
from reed.errors import ReedError, suggest
from reed.registry import by_path, find_in


@dataclass(frozen=True)
class Pipeline:
    """What stage one builds for one data set, by name only.

    domain, source: a registered name or module:attribute; base: columns that training always
    needs; encoders: what is built when none is asked for, both as NAME or COLUMN=NAME or
    COLUMN=module:attribute; shard_size: samples per shard.
    """

    domain: str
    source: str
    base: tuple[str, ...]
    encoders: tuple[str, ...]
    shard_size: int


def names() -> list[str]:
    """Every pipeline, by its recipe file."""
    files = resources.files(__name__).iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load(name: str) -> Pipeline:
    """The pipeline called `name`, or at "module:attribute"; ReedError with the nearest name."""
    if ":" in name:
        found = by_path("pipeline", name)
        if not isinstance(found, Pipeline):
            raise ReedError(f"{name} is {found!r}, not a reed.pipelines.Pipeline")
        return found
    return _module(name).PIPELINE


def summary(name: str) -> str:
    """The first line of what the module of a pipeline says of it."""
    return (_module(name).__doc__ or "").partition("\n")[0]


def label(name: str) -> str:
    """What its cache and its runs are called by default: of "package.module:x" the module."""
    return name.partition(":")[0].rpartition(".")[2]


def variants(name: str) -> list[str]:
    """The variants of a pipeline's recipe, in the order of the file."""
    return list(_table(name).get("variants", {}))


def recipe(name: str, variant: str = "") -> dict[str, Any]:
    """The recipe of a pipeline as a plain table, with one of its variants laid on top."""
    table = _table(name)
    known = table.pop("variants", {})
    if not variant:
        return table
    if variant not in known:
        raise ReedError(f"recipe {name!r} has no variant {variant!r}.{suggest(variant, known)}")
    return config.merge(table, known[variant])


def _module(name: str) -> ModuleType:
    _check(name)
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def _table(name: str) -> dict[str, Any]:
    if ":" in name:
        return config.read(_beside(name))
    _check(name)
    text = (resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _beside(name: str) -> Path:
    """The recipe of "module:attribute"; the module, which stage two does not need, is not run."""
    module = name.partition(":")[0]
    find_in(Path.cwd())
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None:
        raise ReedError(
            f"the recipe of pipeline {name!r} is not in {Path.cwd()}: go where {module}.py and its "
            ".toml are"
        )
    return Path(found.origin).with_suffix(".toml")


def _check(name: str) -> None:
    if name not in names():
        raise ReedError(f"unknown pipeline {name!r}.{suggest(name, names())}")
