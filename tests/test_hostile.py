"""Shards, markers and descriptions that somebody made up: an error, or a correct read, no more."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reed.bytes import file_sha256
from reed.cache import plan, reader, schema, sealed, verify
from reed.cache.codecs.codecs import Part
from reed.cache.containers import offsets
from reed.cache.containers import tar as shards
from reed.cache.reader import CONTAINERS
from reed.errors import ReedError

PARTS = [Part("x", "<f4", (2, 3)), Part("rows", "<i4", (None, 2)), Part("text", "utf8", ())]
MEMBERS = ["k0", "k1", "k2~1"]


def values(row: int) -> list:
    """The parts of one record."""
    rng = np.random.default_rng(row)
    x, rows = rng.standard_normal((2, 3)), rng.integers(0, 9, (row, 2))
    return [x.astype("<f4"), rows.astype("<i4"), b"text %d" % row]


def records():
    return [(member, values(row)) for row, member in enumerate(MEMBERS)]


@pytest.fixture(scope="module", params=sorted(CONTAINERS))
def sound(request, tmp_path_factory):
    """A container, the bytes of a sound shard of it, and its index."""
    path = tmp_path_factory.mktemp("sound") / "a"
    index = CONTAINERS[request.param].write(path, PARTS, records())
    return CONTAINERS[request.param], path.read_bytes(), index


@pytest.fixture
def folder(tmp_path):
    """A folder of its own in one that is checked to hold nothing else afterwards."""
    inside = tmp_path / "inside"
    inside.mkdir()
    yield inside
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def refused(module, path, *words, parts=PARTS):
    with pytest.raises(ReedError) as error:
        module.scan(path, parts)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


# ---- tar


def tar_of(path, *members: tarfile.TarInfo | tuple[str, bytes], form=tarfile.USTAR_FORMAT):
    """A tar by Python's own writer; a name and bytes make a member as reed writes it."""
    with tarfile.open(path, "w", format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    with open(path, "r+b") as file:  # Python fills the last record of 10 KiB, reed does not
        data = file.read()
        file.truncate(-(-len(data.rstrip(b"\0")) // 512) * 512 + 1024)


def npy(array, **kwargs) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **kwargs)
    return file.getvalue()


def good(array) -> bytes:
    return shards.npy_header(array.dtype.str, array.shape) + array.tobytes()


X = Part("x", "<f4", (2, 3))
ONE = np.ones((2, 3), np.float32)


def info(name, kind=tarfile.REGTYPE, target="", size=0):
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, target, size
    return found


HOSTILE = {
    "an absolute name": [("/etc/x.npy", good(ONE))],
    "a name that climbs": [("../../up.x.npy", good(ONE))],
    "a link": [info("k.x.npy", tarfile.SYMTYPE, "/etc/passwd")],
    "a hard link": [("k.x.npy", good(ONE)), info("l.x.npy", tarfile.LNKTYPE, "k.x.npy")],
    "a device": [info("k.x.npy", tarfile.CHRTYPE)],
    "a fifo": [info("k.x.npy", tarfile.FIFOTYPE)],
    "a folder": [info("k.x.npy", tarfile.DIRTYPE)],
    "pickled objects": [("k.x.npy", npy(np.array([{}], object), allow_pickle=True))],
    "the same sample twice": [("k.x.npy", good(ONE)), ("k.x.npy", good(ONE))],
    "another shape": [("k.x.npy", good(ONE.T.copy()))],
    "another dtype": [("k.x.npy", good(ONE.astype(np.float64)))],
    "Fortran order": [("k.x.npy", npy(np.asfortranarray(ONE)))],
    "a short header": [("k.x.npy", npy(ONE))],
    "a short payload": [("k.x.npy", good(ONE)[:-4])],
    "a long payload": [("k.x.npy", good(ONE) + b"1234")],
    "another part": [("k.y.npy", good(ONE))],
    "no key": [(".x.npy", good(ONE))],
    "an unknown mode": [info("k.x.npy", size=512)],
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_hostile_member_is_refused(folder, name, form):
    path = folder / "a.tar"
    tar_of(path, *HOSTILE[name], form=form)
    refused(shards, path, "member", "at byte", parts=[X])
    assert os.listdir(folder) == ["a.tar"]


def test_a_tar_of_python_is_read_where_it_is_what_reed_writes(folder):
    tar_of(folder / "a.tar", ("k.x.npy", good(ONE)), ("l~1.x.npy", good(ONE)))
    members, index = shards.scan(folder / "a.tar", [X])
    assert members == ["k", "l~1"] and index["x"]["offsets"] == {"first": 1024, "stride": 1536}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_headers_of_gnu_and_pax_are_refused(folder, form):
    tar_of(folder / "a.tar", ("k" * 120 + ".x.npy", good(ONE)), form=form)
    refused(shards, folder / "a.tar", "at byte 0", parts=[X])


@pytest.mark.parametrize("size", [2**60, 2**33 - 1, 10**9])
def test_sizes_beyond_the_file_are_refused_before_memory_is_taken(folder, size):
    path = folder / "a.tar"
    shards.write(path, [X], [("k", [ONE])])
    data = bytearray(path.read_bytes())
    if size < 2**33:
        data[:512] = shards.tar_header("k.x.npy", size)
        data[512:1024] = shards.npy_header("<f4", (size // 12, 3))
    else:  # as GNU writes what does not fit into octal digits
        data[124:136] = b"\x80" + size.to_bytes(11, "big")
    path.write_bytes(data)
    parts = [Part("x", "<f4", (None, 3))]
    refused(shards, path, "'k.x.npy' at byte", parts=parts)


def test_garbage_after_the_end_or_in_the_padding_is_refused(folder):
    path = folder / "a.tar"
    shards.write(path, PARTS, records())
    data = path.read_bytes()
    for damaged in (data + b"x", data + bytes(512), data[:-1], data[:-1] + b"x", b"", data[:512]):
        path.write_bytes(damaged)
        refused(shards, path, "at byte")
    path.write_bytes(data[:1048] + b"x" + data[1049:])
    refused(shards, path, "the padding is not zero")


# ---- h5 and zarr


def edited_h5(path, change):
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        change(file)


def _relink(link):
    def change(file):
        del file["x"]
        file["x"] = link

    return change


def _remade(**kwargs):
    def change(file):
        content = file["x"][:]
        del file["x"]
        file.create_dataset("x", **({"data": content, "chunks": (1, 2, 3)} | kwargs))

    return change


def _virtual(file):
    layout = h5py.VirtualLayout((3, 2, 3), "<f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3, 2, 3), "<f4")
    del file["x"]
    file.create_virtual_dataset("x", layout)


def _object(file):
    del file["x"]
    file.create_dataset("x", (3,), h5py.string_dtype())


def _group(file):
    del file["x"]
    file.create_group("x")


def _offsets(file):
    file["rows~offsets"][1] = 2**60


H5 = {
    "external link": _relink(h5py.ExternalLink("/etc/passwd", "/x")),
    "soft link": _relink(h5py.SoftLink("/text")),
    "a filter": _remade(compression="gzip"),
    "no chunks": _remade(chunks=None),
    "other chunks": _remade(chunks=(3, 2, 3)),
    "another shape": _remade(data=np.zeros((3, 3, 2), "<f4"), chunks=(1, 3, 2)),
    "another dtype": _remade(data=np.zeros((3, 2, 3), "<f8")),
    "another byte order": _remade(data=np.zeros((3, 2, 3), ">f4")),
    "one record more": _remade(data=np.zeros((4, 2, 3), "<f4")),
    "virtual": _virtual,
    "objects": _object,
    "a group": _group,
    "one more": lambda file: file.create_group("more"),
    "one less": lambda file: file.__delitem__("text"),
    "an attribute": lambda file: file["x"].attrs.create("a", 1),
    "offsets that fall": _offsets,
    "a member twice": lambda file: file["~members"].write_direct(np.frombuffer(b"k0k0k2~1", "u1")),
    "a member that climbs": lambda file: file["~members"].write_direct(
        np.frombuffer(b"../k1k21", "u1")
    ),
}


@pytest.mark.parametrize("name", H5)
def test_a_hostile_h5_is_refused(folder, name):
    path = folder / "a.h5"
    CONTAINERS["h5"].write(path, PARTS, records())
    edited_h5(path, H5[name])
    refused(CONTAINERS["h5"], path)


def test_an_external_file_of_h5_is_refused(folder):
    path, other = folder / "a.h5", folder / "other.bin"
    CONTAINERS["h5"].write(path, PARTS, records())
    other.write_bytes(bytes(72))
    edited_h5(path, lambda file: file.__delitem__("rows"))
    edited_h5(
        path,
        lambda file: file.create_dataset("rows", (3, 2), "<i4", external=[(str(other), 0, 72)]),
    )
    refused(CONTAINERS["h5"], path, "stored in another file")


def rezipped(path, changes: dict[str, bytes | None], compress=zipfile.ZIP_STORED):
    """Write the zip again with other contents of some members, or without them."""
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()} | changes
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, content in found.items():
            if content is not None:
                made = CONTAINERS["zarr"]._info(name)
                made.compress_type = compress
                archive.writestr(made, content)


def _other(name, **changes):
    def change(found: bytes) -> bytes:
        return json.dumps(json.loads(found) | changes, indent=1).encode()

    return name, change


ZARR = {
    "objects": _other("x/zarr.json", data_type="object"),
    "another shape": _other("x/zarr.json", shape=[3, 3, 2]),
    "a great shape": _other("x/zarr.json", shape=[2**60, 2, 3]),
    "a negative shape": _other("x/zarr.json", shape=[-1, 2, 3]),
    "no shape": _other("x/zarr.json", shape=[]),
    "codecs": _other("x/zarr.json", codecs=[{"name": "gzip"}]),
    "attributes": _other("zarr.json", attributes={"a": 1}),
    "no json": ("x/zarr.json", lambda found: b"{"),
    "long json": ("x/zarr.json", lambda found: found + b" " * 5000),
    "short data": ("x/c/0/0/0", lambda found: found[:-1]),
    "another inner index": ("x/c/0/0/0", lambda found: found[:-1] + b"\1"),
    "missing data": ("x/c/0/0/0", lambda found: None),
    "offsets that fall": ("rows~offsets/c/0", lambda found: found[:8] + b"\xff" * 8 + found[16:]),
    "a member twice": ("~members/c/0", lambda found: b"k0k0k2~1"),
}


@pytest.mark.parametrize("name", ZARR)
def test_a_hostile_zarr_is_refused(folder, name):
    path, (member, change) = folder / "a.zarr", ZARR[name]
    CONTAINERS["zarr"].write(path, PARTS, records())
    with zipfile.ZipFile(path) as archive:
        content = archive.read(member)
    rezipped(path, {member: change(content)})
    refused(CONTAINERS["zarr"], path)


def test_other_members_and_compression_of_a_zip_are_refused(folder):
    path = folder / "a.zarr"
    for changes, compress in [
        ({"../up": b"x"}, zipfile.ZIP_STORED),
        ({}, zipfile.ZIP_DEFLATED),
    ]:
        CONTAINERS["zarr"].write(path, PARTS, records())
        rezipped(path, changes, compress)
        refused(CONTAINERS["zarr"], path)
    CONTAINERS["zarr"].write(path, PARTS, records())
    rezipped(path, {})
    CONTAINERS["zarr"].scan(path, PARTS)


# ---- made-up bytes


def correct_or_refused(module, path) -> None:
    """Scan a shard; if that goes well, every record must lie in the file and be read."""
    try:
        members, index = module.scan(path, PARTS)
        size = path.stat().st_size
        offsets.check(index, PARTS, len(members), size)
    except ReedError as error:
        assert "\n" not in str(error)
        return
    shard = module.Shard(path, index)
    marker = schema.Marker("c", 0, tuple(members), {}, size, "", index, {})
    for row in range(len(members)):
        arrays = reader.stored(shard.read, marker, PARTS, row)
        assert sum(array.nbytes for array in arrays.values()) <= size
    shard.close()


FUZZ = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
SOME, MANY = settings(FUZZ, max_examples=60), settings(FUZZ, max_examples=1500)
# Where to write what: mostly into headers, which are the beginnings of blocks.
PLACE = st.one_of(
    st.integers(0, 30).flatmap(lambda b: st.integers(0, 300).map(lambda at: 512 * b + at)),
    st.integers(0, 20_000),
)
BYTES = st.one_of(
    st.binary(min_size=1, max_size=16),
    st.sampled_from(
        [
            b"77777777777\0",
            b"\x80" + b"\xff" * 11,
            b"L",
            b"x",
            b"2",
            b"(9999999999,",
            b"|O'",
            b"\x93NUMPY\x03\x00",
            b"../",
            b"\0" * 16,
            b"00000001000\0",
        ]
    ),
)


def edit(data: bytes, changes, cut: int | None) -> bytes:
    damaged = bytearray(data)
    for place, piece in changes:
        place %= max(1, len(damaged))
        damaged[place : place + len(piece)] = piece
    return bytes(damaged[:cut]) if cut is not None else bytes(damaged)


CHANGES = given(
    changes=st.lists(st.tuples(PLACE, BYTES), min_size=1, max_size=4),
    cut=st.none() | st.integers(0, 20_000),
)


def fuzz_shard(sound, folder, changes, cut):
    module, data, _ = sound
    path = folder / "a"
    path.write_bytes(edit(data, changes, cut))
    correct_or_refused(module, path)
    assert os.listdir(folder) == ["a"]


@CHANGES
@SOME
def test_an_edited_shard_is_refused_or_read(sound, folder, changes, cut):
    fuzz_shard(sound, folder, changes, cut)


@pytest.mark.slow
@CHANGES
@MANY
def test_an_edited_shard_is_refused_or_read_many_times(sound, folder, changes, cut):
    fuzz_shard(sound, folder, changes, cut)


@given(
    size=st.integers(0, 2**33 - 1) | st.sampled_from([0, 512, 536, 1024]),
    dtype=st.sampled_from(["<f4", "<f8", "|O", "<M8[s]", "<U9", "V8"]),
    shape=st.lists(st.integers(0, 9) | st.just(2**40), max_size=4).map(tuple),
    name=st.sampled_from(["k0.x.npy", "k0.x.txt", "../k.x.npy", "k0.X.npy", "k0.x.npy/", ""]),
)
@example(536, "<f4", (2, 3), "k0.x.npy")
@settings(FUZZ, max_examples=100)
def test_made_up_headers_are_refused_or_read(folder, size, dtype, shape, name):
    path = folder / "a"
    head = shards.tar_header(name, size) + shards.npy_header(dtype, shape)
    path.write_bytes(head + ONE.tobytes() + bytes(488) + bytes(1024))
    try:
        members, index = shards.scan(path, [X])
    except ReedError:
        assert (size, dtype, shape, name) != (536, "<f4", (2, 3), "k0.x.npy")
    else:
        assert (size, dtype, shape, name) == (536, "<f4", (2, 3), "k0.x.npy")
        assert members == ["k0"] and index == {"x": {"offsets": {"first": 1024, "stride": 0}}}


# ---- made-up JSON, with a sound hash of its own


LEAF = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**70),
    st.integers(0, 9),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["../..", "/etc", "tar", "utf8", "int8", "token", 2**53, 10**400, -1, 1e300]),
)
JSON = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def paths_in(value, path=()):
    """The path of every value inside a JSON value."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_in(inner, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    if isinstance(value, dict):
        return value | {path[0]: replaced(value[path[0]], path[1:], new)}
    return [replaced(v, path[1:], new) if i == path[0] else v for i, v in enumerate(value)]


def everything(cache) -> None:
    """Verify all of a cache deeply and read all its records: only problems and ReedError."""
    try:
        frozen = plan.load(cache)
        for name in verify.names(cache):
            for problem in verify.verify(cache, frozen, name, deep=True):
                assert problem is None or isinstance(problem.what, str)
            column = schema.load_column(cache, name)
            state = reader.load_state(cache, column)
            for shard in range(frozen.shards):
                list(reader.records(cache, column, shard, column.fields, state))
    except ReedError as error:
        assert "\n" not in str(error)


def fuzz_json(small, name, data):
    path = small / name
    content = path.read_bytes()
    table = sealed.read(path)
    try:
        for _ in range(data.draw(st.integers(1, 2))):
            where = data.draw(st.sampled_from(sorted(paths_in(table), key=repr)))
            table = replaced(table, where, data.draw(JSON))
        try:
            path.write_bytes(sealed.dump(table))
        except UnicodeEncodeError:
            return
        everything(small)
    finally:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def small(fakes, tmp_path_factory):
    """A cache of two columns and two shards."""
    return fakes.build(
        tmp_path_factory.mktemp("small") / "cache",
        ["tokens", "caption"],
        fakes.Source(6),
        shard_size=4,
    )


FILES = ["tokens/000000.json", "caption/000001.json", "tokens/column.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@SOME
def test_a_made_up_json_file_is_refused_or_read(small, fakes, name, data):
    fuzz_json(small, name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@MANY
def test_a_made_up_json_file_is_refused_or_read_many_times(small, fakes, name, data):
    fuzz_json(small, name, data)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[" * 100_000,
        b"9" * 5000,
        b'{"a": ' * 9000,
        b"\xff\xfe\0",
        b'{"self": 1}',
        b"NaN",
        b'{\n "self": "' + b"0" * 64 + b'"\n}',
        b'{"a": "\\ud800"}',
        b"null",
    ],
)
def test_what_is_no_json_of_ours_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ReedError, match="a.json"):
        sealed.read(tmp_path / "a.json")


def test_half_a_character_is_no_text(tmp_path):
    (tmp_path / "a.json").write_bytes(sealed.dump({"a": "\ud800", "b": "\U0001f600"}))
    with pytest.raises(ReedError, match="surrogates"):
        sealed.read(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(sealed.dump({"b": "\U0001f600"}))
    assert sealed.read(tmp_path / "a.json") == {"b": "\U0001f600"}


def test_a_made_up_calibration_takes_no_memory(small, edit_json):
    path, described = small / "tokens" / "calibration.npz", small / "tokens" / "column.json"
    kept = path.read_bytes(), described.read_bytes()
    header = b"\x93NUMPY\x01\x00" + shards.npy_header("<f4", (2**50,))[8:]
    for content in (header, npy(np.array([{}], object), allow_pickle=True), b"", b"\x93NUMPY"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("tokens/rms.npy", content)
        edit_json(described, calibration=file_sha256(path))
        with pytest.raises(ReedError, match=r"cannot read .*calibration.npz"):
            reader.load_state(small, schema.load_column(small, "tokens"))
    path.write_bytes(kept[0])
    described.write_bytes(kept[1])


@pytest.mark.parametrize(
    "entry",
    [
        {},
        [],
        3,
        None,
        {"offsets": 3},
        {"offsets": [0, 0]},
        {"offsets": [0, 0, True]},
        {"offsets": [0, 0, 1.0]},
        {"offsets": [0, 0, -1]},
        {"offsets": [0, 0, 977]},
        {"offsets": {"first": 0}},
        {"offsets": {"first": 900, "stride": 50}},
        {"offsets": {"first": 0, "stride": 2**70}},
        {"offsets": {"first": 0, "stride": -1}},
        {"offsets": [0, 0, 0], "lengths": [1, 1, 1]},
        {"offsets": {"first": "0", "stride": 0}},
    ],
)
def test_an_index_that_leaves_the_file_is_refused(entry):
    marker = schema.Marker("c", 7, ("a", "b", "c"), {}, 1000, "", {"x": entry}, {})
    with pytest.raises(ReedError, match="the marker of column 'c' shard 7: the index of part 'x'"):
        reader.check_index(marker, [X])


@pytest.mark.parametrize("lengths", [[0, 0], [0, 0, -1], [0, 0, 200], [0, 0, 2**62], [0, 0, None]])
def test_lengths_that_leave_the_file_are_refused(lengths):
    entry = {"offsets": [0, 0, 0], "lengths": lengths}
    with pytest.raises(ReedError, match="the index of part 'rows'"):
        offsets.check({"rows": entry}, [PARTS[1]], 3, 1000)


@pytest.mark.parametrize("size", [-1, 2**60, 10**400])
def test_a_file_of_an_impossible_size_is_refused(size):
    with pytest.raises(ReedError, match="cannot be"):
        offsets.check({"x": {"offsets": []}}, [X], 0, size)


@pytest.mark.parametrize("scale", [[10**400], ["1"], [None], [True], 1])
def test_a_scale_that_is_no_float_is_refused(small, edit_json, scale):
    described = small / "tokens" / "column.json"
    kept = described.read_bytes()
    fields = json.loads(kept)["fields"]
    edit_json(described, fields=[fields[0] | {"scale": scale}, *fields[1:]])
    with pytest.raises(ReedError, match=r"fields\[0\].scale.* must be"):
        schema.load_column(small, "tokens")
    described.write_bytes(kept)


def test_a_container_that_is_a_path_is_refused(small, edit_json):
    described = small / "tokens" / "column.json"
    kept = described.read_bytes()
    edit_json(described, container="/../../../etc/passwd")
    with pytest.raises(ReedError, match="unknown container"):
        schema.load_column(small, "tokens")
    described.write_bytes(kept)


@pytest.mark.parametrize(
    "changes",
    [{"views": 0}, {"views": 2**40}, {"shard_size": 0}, {"segments": []}, {"segments": [-6, 12]}],
)
def test_a_manifest_of_impossible_numbers_is_refused(small, edit_json, changes):
    path = small / "manifest.json"
    kept = path.read_bytes()
    edit_json(path, **changes)
    with pytest.raises(ReedError, match="restore it"):
        plan.load(small)
    path.write_bytes(kept)
