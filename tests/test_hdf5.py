"""HDF5 files of other programs: where HDF5 would give zeros, an error is given."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from reed.build.shard import BadSample
from reed.encoders.array_file import ArrayFile
from reed.hdf5 import whole
from reed.sources.image.cached import Cached


def joined(path, parts: dict[str, str], rows: int = 6) -> None:
    """A virtual data set "x" of three rows from every part, in the order of the parts."""
    layout = h5py.VirtualLayout((rows, 2), np.float32)
    for number, (file, name) in enumerate(parts.items()):
        layout[3 * number : 3 * number + 3] = h5py.VirtualSource(file, name, (3, 2))
    with h5py.File(path, "w") as file:
        file["own"] = np.full((3, 2), 7, np.float32)
        file.create_virtual_dataset("x", layout)


def part(path, value: float, name: str = "x") -> None:
    with h5py.File(path, "w") as file:
        file[name] = np.full((3, 2), value, np.float32)


def test_a_virtual_data_set_is_read_only_if_all_its_parts_are_there(tmp_path):
    part(tmp_path / "a.h5", 1)
    part(tmp_path / "b.h5", 2)
    joined(tmp_path / "all.h5", {"a.h5": "x", "b.h5": "x", ".": "own"}, rows=9)
    with h5py.File(tmp_path / "all.h5") as file:
        assert whole(file["x"])[:, 0].tolist() == [1, 1, 1, 2, 2, 2, 7, 7, 7]

    part(tmp_path / "b.h5", 2, "other")
    with h5py.File(tmp_path / "all.h5") as file:
        assert file["x"][4].tolist() == [0, 0], "what HDF5 gives"
        with pytest.raises(OSError, match=r"its part x is missing in .*b\.h5"):
            whole(file["x"])
    (tmp_path / "b.h5").unlink()
    with h5py.File(tmp_path / "all.h5") as file:
        assert file["x"][4].tolist() == [0, 0], "what HDF5 gives"
        with pytest.raises(OSError, match=r"its part in b\.h5 is missing; copy that file beside"):
            whole(file["x"])

    joined(tmp_path / "gap.h5", {"a.h5": "x"})
    with (
        h5py.File(tmp_path / "gap.h5") as file,
        pytest.raises(OSError, match="no file is named for a part"),
    ):
        whole(file["x"])


def test_values_that_were_never_written_are_not_read_as_zeros(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("zeros", data=np.zeros((100, 4)), chunks=(10, 4), compression="gzip")
        file.create_dataset("text", data=np.array(b"abc"))
        file.create_dataset("none", (0, 4), "f4", chunks=(1, 4), maxshape=(None, 4))
        file.create_dataset("nothing", (100, 4), "f4")
        file.create_dataset("half", (100, 4), "f4", chunks=(10, 4))[:45] = 1
    with h5py.File(tmp_path / "x.h5") as file:
        assert not whole(file["zeros"]).any() and whole(file["text"]) == b"abc"
        assert whole(file["none"]).shape == (0, 4)
        for name, problem in {"nothing": "nothing of it", "half": "only a part of it"}.items():
            with pytest.raises(OSError, match=f"{problem} was ever written; write it, or remove"):
                whole(file[name])


def test_the_parts_of_a_virtual_data_set_are_themselves_whole(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("nothing", (3, 2), "f4")
        file.create_dataset("half", (3, 2), "f4", chunks=(1, 2))[:1] = 1
    joined(tmp_path / "inner.h5", {"gone.h5": "x"}, rows=3)
    for number, (name, key, problem) in enumerate(
        [
            ("a.h5", "nothing", r"its part nothing in .*a\.h5: nothing of it was ever written"),
            ("a.h5", "half", r"its part half in .*a\.h5: only a part of it was ever written"),
            ("inner.h5", "x", r"its part x in .*inner\.h5: its part in gone\.h5 is missing"),
        ]
    ):
        joined(tmp_path / f"{number}.h5", {name: key}, rows=3)
        with h5py.File(tmp_path / f"{number}.h5") as file:
            assert file["x"][2].tolist() == [0, 0], "what HDF5 gives"
            with pytest.raises(OSError, match=problem):
                whole(file["x"])


def test_an_external_file_that_ends_early_is_not_read_as_zeros(tmp_path):
    parts = [(str(tmp_path / "a.raw"), 8, 16), (str(tmp_path / "b.raw"), 0, h5py.h5f.UNLIMITED)]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (3, 4), "f4", external=parts)[:] = 1
    with h5py.File(tmp_path / "x.h5") as file:
        assert whole(file["x"]).tolist() == [[1] * 4] * 3
        for name, size in (("b.raw", 28), ("a.raw", 20)):
            (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:size])
            assert not file["x"][:].all(), "what HDF5 gives"
            with pytest.raises(OSError, match=rf"its external file .*{name} ends early; copy"):
                whole(file["x"])


def test_samples_of_hdf5_without_values_fail(tmp_path):
    part(tmp_path / "a.h5", 1, "0")
    layout = h5py.VirtualLayout((3, 2), np.float32)
    layout[:] = h5py.VirtualSource("gone.h5", "0", (3, 2))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.create_virtual_dataset("1", layout)
        file.create_dataset("2", (3, 2), "f4")
    encoder = ArrayFile(file=tmp_path / "a.h5", channels=2, kind="token")
    encoder.load("cpu")
    (found,) = encoder.encode([{"key": "0"}])["array"]
    assert found.tolist() == [[1, 1]] * 3
    for key, problem in {"1": r"its part in gone\.h5 is missing", "2": "nothing of it was"}.items():
        with pytest.raises(BadSample, match=f"no sound array in .*a.h5: {problem}"):
            encoder.encode([{"key": key}])

    folder = tmp_path / "latents"
    folder.mkdir()
    with h5py.File(folder / "vae.h5", "w") as file:
        file.create_dataset("0/img-mean-std-00.npy", (8, 2, 2), "f4")
    source = Cached(folder)
    source.listing()
    with pytest.raises(BadSample, match=r"has a damaged .*00\.npy: nothing of it was ever written"):
        source.read("0/img00", 0)
