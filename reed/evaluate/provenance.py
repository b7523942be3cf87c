"""Where samples come from: the recipe beside them, and what the features of their run cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reed.cache import cost, schema
from reed.errors import ReedError

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


def beside(place: Path, ending: str) -> Path:
    """The file beside some images that has their name and an ending."""
    where = place if place.name else place.absolute()
    return where.parent / f"{where.stem if place.is_file() else where.name}{ending}"


def drawn_as(samples: Path) -> dict[str, Any]:
    """What reed-sample wrote beside the samples, in NAME.json; empty where it wrote nothing."""
    path = beside(samples, ".json")
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReedError(f"cannot read the recipe {path}: {error}") from error
    if not isinstance(found, dict):
        raise ReedError(f"cannot read the recipe {path}: it holds no table")
    return found


def recipe_of(samples: Path, num: int) -> dict[str, Any]:
    """How samples were drawn; None for what is not known.

    ReedError when NAME.json cannot be read, or is of another number of samples.
    """
    found = drawn_as(samples)
    if found.get("num", num) != num:
        problem = f"{beside(samples, '.json')} says that {found['num']} samples were drawn"
        raise ReedError(f"{problem}, {samples} holds {num}; sample again, or remove the file")
    return dict.fromkeys(RECIPE) | found


def alignment_of(recipe: dict[str, Any]) -> list[str]:
    """The encoders that the run was aligned to with a weight: registry names, or REPA's own."""
    if not (settings := _settings(recipe)):
        theirs = recipe["config"] or {}  # the arguments in a public checkpoint
        return [theirs["enc_type"]] if isinstance(theirs.get("enc_type"), str) else []
    on = [
        each["target"].partition("/")[0]
        for name, each in settings["align"].items()
        if settings["curriculum"].get(name) != 0
    ]
    known = {column.name: column.encoder for column in _columns(recipe)}
    return list(dict.fromkeys(known.get(name, name) for name in on))


def stage_one_of(recipe: dict[str, Any]) -> dict[str, Any]:
    """What the cache of the run cost: bytes and seconds of each column that it read.

    seconds: of every process whose build ended; None where that is not known.
    """
    columns = list(_columns(recipe))
    size = {c.name: sum(marker.bytes for marker in _markers(recipe, c)) for c in columns}
    cache = Path(_settings(recipe).get("shards", ""))
    took = {column.name: cost.seconds(cache / column.name) for column in columns}
    return {"bytes": size or None, "seconds": took or None}


def _settings(recipe: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run of ours, empty where the samples are of another."""
    settings = recipe["config"] or {}
    return settings if {"shards", "data", "align", "curriculum"} <= settings.keys() else {}


def _columns(recipe: dict[str, Any]) -> Iterator[schema.Column]:
    """The columns that the run read, where its cache is still there."""
    settings = _settings(recipe)
    cache = Path(settings.get("shards", ""))
    if not settings or not (cache / "manifest.json").is_file():
        return
    places = [*settings["data"].values(), *(each["target"] for each in settings["align"].values())]
    there = schema.columns(cache)
    for name in dict.fromkeys(place.partition("/")[0] for place in places):
        if name in there:
            yield schema.load_column(cache, name)


def _markers(recipe: dict[str, Any], column: schema.Column) -> Iterator[schema.Marker]:
    cache = Path(recipe["config"]["shards"])
    for path in sorted((cache / column.name).glob("[0-9]*.json")):
        yield schema.load_marker(cache, column, int(path.stem))
