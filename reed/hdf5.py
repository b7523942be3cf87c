"""HDF5 files of other programs: values that are there, and no zeros in the place of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def whole(data: Any) -> Any:
    """Return all values of a data set (an ``h5py.Dataset``).

    HDF5 gives the fill value, which is zero by default, where nothing was written, and where a
    virtual data set refers to a file or a data set that is missing.

    Raises:
        OSError: Some values are not there, or cannot be read.
    """
    from h5py import h5d

    status = h5d.SPACE_STATUS_ALLOCATED if not data.size else data.id.get_space_status()
    if not data.is_virtual and status != h5d.SPACE_STATUS_ALLOCATED:
        raise OSError(f"{_part(status)} was ever written; write it, or remove it")
    if data.is_virtual:
        _check_sources(data)
    return data[()]


def _part(status: int) -> str:
    from h5py import h5d

    return "only a part of it" if status == h5d.SPACE_STATUS_PART_ALLOCATED else "nothing of it"


def _check_sources(data: Any) -> None:
    """Raise OSError unless every value of a virtual data set has a source that is there."""
    import h5py

    parts, folder = data.virtual_sources(), Path(data.file.filename).parent
    if sum(part.vspace.get_select_npoints() for part in parts) < data.size:
        raise OSError(
            "no file is named for a part of this virtual data set; copy it as a plain one"
        )

    for part in parts:
        # HDF5 looks beside the file, and in the working directory.
        places = [folder / part.file_name, Path(part.file_name)]
        path = next((place for place in places if place.is_file()), None)
        if part.file_name == ".":
            path = Path(data.file.filename)
        if path is None:
            raise OSError(f"its part in {part.file_name} is missing; copy that file beside it")
        with h5py.File(path, "r") as file:
            if not isinstance(file.get(part.dset_name), h5py.Dataset):
                raise OSError(f"its part {part.dset_name} is missing in {path}")
