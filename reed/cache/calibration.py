"""Reading the calibration of a column: the arrays of calibration.npz."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from reed.bytes import file_sha256
from reed.cache.codecs import codecs
from reed.cache.codecs.codecs import State
from reed.cache.schema import Column
from reed.errors import ReedError


def load_state(cache: Path, column: Column) -> dict[str, State]:
    """Return the calibration of every field of a column, from calibration.npz.

    Raises:
        ReedError: The file is missing, damaged or not the one that column.json names.
    """
    state: dict[str, State] = {field.name: {} for field in column.fields}
    needed = any(codecs.codec_of(field).needs_calibration for field in column.fields)
    if needed != bool(column.calibration):
        problem = f"has the calibration {column.calibration[:12]!r}, its codecs "
        problem += "need one" if needed else "need none"
        raise ReedError(f"{cache / column.name / 'column.json'} {problem}")
    if not needed:
        return state

    path = cache / column.name / "calibration.npz"
    digest = file_sha256(path)
    if digest != column.calibration:
        raise ReedError(f"{path} has sha256 {digest[:12]}, column.json {column.calibration[:12]}")
    try:
        with zipfile.ZipFile(path) as arrays:
            for info in arrays.infolist():
                field, slash, key = info.filename.removesuffix(".npy").partition("/")
                if slash:  # else it is "made_for", the identity of the column
                    state[field][key] = _load_array(arrays, info)
    except Exception as error:  # zipfile and numpy raise a dozen types for damaged files
        raise ReedError(f"cannot read {path}: {error}") from error
    return state


def _load_array(arrays: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Return one stored .npy; its size is checked before memory is allocated."""
    with arrays.open(info) as file:
        if info.compress_type != zipfile.ZIP_STORED or np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{info.filename} is not stored as numpy.savez does")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        if math.prod(shape) * dtype.itemsize != info.file_size - file.tell():
            raise ValueError(f"{info.filename} is not {dtype} {shape} in {info.file_size} bytes")
        if by_column or dtype.hasobject:
            raise ValueError(f"{info.filename} is not plain numbers, row by row")
        return np.frombuffer(bytearray(file.read()), dtype).reshape(shape)
