"""Fitting the codecs of a new column to its first values, and writing its description."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from reed.bytes import file_sha256
from reed.cache import files, schema
from reed.cache.codecs import codecs, components
from reed.cache.codecs.codecs import State
from reed.cache.codecs.components import ASKED
from reed.cache.plan import Plan
from reed.cache.schema import Column, Field
from reed.errors import ReedError
from reed.wording import counted

CALIBRATION = 256  # the first records of the cache order, which is random
PAIR_STEP = 16  # of a pair field, every 16th token is used with all its neighbours, to save memory


def calibration_shards(planned: Plan) -> range:
    """Return the shards with the records on which columns are calibrated."""
    last = min(CALIBRATION, len(planned.keys)) - 1
    return range(planned.locate(last)[0] + 1)


def needing(column: Column) -> list[Field]:
    """Return the fields whose codec needs a calibration."""
    return [field for field in column.fields if codecs.codec_of(field).needs_calibration]


def first_values(
    needs: Sequence[Field], samples: Iterable[Mapping[str, Any]]
) -> dict[str, list[np.ndarray]]:
    """Return the values of fields to calibrate on: those of the first samples that are finite.

    Args:
        needs: The fields.
        samples: The samples, {field: value}.
    """
    values: dict[str, list[np.ndarray]] = {field.name: [] for field in needs}
    samples = (sample for sample in samples if is_finite(sample, values))
    for sample in islice(samples, CALIBRATION):
        add(sample, needs, values)
    return values


def add(
    sample: Mapping[str, Any], needs: Iterable[Field], values: Mapping[str, list[np.ndarray]]
) -> None:
    """Add what calibration needs of a sample: the fields of 256 records must fit into memory."""
    for field in needs:
        value = sample[field.name]
        values[field.name].append(value[::PAIR_STEP] if field.kind == "pair" else value)


def fit(
    column: Column, values: Mapping[str, Sequence[np.ndarray]], asked: Column
) -> tuple[Column, State]:
    """Calibrate some fields of a column; a line says where ``pca:K`` keeps fewer components.

    Args:
        column: The description of the column.
        values: The values of every field that is calibrated.
        asked: The column with the codecs that were asked for.

    Returns:
        The description with the codecs that could be fitted, and "field/name" -> array.
    """
    state: State = {}
    for name, arrays in values.items():
        vectors = sum(prod(np.shape(array)[:-1]) for array in arrays)
        field = components.lowered(column.field(name), vectors)
        try:
            calibration = codecs.codec_of(field).calibrate(arrays)
        except ReedError as error:
            raise ReedError(f"column {column.name!r}, field {name!r}: {error}") from error

        # A later build that asks for as many components again is to find the same column.
        if field.codec != (wanted := asked.field(name).codec):
            tqdm.write(lowered_line(column.name, field, wanted, vectors), file=sys.stderr)
            calibration |= {ASKED: np.array(components.components(wanted))}
        column = schema.with_codec(column, {name: field.codec})
        state |= {f"{name}/{entry}": array for entry, array in calibration.items()}
    return column, state


def lowered_line(column: str, field: Field, asked: str, vectors: int) -> str:
    """Return the line that says that a field keeps fewer components than was asked for."""
    found = f"{counted(vectors, 'vector')} of {counted(field.shape[-1] or 0, 'channel')}"
    return (
        f"column {column!r}, field {field.name!r}: {asked} is lowered to {field.codec}, which is "
        f"what {found} can be fitted with"
    )


def is_finite(sample: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether a sample can be used to calibrate; others are left out when a shard is written."""
    with np.errstate(over="ignore"):
        return all(np.isfinite(np.asarray(sample[name], np.float32)).all() for name in names)


def describe(cache: Path, column: Column, state: State) -> None:
    """Write calibration.npz, where there is a calibration, then column.json; the first writer wins.

    A build that was killed between the two leaves a calibration; it is valid only for an equal
    column.

    Args:
        cache: Folder of the cache.
        column: The description, without the hash of the calibration.
        state: "field/name" -> array; empty if no codec needs a calibration.
    """
    folder = cache / column.name
    if state:
        path, identity = folder / "calibration.npz", column.identity()
        if _made_for(path) != identity:
            file = io.BytesIO()
            arrays: dict[str, Any] = {"made_for": np.array(identity), **state}
            np.savez(file, **arrays)
            files.write_atomic(path, file.getvalue(), overwrite=path.is_file())
        column = replace(column, calibration=file_sha256(path))
    files.write_atomic(folder / "column.json", schema.dump(column), overwrite=False)


def _made_for(path: Path) -> str:
    """Return the identity of the column that a calibration was made for; empty if invalid."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return str(arrays["made_for"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return ""
