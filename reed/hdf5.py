"""HDF5 files of other programs: values that are there, and no zeros in the place of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def whole(data: Any) -> Any:
    """Return all values of a data set (an ``h5py.Dataset``).

    HDF5 gives the fill value, which is zero by default, where nothing was written, where a
    virtual data set refers to a file or a data set that is missing, and where a file of external
    storage ends early.

    Raises:
        OSError: Some values are not there, or cannot be read.
    """
    _check(data)
    return data[()]


def _check(data: Any) -> None:
    from h5py import h5d

    if data.is_virtual:
        _check_sources(data)
        return
    status = data.id.get_space_status()
    if data.size and status != h5d.SPACE_STATUS_ALLOCATED:
        raise OSError(f"{_part(status)} was ever written; write it, or remove it")

    # HDF5 itself fails if such a file is missing. The size of the last one may be unlimited.
    missing = data.nbytes if data.external else 0
    for name, offset, size in data.external or ():
        here, missing = min(size, missing), missing - min(size, missing)
        if (path := Path(name)).is_file() and path.stat().st_size < offset + here:
            raise OSError(f"its external file {name} ends early; copy it again")


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
            source = file.get(part.dset_name)
            if not isinstance(source, h5py.Dataset):
                raise OSError(f"its part {part.dset_name} is missing in {path}")
            try:
                _check(source)
            except OSError as error:
                raise OSError(f"its part {part.dset_name} in {path}: {error}") from error
