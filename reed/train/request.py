"""What reed-train was asked for: the settings that the recipe, files and options give together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reed import config, pipelines
from reed.cache import schema
from reed.errors import ReedError
from reed.store import mirror, urls


@dataclass(frozen=True)
class Request:
    """The words of a reed-train command.

    Attributes:
        shards: Folder of the cache.
        run: Folder of the run.
        variant: Variant of the recipe.
        files: Files of settings.
        assignments: Settings as "name=value".
        init: Initial weights.
    """

    shards: Path | None = None
    run: Path | None = None
    variant: str = ""
    files: tuple[Path, ...] = ()
    assignments: tuple[str, ...] = ()
    init: str | None = None

    @property
    def names_run_alone(self) -> bool:
        """Whether the command names an existing run and nothing else to take settings from."""
        if self.run is None or self.shards or self.files:
            return False
        return (self.run / "config.json").is_file()

    def given(self) -> dict[str, Any]:
        """Merge what the command gives: --config < flags < --set.

        A run that is named alone goes on with its own settings.
        """
        table: dict[str, Any] = {}
        files = (self.run / "config.json",) if self.run and self.names_run_alone else self.files
        for file in files:
            table = config.merge(table, config.read(file))
        flags = {"shards": self.shards, "run": self.run, "init": self.init}
        table |= {name: urls.text(value) for name, value in flags.items() if value}
        return merged(table, (config.assignment(text) for text in self.assignments))

    def table(self) -> dict[str, Any]:
        """Return all settings: the recipe < its variant < what `init` states < what is given."""
        given = self.given()
        cache = cache_of(given)
        if self.names_run_alone and not (cache / "manifest.json").is_file():
            raise ReedError(
                f"{self.run} was trained from {cache}, which is not there (no manifest.json); if "
                "the cache was moved, name its folder with --set shards=DIR"
            )
        manifest = schema.load_manifest(cache)
        base = recipe_of(cache, self.variant)
        if "run" not in given:
            label = pipelines.label(manifest.pipeline)
            base = {"run": str(_default_run(cache, label, self.variant))} | base
        return over_recipe(base, given, manifest.domain)


def over_recipe(base: Mapping[str, Any], given: Mapping[str, Any], domain: str) -> dict[str, Any]:
    """Merge what is given over a recipe, with what the weights of `init` state in between."""
    whole = config.merge(base, given)
    if not whole.get("init"):
        return whole

    from reed.train import stated  # it imports torch

    return config.merge(config.merge(base, stated.of_init(whole, domain)), given)


def merged(table: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge tables into a table, in their order."""
    result = dict(table)
    for other in others:
        result = config.merge(result, other)
    return result


def cache_of(given: Mapping[str, Any]) -> Path:
    """Return the folder of the cache; ReedError if no setting names it."""
    if "shards" not in given:
        raise ReedError("name the cache to train from with --shards DIR")
    return mirror.local(str(given["shards"]))


def recipe_of(cache: Path, variant: str) -> dict[str, Any]:
    """Return the recipe of a cache's pipeline; only the cache tells which pipeline that is."""
    manifest = schema.load_manifest(cache)
    return pipelines.recipe(manifest.pipeline, variant, schema.columns(cache))


def name_of(cache: Path, variant: str) -> str:
    """Return CACHE[-VARIANT], the name of the run of a cache."""
    name = cache.absolute().name
    return f"{name}-{variant}" if variant and not name.endswith(f"-{variant}") else name


def _default_run(cache: Path, pipeline: str, variant: str) -> Path:
    """Return runs/CACHE[-VARIANT]; the name of an earlier version if the cache's run has it."""
    older = Path("runs", "-".join(filter(None, (pipeline, variant))))

    # Runs were named after the pipeline; such a run of this cache is resumed.
    run = Path("runs", name_of(cache, variant))
    config_file = older / "config.json"
    if run != older and not run.exists() and config_file.is_file():
        shards = str(config.read(config_file).get("shards", ""))
        return older if mirror.folder_of(shards).absolute() == cache.absolute() else run
    return run
