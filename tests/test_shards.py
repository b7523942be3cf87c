"""Containers: any rows in any order come back; and what a tar shard is besides."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reed.cache.codecs.codecs import Part
from reed.cache.containers import offsets
from reed.cache.containers.tar import member_key
from reed.cache.reader import CONTAINERS
from reed.errors import ReedError

TAR = CONTAINERS["tar"]
FIXED = [
    Part("x", "<f4", (3, 5)),
    Part("x-scale", "<f2", (3,)),
    Part("label", "<i8", ()),
    Part("bits", "|u1", (700,)),
]
RAGGED = [Part("residues", "<f4", (None, 3)), Part("text", "utf8", ()), Part("id", "<i4", (2,))]
WIDE = Part("f" * 24 + "-scale", "<f4", (2,))  # the longest name a part can have
LENGTHS = [4, 0, 1, 170, 4, 33]

webdataset_leaves_files_open = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def value_of(part: Part, row: int):
    """A value that differs from record to record."""
    rng = np.random.default_rng(row)
    if part.dtype == "utf8":
        return ("ä" * LENGTHS[row % len(LENGTHS)] + str(row)).encode() if row % 5 else b""
    shape = [LENGTHS[row % len(LENGTHS)] if n is None else n for n in part.shape]
    return rng.integers(0, 127, shape).astype(part.dtype)


def records(parts, count, key="k{}"):
    return [(key.format(row), [value_of(part, row) for part in parts]) for row in range(count)]


def empty(part: Part, index, row: int) -> np.ndarray:
    """Room for one part of a record."""
    length = index["parts"][part.name]["lengths"][row] if part.is_ragged else 0
    if part.dtype == "utf8":
        return np.empty(length, np.uint8)
    return np.empty([length if n is None else n for n in part.shape] or [1], part.dtype)


def read(module, path, index, parts, rows):
    """The records `rows` as the container gives them, one list of values each."""
    shard = module.Shard(path, index["parts"])
    out = {part.name: [empty(part, index, row) for row in rows] for part in parts}
    shard.read(rows, out)
    shard.close()
    return [[out[part.name][j] for part in parts] for j in range(len(rows))]


def same(part: Part, got, want) -> bool:
    if part.dtype == "utf8":
        return got.tobytes() == want
    return got.dtype == want.dtype and np.array_equal(got.reshape(want.shape), want)


def assert_reads(module, path, index, parts, rows):
    for row, values in zip(rows, read(module, path, index, parts, rows), strict=True):
        for part, value in zip(parts, values, strict=True):
            assert same(part, value, value_of(part, row)), f"row {row}, part {part.name}"


@pytest.fixture(params=sorted(CONTAINERS))
def container(request):
    """Every container in turn."""
    return CONTAINERS[request.param]


@pytest.mark.parametrize(
    "parts", [FIXED, RAGGED, [*FIXED, *RAGGED]], ids=["fixed", "ragged", "both"]
)
def test_every_row_comes_back_in_any_order(container, parts, tmp_path):
    path = tmp_path / "shard"
    index = container.write(path, parts, records(parts, 30))
    for rows in (range(30), reversed(range(30)), [7], [3, 3, 29, 0, 3], []):
        assert_reads(container, path, index, parts, list(rows))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), count=st.integers(1, 40), ragged=st.booleans())
def test_any_rows_of_any_parts_come_back(container, tmp_path, data, count, ragged):
    parts, path = RAGGED if ragged else FIXED, tmp_path / "shard"
    index = container.write(path, parts, records(parts, count))
    rows = data.draw(st.lists(st.integers(0, count - 1), max_size=60))
    chosen = data.draw(st.lists(st.sampled_from(parts), min_size=1, unique=True))
    assert_reads(container, path, index, chosen, rows)


def test_equal_content_is_equal_bytes(container, tmp_path, monkeypatch):
    first = container.write(tmp_path / "a", FIXED, records(FIXED, 9))
    monkeypatch.setattr("time.time", lambda: 1e9)
    monkeypatch.setattr("os.getpid", lambda: 1)
    assert container.write(tmp_path / "b", FIXED, iter(records(FIXED, 9))) == first
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_index_states_the_size_and_hash_of_the_file(container, tmp_path):
    index = container.write(tmp_path / "a", RAGGED, records(RAGGED, 9))
    content = (tmp_path / "a").read_bytes()
    assert index["bytes"] == len(content)
    assert index["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_shard_without_records_is_written_and_read(container, tmp_path):
    index = container.write(tmp_path / "a", FIXED, [])
    assert read(container, tmp_path / "a", index, FIXED, []) == []


def test_a_missing_shard_is_named(container, tmp_path):
    with pytest.raises(ReedError, match="cannot open shard .*/nowhere"):
        container.Shard(tmp_path / "nowhere", {})


def test_a_scan_finds_what_was_written(container, tmp_path):
    path, parts = tmp_path / "a", [*FIXED, *RAGGED]
    for count in (0, 1, 30):
        index = container.write(path, parts, records(parts, count))
        found = container.scan(path, parts)
        assert found == ([f"k{row}" for row in range(count)], index["parts"])


def test_an_empty_ragged_sample_and_an_axis_of_nothing(container, tmp_path):
    parts = [Part("a", "<f4", (None, 3)), Part("t", "utf8", ()), Part("none", "<f2", (0, 4))]
    values = [np.zeros((0, 3), np.float32), b"", np.zeros((0, 4), np.float16)]
    index = container.write(tmp_path / "a", parts, [("x", values), ("y", values)])
    assert container.scan(tmp_path / "a", parts) == (["x", "y"], index["parts"])
    assert index["parts"]["a"]["lengths"] == index["parts"]["t"]["lengths"] == [0, 0]
    for row in read(container, tmp_path / "a", index, parts[:2], [1, 0]):
        assert [array.size for array in row] == [0, 0]


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<i8", "<i4", "|u1", "|i1", "<u2"])
def test_every_dtype_comes_back(container, tmp_path, dtype):
    parts = [Part("fixed", dtype, (2, 3)), Part("one", dtype, ()), Part("some", dtype, (None,))]
    index = container.write(tmp_path / "a", parts, records(parts, 7))
    assert_reads(container, tmp_path / "a", index, parts, [6, 0, 3])
    assert container.scan(tmp_path / "a", parts)[1] == index["parts"]


def test_keys_of_any_kind_are_the_members_of_any_container(container, tmp_path):
    names = [member_key(key, view) for key in KEYS for view in (0, 1)]
    assert len(set(names)) == len(names) and max(map(len, names)) == 64
    value = [np.zeros(2, np.float32)]
    index = container.write(tmp_path / "a", [WIDE], [(name, value) for name in names])
    assert container.scan(tmp_path / "a", [WIDE]) == (names, index["parts"])


def test_an_index_points_into_its_file(container, tmp_path):
    parts = [*FIXED, *RAGGED]
    index = container.write(tmp_path / "a", parts, records(parts, 9))
    offsets.check(index["parts"], parts, 9, index["bytes"])
    for count, size in ((8, index["bytes"]), (10, index["bytes"]), (9, 5000)):
        with pytest.raises(ReedError, match="the index of part"):
            offsets.check(index["parts"], parts, count, size)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_shard_is_read_after_a_fork_and_by_threads(container, tmp_path):
    path = tmp_path / "a"
    index = container.write(path, FIXED, records(FIXED, 30))
    shard = container.Shard(path, index["parts"])

    def sound(row: int) -> bool:
        out = {part.name: [empty(part, index, row)] for part in FIXED}
        shard.read([row], out)
        return all(same(part, out[part.name][0], value_of(part, row)) for part in FIXED)

    assert sound(3)
    children = []
    for child in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            os._exit(0 if all(sound(row) for row in range(child, 30)) else 1)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(sound, range(30)))
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    shard.close()


def test_h5py_reads_a_shard(tmp_path):
    h5py = pytest.importorskip("h5py")
    path, parts = tmp_path / "a.h5", [*FIXED, *RAGGED]
    CONTAINERS["h5"].write(path, parts, records(parts, 9))
    with h5py.File(path) as file:
        assert file["x"].chunks == (1, 3, 5) and file["label"].chunks is None
        assert_arrays({name: file[name][:] for name in file})


def test_the_bytes_of_an_hdf5_shard_are_those_of_every_version(tmp_path):
    """Golden: h5py 3.13.0, 3.15.1 (HDF5 1.14.6) and 3.16.0 (HDF5 2.0.0) all gave this hash."""
    parts = [Part("x", "<f4", (4, 3)), Part("y", "<f4", (None, 3)), Part("n", "<i8", ())]
    rows = [
        (f"k{i}", [np.full((4, 3), i, "<f4"), np.full((i, 3), i, "<f4"), np.array(i)])
        for i in range(5)
    ]
    written = CONTAINERS["h5"].write(tmp_path / "a.h5", parts, rows)
    assert written["sha256"] == "eeea044f92f670fb59aa9c285e4b4b4c2cd289372ba64d97e912f37ec33e75cc"


@pytest.mark.parametrize("version", ["v110", "v108"])
def test_hdf5_shards_of_earlier_versions_are_read(tmp_path, version):
    """They were written at once, in the format of HDF5 1.10."""
    h5py = pytest.importorskip("h5py")
    path, part = tmp_path / "a.h5", Part("x", "<f4", (None, 3))
    CONTAINERS["h5"].write(path, [part], records([part], 6))
    with h5py.File(path) as now, h5py.File(tmp_path / "b.h5", "w", libver=(version, "v110")) as old:
        for name in now:
            old.create_dataset(name, data=now[name][:], track_times=False)
    members, index = CONTAINERS["h5"].scan(tmp_path / "b.h5", [part])
    assert members == [f"k{row}" for row in range(6)]
    assert_reads(CONTAINERS["h5"], tmp_path / "b.h5", {"parts": index}, [part], [5, 0, 3])


def test_single_records_of_a_zarr_shard_need_no_zarr(tmp_path):
    """As cache/README.md advises: at the marker's offsets, or from the zip unpacked."""
    zarr = pytest.importorskip("zarr")
    path, part = tmp_path / "a.zarr", FIXED[0]
    offsets = CONTAINERS["zarr"].write(path, [part], records([part], 9))["parts"]["x"]["offsets"]
    start = offsets["first"] + 7 * offsets["stride"]
    read = np.fromfile(path, part.dtype, 15, offset=start).reshape(3, 5)
    np.testing.assert_array_equal(read, value_of(part, 7))
    shutil.unpack_archive(path, tmp_path / "unpacked", "zip")
    group = zarr.open_group(tmp_path / "unpacked", mode="r")
    np.testing.assert_array_equal(group["x"][7], value_of(part, 7))


def test_zarr_reads_a_shard(tmp_path):
    zarr = pytest.importorskip("zarr")
    path, parts = tmp_path / "a.zarr", [*FIXED, *RAGGED]
    CONTAINERS["zarr"].write(path, parts, records(parts, 9))
    with zarr.storage.ZipStore(path, mode="r") as store:
        group = zarr.open_group(store, mode="r", zarr_format=3)
        assert group["x"].chunks == (1, 3, 5) and group["x"].shards == (9, 3, 5)
        assert_arrays({name: array[:] for name, array in group.arrays()})


def assert_arrays(arrays):
    """The arrays of a shard of nine records, as the README describes them."""
    assert arrays["~members"].tobytes() == b"".join(b"k%d" % row for row in range(9))
    for part in FIXED:
        assert arrays[part.name].dtype.str == part.dtype
        for row in range(9):
            assert np.array_equal(arrays[part.name][row], value_of(part, row))
    for part in RAGGED[:2]:
        bounds = arrays[f"{part.name}~offsets"]
        for row in range(9):
            assert same(part, arrays[part.name][bounds[row] : bounds[row + 1]], value_of(part, row))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_shard_is_an_end_of_file_and_no_scan(container, tmp_path, keep):
    path = tmp_path / "a"
    index = container.write(path, FIXED, records(FIXED, 30))
    os.truncate(path, int(index["bytes"] * keep))
    with pytest.raises(EOFError, match="the file ends at byte"):
        read(container, path, index, FIXED, range(30))
    with pytest.raises(ReedError, match=str(path)):
        container.scan(path, FIXED)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_tar_is_an_end_of_file_with_its_offset(tmp_path, keep):
    path = tmp_path / "a"
    index = TAR.write(path, FIXED, records(FIXED, 30))
    size = int(index["bytes"] * keep)
    os.truncate(path, size)
    with pytest.raises(EOFError, match=f"ends at byte .*{size if keep else 0}"):
        read(TAR, path, index, FIXED, range(30))
    if keep == 0.9:
        assert_reads(TAR, path, index, FIXED, [0, 5])


def test_a_read_of_more_pieces_than_one_system_call_takes(tmp_path):
    parts, path = [Part("a", "|u1", ()), Part("b", "|u1", ())], tmp_path / "a"
    index = TAR.write(path, parts, records(parts, 3000))
    assert_reads(TAR, path, index, parts, list(range(3000)))


def test_a_read_cut_short_by_the_system_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "a"
    index = TAR.write(path, FIXED, records(FIXED, 6))
    whole = os.preadv

    def few_bytes(file, buffers, offset):
        first = next(buffer for buffer in buffers if len(buffer))
        return whole(file, [first[: min(7, len(first))]], offset)

    monkeypatch.setattr(os, "preadv", few_bytes)
    assert_reads(TAR, path, index, FIXED, [4, 0, 5])


def members(path) -> list[tarfile.TarInfo]:
    with tarfile.open(path) as tar:
        return tar.getmembers()


def test_tar_payloads_lie_on_512_bytes_at_a_constant_stride(tmp_path):
    path = tmp_path / "a.tar"
    index = TAR.write(path, FIXED, records(FIXED, 12))
    content = path.read_bytes()
    for part in FIXED:
        offsets = index["parts"][part.name]["offsets"]
        assert set(offsets) == {"first", "stride"}
        assert offsets["first"] % 512 == 0 and offsets["stride"] % 512 == 0
        for row in range(12):
            want = value_of(part, row).tobytes()
            start = offsets["first"] + row * offsets["stride"]
            assert content[start : start + len(want)] == want


def test_the_offsets_of_ragged_parts_are_listed_with_their_lengths(tmp_path):
    path = tmp_path / "a.tar"
    index = TAR.write(path, RAGGED, records(RAGGED, 12))
    content = path.read_bytes()
    for part in RAGGED[:2]:
        entry = index["parts"][part.name]
        for row, (offset, length) in enumerate(
            zip(entry["offsets"], entry["lengths"], strict=True)
        ):
            want = value_of(part, row)
            assert length == len(want) and offset % 512 == 0
            want = want if isinstance(want, bytes) else want.tobytes()
            assert content[offset : offset + len(want)] == want


def test_tar_members_are_adjacent_in_order_and_of_nobody(tmp_path):
    path = tmp_path / "a.tar"
    TAR.write(path, [*FIXED, *RAGGED], records([*FIXED, *RAGGED], 5))
    found = members(path)
    suffixes = ["x.npy", "x-scale.npy", "label.npy", "bits.npy", "residues.npy", "text.txt"]
    suffixes.append("id.npy")
    assert [m.name for m in found] == [f"k{row}.{end}" for row in range(5) for end in suffixes]
    owners = {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode, m.type) for m in found}
    assert owners == {(0, 0, "", "", 0, 0o644, tarfile.REGTYPE)}


def test_numpy_loads_every_member(tmp_path):
    path = tmp_path / "a.tar"
    parts = [*FIXED, RAGGED[0]]
    TAR.write(path, parts, records(parts, 6))
    with tarfile.open(path) as tar:
        for i, member in enumerate(tar):
            array = np.load(io.BytesIO(tar.extractfile(member).read()), allow_pickle=False)
            want = value_of(parts[i % len(parts)], i // len(parts))
            assert array.dtype == want.dtype and array.shape == want.shape
            assert np.array_equal(array, want)


def test_the_tar_program_reads_a_shard(tmp_path):
    path = tmp_path / "a.tar"
    TAR.write(path, FIXED, records(FIXED, 4))
    listed = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [m.name for m in members(path)]
    assert listed.stderr == ""


@webdataset_leaves_files_open
def test_stock_webdataset_reads_a_shard(tmp_path):
    path, parts = tmp_path / "a.tar", [*FIXED, RAGGED[1]]
    TAR.write(path, parts, records(parts, 7))
    found = list(webdataset.WebDataset(str(path), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in found] == [f"k{row}" for row in range(7)]
    for row, sample in enumerate(found):
        assert sample["text.txt"].encode() == value_of(RAGGED[1], row)
        for part in FIXED:
            assert np.array_equal(sample[f"{part.name}.npy"], value_of(part, row))


KEYS = [
    "a/b/c.jpeg",
    "a.b",
    "a%2Eb",
    "a",
    "größe 日本 😀",
    "~tilde",
    "..",
    "../../etc/passwd",
    "-rf",
    "x" * 500 + "1",
    "x" * 500 + "2",
    "é" * 40,
    "with space",
    "new.tar.gz/0",
    "\"quote'",
    "A",
    "\\",
]


@webdataset_leaves_files_open
def test_keys_of_any_kind_stay_distinct_and_whole_where_they_fit(tmp_path):
    path = tmp_path / "a.tar"
    TAR.write(path, [WIDE], [(member_key(key), [np.zeros(2, np.float32)]) for key in KEYS])
    names = [member.name for member in members(path)]
    stems = [name.split(".")[0] for name in names]
    assert len(set(stems)) == len(KEYS)
    assert all(len(name) <= 100 and "/" not in name and name.isascii() for name in names)
    for key, stem in zip(KEYS, stems, strict=True):
        assert unquote(stem) == key or len(stem) == 64
    found = webdataset.WebDataset(str(path), shardshuffle=False)
    assert [sample["__key__"] for sample in found] == stems


def test_a_value_of_another_dtype_is_our_own_bug(tmp_path):
    with pytest.raises(AssertionError, match="x: <f8 is not <f4"):
        TAR.write(tmp_path / "a", FIXED[:1], [("k", [np.zeros((3, 5))])])
