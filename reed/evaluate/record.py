"""The record of an evaluation: numbers, and all that they depend on, as NAME.eval.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reed import config
from reed.cache import files
from reed.errors import ReedError
from reed.evaluate.provenance import stage_one_of

# what a file must hold, by type; kind, recipe and stage_one came later than the others
SHAPE = {
    "metrics": dict,
    "samples": dict,
    "reference": dict,
    "warnings": list,
    "recipe": dict,
    "stage_one": dict,
}
_DESIGNS = ("step", "cache", "structures", "sampling")  # of an older record of designs


@dataclass
class Record:
    """What was measured.

    kind: of data, empty in older files; samples, reference: place, num and what else is known;
    metrics: name -> {"value", and what the number depends on}; recipe: how the samples were drawn;
    stage_one: what the columns of their run cost.
    """

    kind: str
    samples: dict[str, Any]
    reference: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    recipe: dict[str, Any] = field(default_factory=dict)
    stage_one: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        kind: str,
        samples: dict[str, Any],
        reference: dict[str, Any],
        recipe: dict[str, Any],
        values: Mapping[str, float | int | None] | None = None,
        **about: Any,
    ) -> Record:
        """A record with what the run of the samples cost.

        values: numbers by name; one that is None becomes a warning. about: what each depends on.
        """
        values = values or {}
        metrics = {k: {"value": v} | about for k, v in values.items() if v is not None}
        empty = [f"{k}: there is nothing to average" for k, v in values.items() if v is None]
        return cls(kind, samples, reference, metrics, recipe, stage_one_of(recipe), empty)

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in a file of this or an earlier version; ReedError where it is none."""
        table: dict[str, Any] = {"recipe": {}, "stage_one": {}, "kind": "", **config.read(path)}
        if {"step", "structures", "sampling"} <= table.keys():
            table = _of_designs(table)
        wrong = [key for key, kind in SHAPE.items() if not isinstance(table.get(key), kind)]
        if not wrong and not isinstance(table["recipe"].get("step"), int | None):
            wrong = ["the step of the recipe"]
        metrics = {} if wrong else table["metrics"]
        wrong += [k for k, m in metrics.items() if not isinstance(m, dict) or "value" not in m]
        if wrong:
            what = f"{', '.join(wrong)} missing or of another form"
            raise ReedError(f"{path} is no record of an evaluation: {what}; move it away")
        return cls(**{each.name: table[each.name] for each in dataclasses.fields(cls)})

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"
        files.write_atomic(path, text.encode())


def _of_designs(old: dict[str, Any]) -> dict[str, Any]:
    """An older record of designs, whose numbers lie beside what they depend on."""
    metrics: dict[str, Any] = {}
    for key, value in old.items():
        if key not in (*_DESIGNS, *SHAPE, "kind"):
            metrics |= {name: {"value": each} for name, each in spread(key, value).items()}
    return old | {
        "metrics": metrics,
        "samples": {"num": old["structures"]},
        "reference": {"place": str(old.get("cache"))},
        "recipe": {"step": old["step"], "sampling": old["sampling"]},
        "warnings": [],
    }


def spread(name: str, value: Any) -> dict[str, Any]:
    """A number by its name, or the numbers of a table by name and place: "perplexity_at 0.1"."""
    nested = value.items() if isinstance(value, Mapping) else [("", value)]
    return {f"{name} {at}".strip(): each for at, each in nested}
