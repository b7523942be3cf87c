"""Pipelines: one module (what to cache) and one recipe (how to train) per data set.

You name your own pipeline as "module:attribute", without registration: the attribute is its
Pipeline, and the recipe is the .toml file of the same name beside the module.
"""

from __future__ import annotations

import importlib
import importlib.util
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from reed import config
from reed.errors import ReedError, suggest
from reed.registry import by_path, find_in


@dataclass(frozen=True)
class Pipeline:
    """The parts from which stage one builds the cache of a data set, by name only.

    Columns are named NAME, COLUMN=NAME or COLUMN=module:attribute.

    Attributes:
        domain: A registered name, or module:attribute.
        source: A registered name, or module:attribute.
        base: Columns that training always needs.
        encoders: Columns that are built if no encoder is named on the command line.
        shard_size: Samples per shard.
        optional: Entry of the source -> columns that are built, too, if its samples have the entry.
        settings: Settings by column, such as ``{"image": {"resolution": 64}}``, and those of the
            source under ``source``; --set overrides them.
        codecs: COLUMN/FIELD=CODEC; --codec overrides them.
        latents: The column of ``base`` that --latents replaces; empty if there is none.
    """

    domain: str
    source: str
    base: tuple[str, ...]
    encoders: tuple[str, ...]
    shard_size: int
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    codecs: tuple[str, ...] = ()
    latents: str = ""


def names() -> list[str]:
    """Return the names of all pipelines, from their recipe files."""
    files = resources.files(__name__).iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load(name: str) -> Pipeline:
    """Load a pipeline by its name, or from "module:attribute".

    Raises:
        ReedError: There is no such pipeline, or the attribute is not a Pipeline.
    """
    if ":" in name:
        pipeline = by_path("pipeline", name)
        if not isinstance(pipeline, Pipeline):
            raise ReedError(f"{name} is {pipeline!r}, not a reed.pipelines.Pipeline")
        return pipeline
    return _module(name).PIPELINE


def summary(name: str) -> str:
    """Return the first line of the docstring of a pipeline's module."""
    return (_module(name).__doc__ or "").partition("\n")[0]


def label(name: str) -> str:
    """Return the default name of a pipeline's cache and runs: the module in "package.module:x"."""
    return name.partition(":")[0].rpartition(".")[2]


def variants(name: str) -> list[str]:
    """Return the variants of a pipeline's recipe, in the order of the file."""
    return list(_table(name).get("variants", {}))


def recipe(name: str, variant: str = "", built: Collection[str] | None = None) -> dict[str, Any]:
    """Return the recipe of a pipeline as a plain table.

    Args:
        name: Name of the pipeline.
        variant: Variant to merge into the recipe; empty for none.
        built: Columns of the cache. A table ``[without.COLUMN]`` is merged into the recipe where
            the cache lacks that column; None merges none of them.

    Raises:
        ReedError: The pipeline or the variant does not exist.
    """
    table = _table(name)
    known, without = table.pop("variants", {}), table.pop("without", {})
    for column, instead in without.items():
        if built is not None and column not in built:
            table = config.merge(table, instead)

    # The variant comes last: the user asked for it.
    if not variant:
        return table
    if variant not in known:
        raise ReedError(f"recipe {name!r} has no variant {variant!r}.{suggest(variant, known)}")
    return config.merge(table, known[variant])


def expected(name: str) -> Path | None:
    """Return the file of the ranges of a recipe's runs, NAME.expected.json beside it, if any."""
    folder, stem = Path(str(resources.files(__name__))), name
    if ":" in name:
        try:
            recipe = _beside(name)
        except ReedError:  # a run may go on where its pipeline is not
            return None
        folder, stem = recipe.parent, recipe.stem
    path = folder / f"{stem}.expected.json"
    return path if path.is_file() else None


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
    """Return the path of the recipe of "module:attribute".

    The module is located without running it, because stage two does not need it.
    """
    module = name.partition(":")[0]
    find_in(Path.cwd())
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise ReedError(
            f"the recipe of pipeline {name!r} is not in {Path.cwd()}: go where {module}.py and its "
            ".toml are"
        )
    return Path(spec.origin).with_suffix(".toml")


def _check(name: str) -> None:
    if name not in names():
        raise ReedError(f"unknown pipeline {name!r}.{suggest(name, names())}")
