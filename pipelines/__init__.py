"""Pipelines: one module (what is cached) and one recipe (how it is trained) per data set."""

from __future__ import annotations

import importlib
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from reed import config
from reed.errors import ReedError, suggest


@dataclass(frozen=True)
class Pipeline:
    """What stage one builds for one data set, by name only.

    base: columns that training always needs; encoders: what is built when none is asked for;
    shard_size: samples per shard.
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
    """The pipeline called `name`; ReedError with the nearest name."""
    _check(name)
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").PIPELINE


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


def _table(name: str) -> dict[str, Any]:
    _check(name)
    text = (resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _check(name: str) -> None:
    if name not in names():
        raise ReedError(f"unknown pipeline {name!r}.{suggest(name, names())}")
