"""The function with which Megatron Energon joins the columns of a cache."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from reed.cache import reader, schema
from reed.cache.codecs import codecs
from reed.cache.codecs.codecs import State
from reed.cache.containers.tar_layout import ending
from reed.cache.schema import Column


def join(*columns: dict[str, Any]) -> dict[str, Any]:
    """Return one sample with the decoded values of all columns, as "column.field".

    Args:
        *columns: The sample of each column, as energon reads it from a tar.
    """
    import torch  # here, so that naming the formats does not import it

    # What energon itself says of a sample is that of the first column; the rest are its parts.
    own = {name: value for name, value in columns[0].items() if name.startswith("__")}
    own["__sources__"] = [source for each in columns for source in each["__sources__"]]
    joined = type(columns[0])(own)
    for each in columns:
        column, state = _described(str(each["__sources__"][0].dataset_path))
        arrays = {
            part.name: _array(each[ending(part).removeprefix(".")])
            for field in column.fields
            for part in codecs.codec_of(field).parts(field)
        }
        for name, value in reader.decode(column.fields, arrays, state).items():
            is_array = isinstance(value, np.ndarray)
            joined[f"{column.name}.{name}"] = torch.from_numpy(value) if is_array else value
    return joined


@lru_cache
def _described(path: str) -> tuple[Column, dict[str, State]]:
    """Return the description and the calibration of the column that an export has linked."""
    folder = Path(path)
    column = schema.load_column(folder.parent, folder.name)
    return column, reader.load_state(folder.parent, column)


def _array(value: Any) -> np.ndarray:
    """Return a part as the cache stores it, from what energon has made of it."""
    if isinstance(value, str):
        return np.frombuffer(value.encode(), np.uint8)
    return np.asarray(value)  # of a tensor, too
