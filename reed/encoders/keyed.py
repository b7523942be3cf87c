"""Arrays in files and folders, by the keys of samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from reed.errors import ReedError, suggest
from reed.hdf5 import whole
from reed.weights import library

ENDINGS = (".npz", ".safetensors", ".h5", ".hdf5", ".parquet")
_UNREADABLE = "cannot read {} as .npz, .safetensors, .h5, .parquet or folder: {}"


def open_arrays(path: Path, entry: str = "") -> Arrays:
    """Open a file or a folder that holds an array per key; arrays are read on access.

    Args:
        path: A .npz, .safetensors, .h5 or .parquet file, or a folder of .npy or .parquet files.
        entry: Of parquet, the column with the arrays; by default the only one besides ``key``.

    Raises:
        ReedError: The file cannot be opened, or there is no such column.
    """
    if entry and not _parquet_files(path):
        raise ReedError(f"{path} is not parquet, so there is no column {entry!r} in it")
    try:
        if path.is_dir():
            return ParquetArrays(path, entry) if _parquet_files(path) else FolderArrays(path)
        return _OPEN.get(path.suffix, _open_npz)(path, entry)
    except ReedError:
        raise
    except Exception as error:  # each library has errors of its own
        raise ReedError(_UNREADABLE.format(path, error)) from error


class Arrays(Mapping[str, np.ndarray]):
    """Arrays by key."""

    def close(self) -> None:
        """Close what is open; nothing can be read afterwards."""


class FolderArrays(Arrays):
    """The files KEY.npy of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, key: str) -> np.ndarray:
        if ".." in PurePosixPath(key).parts or key.startswith("/"):
            raise ValueError(f"the key {key!r} leads out of the folder")
        path = self._folder / f"{key}.npy"
        if not path.is_file():
            raise KeyError(f"no file {key}.npy")
        return np.load(path, allow_pickle=False)

    def __iter__(self) -> Iterator[str]:
        for path in sorted(self._folder.rglob("*.npy")):
            yield path.relative_to(self._folder).with_suffix("").as_posix()

    def __len__(self) -> int:
        return sum(1 for _ in self)


class FileArrays(Arrays):
    """The arrays of an open .npz, .safetensors or .h5 file."""

    def __init__(self, names: list[str], read: Any, close: Any = None) -> None:
        self._names, self._read, self._close = dict.fromkeys(names), read, close

    def close(self) -> None:
        """Close the file; it cannot be read afterwards."""
        if self._close is not None:
            self._close()

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._names:
            raise KeyError(f"no entry {key!r}")
        return np.asarray(self._read(key))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class ParquetArrays(Arrays):
    """One column of parquet files that also have a column ``key``.

    The keys are held in memory, and of the arrays the last row groups that were read.
    """

    def __init__(self, path: Path, entry: str = "") -> None:
        parquet = library("pyarrow.parquet", "reading parquet", "export")
        self._files = [parquet.ParquetFile(file) for file in _parquet_files(path)]
        self._entry = _entry_of(path, self._files[0].schema_arrow.names, entry)

        # Where each key is: its file, its row group there, and its row in that.
        self._places: dict[str, tuple[int, int, int]] = {}
        for number, file in enumerate(self._files):
            for group in range(file.num_row_groups):
                keys = file.read_row_group(group, columns=["key"]).column(0).to_pylist()
                for row, key in enumerate(keys):
                    if str(key) in self._places:
                        raise ReedError(f"{path} has the key {key!r} twice")
                    self._places[str(key)] = number, group, row
        self._group = lru_cache(maxsize=4)(self._read_group)

    def __getitem__(self, key: str) -> np.ndarray:
        number, group, row = self._places[key]
        return _array_at(self._group(number, group), row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def _read_group(self, number: int, group: int) -> Any:
        table = self._files[number].read_row_group(group, columns=[self._entry])
        return table.column(0).combine_chunks()


def _array_at(column: Any, row: int) -> np.ndarray:
    """Return a row of nested lists as an array, without Python objects in between."""
    lists = library("pyarrow.types", "reading parquet", "export")
    values, shape = column.slice(row, 1), []
    while lists.is_list(values.type) or lists.is_fixed_size_list(values.type):
        is_fixed = lists.is_fixed_size_list(values.type)
        lengths = {values.type.list_size} if is_fixed else {*values.value_lengths().to_pylist()}
        if len(lengths) != 1 or None in lengths:
            raise ValueError("its lists differ in length")
        shape.append(lengths.pop())
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False).reshape(shape)


def _entry_of(path: Path, names: list[str], entry: str) -> str:
    """Return the column with the arrays."""
    if "key" not in names:
        raise ReedError(f"{path} has no column 'key' with the keys of samples, only {names}")
    others = [name for name in names if name != "key"]
    if not entry and len(others) != 1:
        listed = ", ".join(others)
        raise ReedError(f"{path} has the columns {listed}; name one of them with entry")
    if entry and entry not in others:
        raise ReedError(f"{path} has no column {entry!r}.{suggest(entry, others)}")
    return entry or others[0]


def _parquet_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.rglob("*.parquet"))
    return [path] if path.suffix == ".parquet" else []


def _open_npz(path: Path, _entry: str) -> FileArrays:
    opened = np.load(path, allow_pickle=False)
    return FileArrays(
        list(opened.files), opened.__getitem__, opened.close
    )  # an .npy opens, without files


def _open_safetensors(path: Path, _entry: str) -> FileArrays:
    from safetensors import safe_open

    opened = safe_open(path, framework="pt")  # NumPy has no bfloat16
    return FileArrays(list(opened.keys()), lambda key: _plain(opened.get_tensor(key)))


def _plain(tensor: Any) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _open_h5(path: Path, _entry: str) -> FileArrays:
    import h5py

    opened, names = h5py.File(path, "r"), []
    opened.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    return FileArrays(names, lambda key: whole(opened[key]), opened.close)


_OPEN = {
    ".safetensors": _open_safetensors,
    ".h5": _open_h5,
    ".hdf5": _open_h5,
    ".parquet": ParquetArrays,
}
