"""Metrics of generated molecules, and the file that says how they were taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reed import __version__
from reed.bytes import file_sha256
from reed.cache import files
from reed.chem import molecule_set, rdkit
from reed.errors import ReedError
from reed.evaluate.provenance import recipe_of, stage_one_of
from reed.metrics.molecule import measure
from reed.metrics.posebusters import busted, library


def evaluate(
    samples: Path,
    reference: Path,
    out: Path,
    *,
    num: int | None = None,
    posebusters: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure molecules and write the record: numbers, and everything that they depend on.

    samples: an .npz of reed.chem.molecule_set; reference: a cache of molecules, which are not
    novel; num: how many samples there must be; posebusters: run these checks, too. ReedError for
    what cannot be measured.
    """
    checker = library() if posebusters else None  # it is missed at once, not after the rest
    molecules = molecule_set.load(samples)
    if num is not None and len(molecules) != num:
        raise ReedError(f"{samples} holds {len(molecules)} samples, --num says {num}")
    recipe = recipe_of(samples, len(molecules))
    known = molecule_set.known(reference, progress=progress)
    found = measure(molecules, known, progress=progress)
    about = {"evaluator": f"reed-{__version__} rdkit-{rdkit.version()}"}
    if checker:
        found |= busted(molecules, progress=progress)
        about["evaluator"] += f" posebusters-{checker.__version__}"
    record = {
        "samples": {
            "place": str(samples),
            "kind": "molecules",
            "num": len(molecules),
            "sha256": file_sha256(samples),
        },
        "reference": {"place": str(reference), "kind": "cache", "num": len(known)},
        "metrics": {k: {"value": v} | about for k, v in found.items() if v is not None},
        "recipe": recipe,
        "stage_one": stage_one_of(recipe),
        "warnings": [f"{k}: there is nothing to average" for k, v in found.items() if v is None],
    }
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    files.write_atomic(out, text.encode())
    return record
