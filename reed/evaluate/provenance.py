"""Origin of samples: the recipe beside them, and what the columns of their run cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reed.cache import cost, schema
from reed.errors import ReedError
from reed.store import mirror

RECIPE = (
    "run",
    "checkpoint",
    "step",
    "ema",
    "sampler",
    "steps",
    "guidance",
    "labels",
    "seed",
    "num",
    "precision",
    "vae",
    "images_seen",
    "config",
)
TARS = (".tars", ".shards")  # endings of folders of tars


def beside(place: Path, ending: str) -> Path:
    """Return the path beside a file or folder that has its name and another ending."""
    path = place if place.name else place.absolute()
    return path.parent / f"{path.stem if place.is_file() else path.name}{ending}"


def drawn_as(samples: Path) -> dict[str, Any]:
    """Return what reed-sample wrote to NAME.json beside samples; empty if there is no such file."""
    path = beside(samples, ".json")
    if not path.is_file() and samples.suffix in TARS:  # OUT.tars is a folder
        path = samples.with_suffix(".json")
    if not path.is_file():
        return {}
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReedError(f"cannot read the recipe {path}: {error}") from error
    if not isinstance(recipe, dict):
        raise ReedError(f"cannot read the recipe {path}: it holds no table")
    return recipe


def recipe_of(samples: Path, num: int) -> dict[str, Any]:
    """Return how samples were drawn, with None for what is not known.

    Args:
        samples: File or folder of samples.
        num: Number of samples in it.

    Raises:
        ReedError: NAME.json cannot be read, or states another number of samples.
    """
    recipe = drawn_as(samples)
    drawn, unsound = recipe.get("num", num), len(recipe.get("problems", {}))
    if num not in (drawn, drawn - unsound):  # a file may lack those that it cannot hold
        problem = f"{beside(samples, '.json')} says that {recipe['num']} samples were drawn"
        raise ReedError(f"{problem}, {samples} holds {num}; sample again, or remove the file")
    return dict.fromkeys(RECIPE) | recipe


def alignment_of(recipe: dict[str, Any]) -> list[str]:
    """Return the encoders that the run was aligned to with a weight other than 0.

    Encoders have their names in the registry; for a public checkpoint, REPA's name.
    """
    if not (settings := _settings(recipe)):
        arguments = recipe["config"] or {}  # of the program that trained a public checkpoint
        return [arguments["enc_type"]] if isinstance(arguments.get("enc_type"), str) else []
    aligned = [
        alignment["target"].partition("/")[0]
        for name, alignment in settings["align"].items()
        if settings["curriculum"].get(name) != 0
    ]
    known = {column.name: column.encoder for column in _columns(recipe)}
    return list(dict.fromkeys(known.get(name, name) for name in aligned))


def stage_one_of(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return what the columns that the run read cost.

    Returns:
        bytes and seconds, each by column or None if nothing is known. Seconds are summed over the
        processes whose build ended.
    """
    columns = list(_columns(recipe))
    size = {c.name: sum(marker.bytes for marker in _markers(recipe, c)) for c in columns}
    cache = mirror.folder_of(_settings(recipe).get("shards", ""))
    duration = {column.name: cost.seconds(cache / column.name) for column in columns}
    return {"bytes": size or None, "seconds": duration or None}


def _settings(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the run; empty for samples of other programs."""
    settings = recipe["config"] or {}
    return settings if {"shards", "data", "align", "curriculum"} <= settings.keys() else {}


def _columns(recipe: dict[str, Any]) -> Iterator[schema.Column]:
    """Yield the columns that the run read, if its cache still exists."""
    settings = _settings(recipe)
    cache = mirror.local(settings.get("shards", ""))
    if not settings or not (cache / "manifest.json").is_file():
        return
    targets = (alignment["target"] for alignment in settings["align"].values())
    addresses = [*settings["data"].values(), *targets]
    existing = schema.columns(cache)
    for name in dict.fromkeys(address.partition("/")[0] for address in addresses):
        if name in existing:
            yield schema.load_column(cache, name)


def _markers(recipe: dict[str, Any], column: schema.Column) -> Iterator[schema.Marker]:
    cache = mirror.folder_of(recipe["config"]["shards"])
    for path in sorted((cache / column.name).glob("[0-9]*.json")):
        yield schema.load_marker(cache, column, int(path.stem))
