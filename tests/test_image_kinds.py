"""Images of every kind that people have: endings, tars, zips, tables, and what is passed over."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from reed import config
from reed.build.shard import BadSample
from reed.build.source import listed
from reed.errors import ReedError
from reed.sources.image.crop import decode, square
from reed.sources.image.images import Images

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402


def picture(seed: int = 0, form: str = "PNG", **options) -> bytes:
    """A small smooth picture as a file."""
    array = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(array).resize((20, 24), Pillow.Resampling.BICUBIC).save(file, form, **options)
    return file.getvalue()


def source(data: Path, **options) -> Images:
    return config.build(Images, {"data": str(data), "resolution": 16} | options)


def tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tarred(path: Path, members: dict[str, bytes | tuple[bytes, str]]) -> Path:
    """A tar; a member of (type, target) is a link."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                member.type, member.linkname = content
                file.addfile(member)
                continue
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def labels(ours: Images) -> dict[str, int]:
    return {key: ours.read(key)["label"] for key in ours.listing()}


# ---- endings and content


def test_an_ending_of_any_kind_or_none_and_the_content_decides(tmp_path):
    forms = {
        "a.JPG": "JPEG",
        "b.jfif": "JPEG",
        "c.jpe": "JPEG",
        "d.avif": "AVIF",
        "e.jp2": "JPEG2000",
        "f.pnm": "PPM",
        "g": "PNG",
        "h.jpg_large": "JPEG",
        "i.TIFF": "TIFF",
        "j.dat": "WEBP",
        "k.x": "GIF",
        "l.y": "BMP",
        "m.z": "TIFF",
        "n.dib": "DIB",
    }
    files = {name: picture(seed, form) for seed, (name, form) in enumerate(forms.items())}
    others = {"notes": b"words", "x.txt": b"P2 a plan", "y.heic": b"\0\0\0\x18ftypheic" + bytes(9)}
    ours = source(tree(tmp_path, {f"c/{n}": b for n, b in (files | others).items()}))
    found = listed(ours)
    assert list(found) == sorted(f"c/{name}" for name in files)
    for name, content in files.items():
        np.testing.assert_array_equal(ours.read(f"c/{name}")["image"], square(content, 16))
    assert found.passed == {
        "no ending": ("c/notes",),
        "ending .txt": ("c/x.txt",),
        "ending .heic": ("c/y.heic",),
    }
    assert found.line == (
        "passed over 3 files: 1 .heic (c/y.heic), 1 .txt (c/x.txt), 1 without ending (c/notes)"
    )


def test_every_file_is_a_sample_or_counted(tmp_path):
    files = {
        "cat/1.png": picture(),
        "cat/1_mask.png": picture(1),
        "cat/.DS_Store": b"",
        ".git/config": b"",
        "cat/far_mask.png": picture(2),
        "classes.csv": b"cat/1.png,4\ncat/far_mask.png,5\n",
    }
    root = tree(tmp_path / "t", files)
    found = listed(source(root))
    assert set(found) == {"cat/1.png", "cat/far_mask.png"}  # no image is called "far"
    assert found.passed == {
        "beside another image": ("cat/1_mask.png",),
        "hidden": (".git", "cat/.DS_Store"),
        "ending .csv": ("classes.csv",),
    }
    with_table = listed(source(root, labels=str(root / "classes.csv")))
    assert "ending .csv" not in with_table.passed and not with_table.classes


@pytest.mark.skipif(os.name != "posix", reason="names are bytes there")
def test_a_name_that_is_no_text_is_passed_over_and_counted(tmp_path):
    root = tree(tmp_path, {"cat/1.png": picture()})
    with open(os.fsencode(root) + b"/cat/caf\xe9.png", "wb") as file:
        file.write(picture(1))
    (root / "cat" / "a\tb.png").write_bytes(picture(2))
    found = listed(source(root))
    assert list(found) == ["cat/1.png"]
    assert sorted(found.passed["name is no text"]) == ["cat/a\tb.png", "cat/caf\udce9.png"]
    assert "2 name is no text (" in found.line and r"cat/caf\udce9.png" in found.line


def test_folders_of_parts_are_no_classes(tmp_path):
    root = tree(tmp_path, {"images/1.jpg": picture(), "masks/1.png": picture(1)})
    with pytest.raises(ReedError, match="holds images and masks, not classes: name one of them"):
        source(root).listing()


# ---- decoding


def test_a_png_is_read_whatever_its_comments_weigh():
    plain = picture()
    text = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(80 << 20))
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    heavy = plain[:33] + chunk + plain[33:]  # behind the header
    with pytest.raises(ValueError, match="MAX_TEXT"), Pillow.open(io.BytesIO(heavy)) as image:
        image.load()
    np.testing.assert_array_equal(np.array(decode(heavy)), np.array(decode(plain)))


@pytest.mark.parametrize("form", ["TIFF", "PNG"])
def test_a_truncated_file_is_called_what_it_is(form):
    with pytest.raises(BadSample, match=f"begins as {form}, truncated \\(40 bytes\\) or damaged"):
        decode(picture(0, form)[:40])


# ---- tars


def test_tars_joined_by_cat_are_read_whole(tmp_path):
    parts = [
        tarred(tmp_path / f"{i}.part", {f"{i}.png": picture(i), f"{i}.cls": b"%d" % i})
        for i in range(3)
    ]
    joined = tmp_path / "x-000.tar"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert labels(source(joined)) == {f"x-000/{i}.png": i for i in range(3)}
    joined.write_bytes(joined.read_bytes() + b"x" * 512)
    with pytest.raises(ReedError, match="breaks off after"):
        source(joined).listing()


def test_links_in_a_tar_lead_to_their_members(tmp_path):
    members = {
        "a/1.png": picture(),
        "a/1.cls": b"3",
        "a/2.png": (tarfile.LNKTYPE, "a/1.png"),
        "a/2.cls": (tarfile.SYMTYPE, "./1.cls"),
        "b/3.png": (tarfile.SYMTYPE, "../a/2.png"),
        "b/3.cls": b"5",
        "b/4.png": (tarfile.SYMTYPE, "gone.png"),
        "b/5.png": (tarfile.SYMTYPE, "6.png"),
        "b/6.png": (tarfile.SYMTYPE, "5.png"),
    }
    ours = source(tarred(tmp_path / "x.tar", members))
    assert labels(ours) == {"x/a/1.png": 3, "x/a/2.png": 3, "x/b/3.png": 5}
    np.testing.assert_array_equal(ours.read("x/b/3.png")["image"], square(picture(), 16))
    gone = ("x/b/4.png", "x/b/5.png", "x/b/6.png")
    assert listed(ours).passed == {"link to nothing": gone}


def test_a_byte_order_mark_is_no_part_of_a_class_or_caption(tmp_path):
    """With it, the numbers of all classes became names."""
    mark = "\ufeff".encode()
    members = {"1.png": picture(1), "1.cls": mark + b"3", "1.txt": mark + b"a cat"}
    ours = source(tarred(tmp_path / "x.tar", members | {"2.png": picture(2), "2.cls": b"4"}))
    assert labels(ours) == {"x/1.png": 3, "x/2.png": 4} and not listed(ours).classes
    assert ours.read("x/1.png")["caption"] == "a cat"


def test_tars_and_parquet_files_that_hold_nothing_are_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    tarred(tmp_path / "tars" / "x-0.tar", {"cat/1.png": picture(1)})
    tarred(tmp_path / "tars" / "x-1.tar", {})
    assert listed(source(tmp_path / "tars")).passed == {"holds nothing": ("x-1.tar",)}
    (tmp_path / "rows").mkdir()
    table = pyarrow.table({"image": [picture(1)], "label": [1]})
    parquet.write_table(table, tmp_path / "rows" / "a.parquet")
    parquet.write_table(table[:0], tmp_path / "rows" / "b.parquet")
    listing = listed(source(tmp_path / "rows"))
    assert list(listing) == ["a/000000"] and listing.passed == {"holds nothing": ("b.parquet",)}


def zipped(path: Path, members: dict[str, bytes | tuple[bytes, str]]) -> Path:
    """The same members in a zip, as Info-ZIP writes links."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            is_link = isinstance(content, tuple)
            info.external_attr = (0o120777 if is_link else 0o100644) << 16
            file.writestr(info, content[1] if is_link else content)
    return path


@pytest.mark.parametrize(("write", "top"), [(tarred, "x/"), (zipped, "")])
def test_links_to_folders_and_names_that_leave_an_archive(tmp_path, write, top):
    """Nothing is ever extracted: such members are passed over, counted and named."""
    link = tarfile.SYMTYPE
    members = {
        "cat/1.png": picture(1),
        "dog/2.png": picture(2),
        "/ant/3.png": picture(3),
        "cat/../dog/4.png": picture(4),
        "dog/5.png": (link, "../cat/1.png"),
        "bird": (link, "cat"),
        "bird.png": (link, "./cat"),
        "dog/6.png": (link, "/cat/1.png"),
        "dog/7.png": (link, "../../cat/1.png"),
        "../8.png": picture(8),
        "cat/../../9.png": picture(9),
    }
    ours = source(write(tmp_path / ("x.tar" if top else "x.zip"), members))
    listing = listed(ours)
    kept = ["ant/3.png", "cat/1.png", "dog/2.png", "dog/4.png", "dog/5.png"]
    assert list(listing) == [f"{top}{name}" for name in kept]
    assert listing.classes == ("ant", "cat", "dog")
    assert listing.passed == {
        "name outside the archive": (f"{top}../8.png", f"{top}../9.png"),
        "link to a folder": (f"{top}bird", f"{top}bird.png"),
        "link to nothing": (f"{top}dog/6.png", f"{top}dog/7.png"),
    }
    for key, number in zip(listing, (3, 1, 2, 4, 1), strict=True):
        np.testing.assert_array_equal(ours.read(key)["image"], square(picture(number), 16))
    assert "2 name outside the archive" in listing.line
    assert sorted(path.name for path in tmp_path.rglob("*")) == [ours.data.name]


def test_dots_in_names_masks_and_what_stands_beside(tmp_path):
    members = {
        "photo.v2.jpg": picture(0, "JPEG"),
        "photo.cls": b"4",
        "2.left.jpg": picture(1, "JPEG"),
        "2.right.jpg": picture(2, "JPEG"),
        "2.CLS": b"5",
        "DSC.0012.JPG": picture(3, "JPEG"),
        "DSC.0012.cls": b"6",
        "3.png": picture(4),
        "3.jpg": picture(5, "JPEG"),
        "3.seg.png": picture(6),
        "3.cls": b"7",
        "4.image.png": picture(7),
        "4.mask.png": picture(8),
        "4.cls": b"8",
        "5.cls": b"9",
        "README": b"words",
    }
    ours = source(tarred(tmp_path / "x.tar", members))
    assert labels(ours) == {
        "x/2.left.jpg": 5,
        "x/2.right.jpg": 5,
        "x/3.jpg": 7,
        "x/4.image.png": 8,
        "x/DSC.0012.JPG": 6,
        "x/photo.v2.jpg": 4,
    }
    assert listed(ours).passed == {
        "beside another image": ("x/3.png", "x/3.seg.png", "x/4.mask.png"),
        "beside no image": ("x/5.cls",),
        "no ending": ("x/README",),
    }


def test_tars_of_folders_and_tars_that_are_classes(tmp_path):
    folders = {f"train/{n}.png": picture() for n in ("cats/1", "cats/2", "dogs/1")}
    ours = source(tarred(tmp_path / "train.tar", folders))
    assert list(labels(ours).values()) == [0, 0, 1] and listed(ours).classes == ("cats", "dogs")
    (tmp_path / "each").mkdir()
    for number in (2, 1):
        tarred(tmp_path / "each" / f"n0{number}.tar", {f"n0{number}_7.JPEG": picture(0, "JPEG")})
    assert labels(source(tmp_path / "each")) == {"n01/n01_7.JPEG": 0, "n02/n02_7.JPEG": 1}
    (tmp_path / "words").mkdir()
    for name in ("cat", "ant"):
        tarred(tmp_path / "words" / f"{name}.tar", {"1.png": picture()})
    assert labels(source(tmp_path / "words")) == {"ant/1.png": 0, "cat/1.png": 1}
    (tmp_path / "shards").mkdir()
    for number in range(2):
        tarred(tmp_path / "shards" / f"x-{number:03}.tar", {f"{number}.png": picture()})
    assert source(tmp_path / "shards").entries == ("image",)  # numbered shards are no classes


def test_names_of_classes_in_a_tar(tmp_path):
    members = {f"{i}.png": picture(i) for i in range(3)}
    members |= {"0.cls": b"zebra\n", "1.json": b'{"label": "cat"}', "2.cls": b"7"}
    ours = source(tarred(tmp_path / "x.tar", members))
    assert listed(ours).classes == ("7", "cat", "zebra")
    assert labels(ours) == {"x/0.png": 2, "x/1.png": 1, "x/2.png": 0}


@pytest.mark.parametrize(
    ("label", "want"),
    [
        (3, 3),
        ("3", 3),
        (4.0, 4),
        (1.7, "the class beside it is 1.7, not an integer"),
        ("4.0", "the class beside it is '4.0', not an integer"),
        (True, "the class beside it is True, not an integer"),
        (float("nan"), "the class beside it is nan, not an integer"),
        ([2], r"the class beside it is \[2\], not an integer"),
        (None, "has no class beside it"),
        (
            2**64 - 1,
            "its class is 18446744073709551615…, the greatest possible is 9223372036854775807",
        ),
        (-1, "its class is -1: negative numbers mean that it has none"),
    ],
)
def test_a_class_is_an_integer_or_refused_by_name(label, want, tmp_path):
    members = {"0.png": picture(), "0.json": b'{"label": 1}', "1.png": picture()}
    members["1.json"] = json.dumps({"label": label}).encode()
    ours = source(tarred(tmp_path / "x.tar", members))
    ours.listing()
    if isinstance(want, int):
        assert ours.read("x/1.png")["label"] == want
        return
    with pytest.raises(BadSample, match=want):
        _ = ours.read("x/1.png")["label"]


@pytest.mark.parametrize("first", ["0.0", "1.5"])
def test_numbers_in_text_are_no_names_of_classes(first, tmp_path):
    members = {"0.png": picture(), "0.cls": first.encode(), "1.png": picture(), "1.cls": b"2"}
    ours = source(tarred(tmp_path / "x.tar", members))
    assert ours.listing().classes == ()
    with pytest.raises(BadSample, match=f"the class beside it is '{first}', not an integer"):
        _ = ours.read("x/0.png")["label"]
    assert ours.read("x/1.png")["label"] == 2


def test_half_a_surrogate_in_a_caption_fails_its_sample(tmp_path):
    members = {"0.png": picture(), "0.json": b'{"caption": "a cat"}', "1.png": picture()}
    members["1.json"] = b'{"caption": "a \\ud800 cat"}'
    ours = source(tarred(tmp_path / "x.tar", members))
    assert ours.read("x/0.png")["caption"] == "a cat"
    with pytest.raises(BadSample, match="half of a surrogate pair"):
        _ = ours.read("x/1.png")["caption"]


def test_the_entry_of_the_json_and_tars_of_one_name(tmp_path):
    members = {"0.png": picture(), "0.json": b'{"label": 1, "fine": 8}'}
    path = tarred(tmp_path / "x.tar", members)
    assert labels(source(path, label="fine")) == {"x/0.png": 8}
    with pytest.raises(
        ReedError, match="source.label is 'fine', but .* is neither tars nor parquet"
    ):
        source(tree(tmp_path / "t", {"a/1.png": picture()}), label="fine").listing()
    (tmp_path / "x.TAR").write_bytes(path.read_bytes())
    with pytest.raises(ReedError, match="two tars have one name but for the ending"):
        source(tmp_path / "x.*").listing()


def test_files_beside_archives_are_counted(tmp_path):
    tarred(tmp_path / "x.tar", {"0.png": picture(), "0.cls": b"1"})
    tree(tmp_path, {"README.md": b"", "x.idx": b"", ".cache": b""})
    assert listed(source(tmp_path)).passed == {
        "ending .md": ("README.md",),
        "ending .idx": ("x.idx",),
        "hidden": (".cache",),
    }


# ---- zips


@pytest.mark.parametrize("form", ["cats\\{}", "./cats/{}", "cats//{}"])
def test_names_in_a_zip_are_paths_however_they_are_written(form, tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as file:
        for name in ("1.png", "2", "3.txt", "._1.png"):
            file.writestr(form.format(name), b"words" if "t" in name else picture())
        file.writestr("dogs/1.png", picture())
    ours = source(tmp_path / "data.zip")
    assert labels(ours) == {"cats/1.png": 0, "cats/2": 0, "dogs/1.png": 1}
    assert listed(ours).passed == {"ending .txt": ("cats/3.txt",), "hidden": ("cats/._1.png",)}


# ---- parquet


def table(path: Path, count: int = 3, **columns) -> Path:
    path.parent.mkdir(exist_ok=True)
    images = pyarrow.array([picture(i) for i in range(count)], pyarrow.binary())
    parquet.write_table(pyarrow.table({"image": images} | columns), path)
    return path


def test_files_that_differ_in_type_are_refused_with_both(tmp_path):
    table(tmp_path / "d" / "a-0.parquet", label=[0, 1, 2])
    table(tmp_path / "d" / "a-1.parquet", label=[0.0, 1.5, 2.0])
    want = "a-1.parquet: column 'label' is double, in a-0.parquet it is int64"
    with pytest.raises(ReedError, match=want):
        source(tmp_path / "d").listing()
    table(tmp_path / "d" / "a-1.parquet", label=["a", "b", "c"])
    with pytest.raises(ReedError, match="column 'label' is string, in a-0.parquet it is int64"):
        source(tmp_path / "d").listing()
    text = pyarrow.table({"image": ["/9j/4AAQ"], "label": [1]})
    parquet.write_table(text, tmp_path / "d" / "a-1.parquet")
    with pytest.raises(ReedError, match="column 'image' is string, in a-0.parquet it is binary"):
        source(tmp_path / "d").listing()
    short = table(tmp_path / "d" / "a-1.parquet", label=pyarrow.array([4, 5, None], "int8"))
    ours = source(short.parent)  # another width of the same kind
    ours.listing()
    assert ours.read("a-1/000001")["label"] == 5


@pytest.mark.parametrize("kind", ["view", "large", "dictionary"])
def test_every_form_of_bytes_and_text_is_read(kind, tmp_path):
    types = {
        "view": (pyarrow.binary_view(), pyarrow.string_view()),
        "large": (pyarrow.large_binary(), pyarrow.large_string()),
        "dictionary": (pyarrow.binary(), pyarrow.dictionary(pyarrow.int8(), pyarrow.string())),
    }[kind]
    columns = {
        "image": pyarrow.array([picture(i) for i in range(2)], pyarrow.binary()).cast(types[0]),
        "label": pyarrow.array(["zebra", "ant"]).cast(types[1]),
        "caption": pyarrow.array(["one", "two"]).cast(types[1]),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    ours = source(tmp_path / "a.parquet")
    assert listed(ours).classes == ("ant", "zebra")
    first = dict(ours.read("a/000000"))
    assert (first["label"], first["caption"]) == (1, "one")
    np.testing.assert_array_equal(first["image"], square(picture(0), 16))


def test_labels_of_other_names_and_types(tmp_path):
    both = {"fine_label": [5, 6, 7], "coarse_label": [0, 0, 1]}
    path = table(tmp_path / "a.parquet", **both)
    with pytest.raises(ReedError, match="may be in fine_label, coarse_label; say which, such as"):
        source(path).listing()
    assert list(labels(source(path, label="coarse_label")).values()) == [0, 0, 1]
    with pytest.raises(ReedError, match="no column of classes 'fine'. Available: coarse"):
        source(path, label="fine").listing()
    path = table(tmp_path / "b.parquet", label=[9, 9, 9], **both)  # the exact name is first
    assert list(labels(source(path)).values()) == [9, 9, 9]
    path = table(tmp_path / "c.parquet", label=["10", "9", "11"])  # integers, as text
    assert list(labels(source(path)).values()) == [10, 9, 11] and not listed(source(path)).classes
    path = table(tmp_path / "d.parquet", label=[1.0, 2.5, None])
    ours = source(path)
    assert ours.listing() and ours.read("d/000000")["label"] == 1
    for row, reason in ((1, "the class beside it is 2.5"), (2, "has no class")):
        with pytest.raises(BadSample, match=reason):
            _ = ours.read(f"d/{row:06}")["label"]
    path = table(tmp_path / "e.parquet", label=[True, False, True])
    assert list(labels(source(path)).values()) == [1, 0, 1]


@pytest.mark.parametrize("form", ["text", "struct"])
def test_a_column_of_json_has_class_and_caption(form, tmp_path):
    cells = [{"label": label, "caption": f"a {label}"} for label in ("dog", "cat", "dog")]
    values = [json.dumps(cell) for cell in cells] if form == "text" else cells
    ours = source(table(tmp_path / "a.parquet", json=pyarrow.array(values)))
    assert listed(ours).classes == ("cat", "dog")
    assert list(labels(ours).values()) == [1, 0, 1] and ours.read("a/000001")["caption"] == "a cat"


def test_names_that_hugging_face_noted_are_those_of_the_numbers(tmp_path):
    features = {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    columns = {"image": [picture(), picture()], "label": [0, 1]}
    made = pyarrow.table(columns).replace_schema_metadata(about)
    parquet.write_table(made, tmp_path / "a.parquet")
    ours = source(tmp_path / "a.parquet")
    assert listed(ours).classes == ("zebra", "ant")
    assert list(labels(ours).values()) == [0, 1]


# ---- classes that are known already


def test_known_classes_keep_their_numbers_and_new_ones_follow(tmp_path):
    root = tree(tmp_path, {f"{n}/1.png": picture() for n in ("ant", "cat", "dog", "zebra")})
    ours = source(root, classes=["cat", "zebra"])
    assert listed(ours).classes == ("cat", "zebra", "ant", "dog")
    assert ours.read("zebra/1.png")["label"] == 1
    with pytest.raises(BadSample, match="its class 'ant' is not among the 2 known classes"):
        _ = ours.read("ant/1.png")["label"]
