"""A folder of the hub: parquet files and a card, which `datasets.load_dataset` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reed.cache import files
from reed.exchange import FORMATS
from reed.exchange.parquet import Parquet
from reed.exchange.table import Feature


@FORMATS.register("hf")
class HuggingFace(Parquet):
    """The files data/train-I-of-N.parquet, labels with the names of their classes, and a card."""

    def path(self, shard: int) -> Path:
        """Return the path of a shard as the hub names it."""
        total = self._table.cache.plan.shards
        return self._folder / "data" / f"train-{shard:05d}-of-{total:05d}.parquet"

    def metadata(self) -> dict[str, str]:
        """Return the features as `datasets` stores them in a file."""
        features: dict[str, Any] = {"key": _value("string")}
        if self._table.views > 1:
            features["view"] = _value("int64")
        features |= {f.name: self._feature(f) for f in self._table.features}
        return {"huggingface": json.dumps({"info": {"features": features}})}

    def finish(self) -> None:
        """Write the card."""
        table = self._table
        rows = "\n".join(
            f"| `{f.name}` | {f.field.kind} | {f.dtype} | {list(f.shape)} | "
            f"{table.columns[f.column].encoder} | {table.columns[f.column].licence} |"
            for f in table.features
        )
        card = (
            "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
            "    path: data/train-*.parquet\n---\n\n"
            f"# {table.cache.folder.name}\n\n{int(table.kept.sum()):,} samples, exported from a "
            "feature cache of REED.\n\n"
            "| column | kind | type | shape | encoder | licence |\n|---|---|---|---|---|---|\n"
            f"{rows}\n"
        )
        files.write_atomic(self._folder / "README.md", card.encode())

    def _feature(self, feature: Feature) -> dict[str, Any]:
        names = self._table.cache.classes
        if feature.field.kind == "label" and names:
            return {"names": list(names), "_type": "ClassLabel"}
        kind = _value("string" if feature.dtype == "utf8" else feature.dtype)
        for size in reversed(feature.shape):
            kind = {"feature": kind, "_type": "List"} | ({} if size is None else {"length": size})
        return kind


def _value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}
