"""The record of an evaluation, NAME.eval.json: values, and everything that they depend on."""

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

# Entries of a file and their types; kind, recipe and stage_one are missing in older files.
SHAPE = {
    "metrics": dict,
    "samples": dict,
    "reference": dict,
    "warnings": list,
    "recipe": dict,
    "stage_one": dict,
}
_DESIGNS = ("step", "cache", "structures", "sampling")  # entries of older records of designs


@dataclass
class Record:
    """The values of an evaluation, and what they depend on.

    Attributes:
        kind: Kind of data; empty in older files.
        samples: Path ("place"), number ("num") and hash of the samples, and what else is known.
        reference: The same of the reference.
        metrics: Name of a metric -> {"value", and what the value depends on}.
        recipe: How the samples were drawn.
        stage_one: What the columns of their run cost.
        warnings: Messages about the values, for the user.
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
        """Make a record, and add what the columns of the samples' run cost.

        Args:
            kind: See the class.
            samples: See the class.
            reference: See the class.
            recipe: See the class.
            values: Values by name; a value of None becomes a warning.
            **about: What every value depends on.
        """
        values = values or {}
        metrics = {k: {"value": v} | about for k, v in values.items() if v is not None}
        empty = [f"{k}: there is nothing to average" for k, v in values.items() if v is None]
        unsound = recipe.get("problems") or {}
        if unsound:
            first, reason = next(iter(unsound.items()))
            empty.append(f"{len(unsound)} samples are not sound (sample {first}: {reason})")
        return cls(kind, samples, reference, metrics, recipe, stage_one_of(recipe), empty)

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record of this or an earlier version; ReedError if the file is not a record."""
        table: dict[str, Any] = {"recipe": {}, "stage_one": {}, "kind": "", **config.read(path)}
        if {"step", "structures", "sampling"} <= table.keys():
            table = _of_designs(table)
        wrong = [key for key, kind in SHAPE.items() if not isinstance(table.get(key), kind)]
        if not wrong and not isinstance(table["recipe"].get("step"), int | None):
            wrong = ["the step of the recipe"]
        metrics = {} if wrong else table["metrics"]
        wrong += [k for k, m in metrics.items() if not isinstance(m, dict) or "value" not in m]
        if wrong:
            problem = f"{', '.join(wrong)} missing or of another form"
            raise ReedError(f"{path} is no record of an evaluation: {problem}; move it away")
        return cls(**{field.name: table[field.name] for field in dataclasses.fields(cls)})

    def write(self, path: Path) -> None:
        """Write the record to a file, whole or not at all."""
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"
        files.write_atomic(path, text.encode())


def _of_designs(old: dict[str, Any]) -> dict[str, Any]:
    """Convert an older record of designs, which mixes values with what they depend on."""
    metrics: dict[str, Any] = {}
    for key, value in old.items():
        if key not in (*_DESIGNS, *SHAPE, "kind"):
            metrics |= {name: {"value": item} for name, item in spread(key, value).items()}
    return old | {
        "metrics": metrics,
        "samples": {"num": old["structures"]},
        "reference": {"place": str(old.get("cache"))},
        "recipe": {"step": old["step"], "sampling": old["sampling"]},
        "warnings": [],
    }


def spread(name: str, value: Any) -> dict[str, Any]:
    """Return {name: value}, or for a table one entry per key, such as "perplexity_at 0.1"."""
    nested = value.items() if isinstance(value, Mapping) else [("", value)]
    return {f"{name} {key}".strip(): item for key, item in nested}
