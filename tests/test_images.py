"""The source `images`: every layout, labels, what cannot be listed, and a cache of it."""

from __future__ import annotations

import io
import json
import pickle
import re
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from reed import config, pipelines
from reed.build import column, engines
from reed.build.engines import Share
from reed.build.shard import BadSample
from reed.cache import plan, reader, schema
from reed.encoders.image.arrays import Image as ImageEncoder
from reed.encoders.image.arrays import Labels
from reed.errors import ReedError
from reed.extras import pip_install
from reed.sources.image import images as images_module
from reed.sources.image.crop import square
from reed.sources.image.images import Images
from reed.sources.image.labels import read_labels

PHOTOS = ("cat/1.JPEG", "cat/2.png", "dog/1.JPEG", "dog/deep/er/3.webp", "emu/1.jpg", "emu/1.png")
CLASSES = {"cat": 0, "dog": 1, "emu": 2}


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth random picture, uint8 [height, width, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return np.array(Pillow.fromarray(coarse).resize((width, height), Pillow.Resampling.BICUBIC))


def encoded(image, form: str, **options) -> bytes:
    """An array or Pillow image as the bytes of a file."""
    file = io.BytesIO()
    image = Pillow.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, form, **options)
    return file.getvalue()


FORMS = {"JPEG": "JPEG", "jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


@pytest.fixture(scope="module")
def photos() -> dict[str, bytes]:
    """Key -> file, in three classes."""
    return {
        key: encoded(noise(seed, 40 + 7 * seed, 90 - 8 * seed), FORMS[key.rsplit(".")[-1]])
        for seed, key in enumerate(PHOTOS)
    }


def tree(root: Path, files: dict[str, bytes]) -> Path:
    for key, content in files.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(content)
    return root


def zipped(path: Path, files: dict[str, bytes], how=zipfile.ZIP_DEFLATED, prefix="") -> Path:
    with zipfile.ZipFile(path, "w", how) as file:
        for key, content in files.items():
            file.writestr(prefix + key, content)
    return path


def tarred(path: Path, files: dict[str, bytes], form=tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as file:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def shard(files: dict[str, bytes], start: int) -> dict[str, bytes]:
    """Members of a WebDataset tar: sample number, image, class and caption."""
    members = {}
    for row, (key, content) in enumerate(files.items(), start):
        members[f"{row:06d}.cls"] = str(CLASSES[key.split("/")[0]]).encode()
        members[f"{row:06d}.{key.rsplit('.')[-1]}"] = content
        members[f"{row:06d}.txt"] = f"a photo, {key}".encode()
    return members


def table(path: Path, files: dict[str, bytes], image="image", plain=False, rows=2) -> Path:
    """A parquet file like those of Hugging Face."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cells = list(files.values()) if plain else [{"bytes": b, "path": k} for k, b in files.items()]
    kind = pyarrow.binary()
    if not plain:
        kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = {
        image: pyarrow.array(cells, kind),
        "label": pyarrow.array([CLASSES.get(k.split("/")[0]) for k in files], pyarrow.int64()),
        "text": [f"a photo, {key}" for key in files],
    }
    parquet.write_table(pyarrow.table(columns), path, row_group_size=rows)
    return path


def source(data: Path, **options) -> Images:
    return config.build(Images, {"data": str(data), "resolution": 32} | options)


# ---- layouts


def two(files: dict[str, bytes]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The first four and the others."""
    items = list(files.items())
    return dict(items[:4]), dict(items[4:])


def lay_out(kind: str, root: Path, photos: dict[str, bytes]) -> Path:
    first, second = two(photos)
    root.mkdir(exist_ok=True)
    if kind in ("tar", "pax"):
        form = tarfile.USTAR_FORMAT if kind == "tar" else tarfile.PAX_FORMAT
        tarred(root / "train-0000.tar", shard(first, 0), form)
        tarred(root / "train-0001.tar", shard(second, 4), form)
        return root
    if kind in ("parquet", "binary"):
        (root / "data").mkdir()
        table(root / "data" / "train-00000-of-00002.parquet", first, plain=kind == "binary")
        table(root / "data" / "train-00001-of-00002.parquet", second, plain=kind == "binary")
        return root
    if kind == "stored":
        return zipped(root / "train.zip", photos, zipfile.ZIP_STORED, prefix="imagenet/train/")
    return zipped(root / "p.zip", photos) if kind == "zip" else tree(root, photos)


KINDS = ("tree", "zip", "stored", "tar", "pax", "parquet", "binary")


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_gives_the_same_samples(kind, photos, tmp_path):
    ours = source(lay_out(kind, tmp_path / kind, photos))
    stamps = ours.listing()
    assert len(stamps) == len(photos) and list(stamps) == sorted(stamps)
    assert "label" in ours.entries and ours.entries[0] == "image"
    assert source(ours.data).listing() == stamps
    for (name, content), key in zip(photos.items(), stamps, strict=True):
        sample = ours.read(key)
        assert set(sample) == set(ours.entries)
        np.testing.assert_array_equal(sample["image"], square(content, 32))
        assert sample["image"].dtype == np.uint8 and sample["image"].shape == (32, 32, 3)
        assert sample["label"] == CLASSES[name.split("/")[0]] and type(sample["label"]) is int
        assert sample.get("caption", f"a photo, {name}") == f"a photo, {name}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_travels_to_another_process(kind, photos, tmp_path):
    ours = source(lay_out(kind, tmp_path / kind, photos))
    key = next(iter(ours.listing()))
    before = ours.read(key)
    sent = pickle.dumps(ours)
    assert len(sent) < 1000  # no index, no open file
    images_module._opened.cache_clear()
    again = pickle.loads(sent)
    assert again == ours
    np.testing.assert_array_equal(again.read(key)["image"], before["image"])


def test_keys_and_stamps(photos, tmp_path):
    ours = source(tree(tmp_path / "t", photos))
    assert ours.listing() == {key: str(len(photos[key])) for key in sorted(PHOTOS)}
    assert ours.entries == ("image", "label")
    in_zip = source(zipped(tmp_path / "p.zip", photos))
    assert set(in_zip.listing()) == set(PHOTOS)
    assert in_zip.listing()["cat/2.png"].startswith(f"{len(photos['cat/2.png'])}-")
    tars = source(lay_out("tar", tmp_path / "tars", photos))
    assert list(tars.listing())[:2] == ["train-0000/000000.JPEG", "train-0000/000001.png"]
    rows = source(lay_out("parquet", tmp_path / "rows", photos))
    assert "train-00001-of-00002/000001" in rows.listing()
    assert tars.entries == rows.entries == ("image", "label", "caption")


@pytest.mark.parametrize("kind", ["tree", "zip", "tar", "parquet"])
def test_stamps_follow_the_content(kind, photos, tmp_path):
    before = source(lay_out(kind, tmp_path / "a", photos)).listing()
    other = photos | {"emu/1.jpg": encoded(noise(9, 50, 50), "JPEG")}
    assert source(lay_out(kind, tmp_path / "b", other)).listing() != before


def test_the_second_view_is_mirrored(photos, tmp_path):
    ours = source(tree(tmp_path, photos))
    assert ours.views == 2
    first, second = (ours.read("cat/1.JPEG", view) for view in (0, 1))
    np.testing.assert_array_equal(second["image"], first["image"][:, ::-1])
    assert second["image"].flags.c_contiguous and second["label"] == first["label"]
    assert not np.array_equal(first["image"], second["image"])


def test_no_folders_no_labels(photos, tmp_path):
    flat = source(tree(tmp_path, {f"{row}.png": photos["cat/2.png"] for row in range(3)}))
    assert flat.entries == ("image",) and set(flat.read("0.png")) == {"image"}


def test_hidden_files_are_no_samples_and_links_are_followed(photos, tmp_path):
    root = tree(tmp_path / "t", photos | {".x/1.png": b"", "cat/._1.png": b"", "cat/a.txt": b""})
    (tmp_path / "fox").mkdir()
    (tmp_path / "fox" / "1.png").write_bytes(photos["cat/2.png"])
    (root / "fox").symlink_to(tmp_path / "fox")
    ours = source(root)
    assert set(ours.listing()) == {*PHOTOS, "fox/1.png"} and ours.read("fox/1.png")["label"] == 3


def test_listing_is_fast(tmp_path):
    import time

    for folder in range(4):
        (tmp_path / f"{folder}").mkdir()
        for row in range(500):
            (tmp_path / f"{folder}" / f"{row}.jpg").touch()
    began = time.process_time()
    assert len(source(tmp_path).listing()) == 2000
    assert time.process_time() - began < 0.4  # 200 microseconds each; it takes about 10


# ---- labels


def test_a_class_file_decides_and_is_part_of_the_stamp(photos, tmp_path):
    root, names = tree(tmp_path / "t", photos), sorted(PHOTOS)
    by_row = {key: row + 5 for row, key in enumerate(names[:-1])}
    forms = {
        "a.csv": "key,label\n" + "".join(f"{k},{v}\n" for k, v in by_row.items()),
        "b.csv": "".join(f"{k},{v}\n" for k, v in by_row.items()),
        "c.json": json.dumps(by_row),
        "d.json": json.dumps({"labels": [[k, v] for k, v in by_row.items()]}),
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        ours = source(root, labels=str(tmp_path / name))
        assert [ours.read(key)["label"] for key in names[:-1]] == list(by_row.values())
        assert ours.listing()["cat/1.JPEG"] == f"{len(photos['cat/1.JPEG'])}:5"
        with pytest.raises(BadSample, match="the class file does not name it"):
            dict(ours.read(names[-1]))


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.txt", "", "is not a class file: write key,label"),
        ("a.csv", "a,1\nb\n", "row 2 has 1 column, not 2"),
        ("a.csv", "a,1\nb,x\n", "label of 'b' is 'x', not an integer"),
        ("a.csv", "a,-1\n", "label of 'a' is '-1', not an integer from 0 up"),
        ("a.csv", "a,1\na,2\n", "'a' has two labels, 1 and 2"),
        ("a.json", "{", "cannot read the class file"),
        ("a.json", "[1]", "is not a class file"),
        ("a.json", '{"a": 1.5}', "label of 'a' is 1.5"),
        ("a.json", '{"labels": null}', "has no labels"),
    ],
)
def test_a_bad_class_file(name, text, problem, photos, tmp_path):
    tree(tmp_path / "t", photos)
    (tmp_path / name).write_text(text)
    with pytest.raises(ReedError, match=problem):
        source(tmp_path / "t", labels=str(tmp_path / name)).listing()


def test_an_absent_class_file(photos, tmp_path):
    with pytest.raises(ReedError, match="cannot read the class file .*a.csv"):
        source(tree(tmp_path, photos), labels="a.csv").listing()
    with pytest.raises(ReedError, match="label of 'a'"):
        (tmp_path / "a.json").write_text('{"a": true}')
        read_labels(tmp_path / "a.json")


def test_labels_that_are_not_there(photos, tmp_path):
    stray = source(tree(tmp_path / "t", photos | {"stray.png": photos["cat/2.png"]}))
    assert "stray.png" in stray.listing()
    with pytest.raises(BadSample, match="lies beside the class folders"):
        dict(stray.read("stray.png"))
    members = shard(photos, 0)
    del members["000002.cls"], members["000003.txt"]
    members["000004.cls"] = b"emu"
    tars = source(tarred(tmp_path / "a.tar", members))
    assert len(tars.listing()) == 6
    for row, suffix, reason in (
        (2, "JPEG", "no class beside it"),
        (3, "webp", "no caption"),
        (4, "jpg", "'emu', not an"),
    ):
        with pytest.raises(BadSample, match=reason):
            dict(tars.read(f"a/{row:06d}.{suffix}"))
    rows = source(table(tmp_path / "a.parquet", {"gnu/1.png": photos["cat/2.png"]}))
    with pytest.raises(BadSample, match="no class beside it"):
        dict(rows.read("a/000000"))


def test_class_and_caption_in_json(photos, tmp_path):
    about = json.dumps({"label": 7, "caption": "two cats"}).encode()
    members = {"a/x.jpg": photos["cat/1.JPEG"], "a/x.json": about, "./y.png": photos["cat/2.png"]}
    ours = source(tarred(tmp_path / "s.tar", members | {"y.json": b"{", "y.seg.png": b"mask"}))
    assert list(ours.listing()) == ["s/a/x.jpg", "s/y.png"]
    sample = ours.read("s/a/x.jpg")
    assert (sample["label"], sample["caption"]) == (7, "two cats")
    with pytest.raises(BadSample, match=".json beside it does not parse"):
        dict(ours.read("s/y.png"))


# ---- what cannot be listed


def test_data_that_is_not_there_or_not_one(photos, tmp_path):
    png = photos["cat/2.png"]
    cases = {
        "there is nothing at": tmp_path / "none",
        "none of .zip, .tar, .parquet": tmp_path / "a.tgz",
        "holds no image files .*there are .txt": tree(tmp_path / "b", {"a/x.txt": b""}),
        "holds train and val, not classes: name one of them, --data .*c/train": tree(
            tmp_path / "c", {"train/a/1.png": png, "val/a/1.png": png}
        ),
        "class folder 'aa' holds no image": tree(tmp_path / "d", {"aa/x.txt": b"", "b/x.png": png}),
        "several data sets": tree(tmp_path / "e", {"a.zip": b"", "b.zip": b""}),
        "holds both a.zip and cat": tree(tmp_path / "f", {"a.zip": b"", "cat/1.png": png}),
        "cannot read the zip": tree(tmp_path / "g", {"a.zip": b"no zip"}),
        "cannot read the tar": tree(tmp_path / "h", {"a.tar": b"no tar" * 99}),
    }
    (tmp_path / "a.tgz").touch()
    for problem, data in cases.items():
        with pytest.raises(ReedError, match=problem):
            source(data).listing()
    with pytest.raises(ReedError, match="name the folder, zip, tars or parquet files with --data"):
        _ = Images().entries


def test_splits_side_by_side_need_a_pattern(photos, tmp_path):
    first, second = two(photos)
    tarred(tmp_path / "in1k-train-00.tar", shard(first, 0))
    tarred(tmp_path / "in1k-validation-00.tar", shard(second, 0))
    with pytest.raises(ReedError, match=r'splits train, validation: name one, --data ".*\*train'):
        source(tmp_path).listing()
    assert len(source(tmp_path / "*train*.tar").listing()) == 4
    with pytest.raises(ReedError, match="there is nothing at"):
        source(tmp_path / "*test*.tar").listing()


def test_links_to_nothing_and_loops(photos, tmp_path):
    root = tree(tmp_path / "t", photos)
    (root / "cat" / "gone.JPEG").symlink_to(tmp_path / "gone")
    ours = source(root)
    assert "unreadable (No such file" in ours.listing()["cat/gone.JPEG"]
    with pytest.raises(BadSample, match="link to nothing"):
        dict(ours.read("cat/gone.JPEG"))
    (root / "ant").symlink_to(tmp_path / "unmounted")
    with pytest.raises(ReedError, match="ant is a link to nothing"):
        ours.listing()
    (root / "ant").unlink()
    (root / "cat" / "loop").symlink_to(root)
    with pytest.raises(ReedError, match="loop is a link to a folder that holds it"):
        ours.listing()


def test_a_folder_that_cannot_be_listed(photos, tmp_path, monkeypatch):
    from reed.sources.image import trees

    root, real = tree(tmp_path, photos), trees.os.scandir

    def scandir(folder):
        if str(folder).rstrip("/").endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(trees.os, "scandir", scandir)
    with pytest.raises(ReedError, match="cannot list .*dog.*: Permission denied"):
        source(root).listing()


def test_pipes_and_vanished_files_fail_at_once(photos, tmp_path):
    import os

    ours = source(tree(tmp_path, photos))
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    assert "cat/pipe.png" in ours.listing()
    for key in ("cat/pipe.png", "cat/none.png"):
        with pytest.raises(BadSample, match="no such file"):
            dict(ours.read(key))


def test_damaged_archives(photos, tmp_path):
    whole = tarred(tmp_path / "a.tar", shard(photos, 0)).read_bytes()
    ends = {"header": 512 * 2, "inside": 512 * 5 + 7}
    for name, end in ends.items():
        (tmp_path / f"{name}.tar").write_bytes(whole[:end])
        with pytest.raises(ReedError, match="breaks off|cannot read the tar"):
            source(tmp_path / f"{name}.tar").listing()
    packed = zipped(tmp_path / "a.zip", photos, zipfile.ZIP_STORED)
    ours = source(packed)
    ours.listing()
    damaged = bytearray(packed.read_bytes())
    damaged[100] ^= 255
    packed.write_bytes(damaged)
    with pytest.raises(BadSample, match="damaged in the zip: CRC-32 is"):
        dict(ours.read("cat/1.JPEG"))
    zipped(tmp_path / "b.zip", photos, zipfile.ZIP_LZMA)
    with pytest.raises(BadSample, match="compressed by method 14"):
        dict(source(tmp_path / "b.zip").read("cat/1.JPEG"))
    for key in ("x", "a/x.jpg"):
        for data in (packed, tmp_path / "a.tar"):
            with pytest.raises(BadSample, match="not in"):
                dict(source(data).read(key))


def test_archives_that_vanish(photos, tmp_path):
    tar = source(tarred(tmp_path / "a.tar", shard(photos, 0)))
    rows = source(table(tmp_path / "a.parquet", photos))
    for ours, reason in ((tar, "cannot be read: No such file"), (rows, "row group 2 cannot be")):
        key = list(ours.listing())[-1]
        assert ours.entries  # it has looked
        ours.data.unlink()
        with pytest.raises(BadSample, match=reason):
            dict(ours.read(key))


def test_a_name_twice(photos, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for _ in range(2):
            file.addfile(tarfile.TarInfo("x.jpg"), io.BytesIO())
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        warnings.simplefilter("ignore")
        for _ in range(2):
            file.writestr("x.jpg", b"")
    for name in ("a.tar", "a.zip"):
        with pytest.raises(ReedError, match="holds 'x.jpg' twice"):
            source(tmp_path / name).listing()


def test_parquet_columns(photos, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    ours = source(table(tmp_path / "a.parquet", photos, image="picture"))
    assert ours.read("a/000005")["label"] == 2
    for key in ("a/000006", "a/x", "b/000000"):
        with pytest.raises(BadSample, match="6 rows|not in any"):
            dict(ours.read(key))
    both = pyarrow.table({"x": [b""], "y": [b""]})
    parquet.write_table(both, tmp_path / "b.parquet")
    with pytest.raises(ReedError, match=r"no image column.*of such a type are \['x', 'y'\]"):
        source(tmp_path / "b.parquet").listing()
    (tmp_path / "c").mkdir()
    table(tmp_path / "c" / "a.parquet", photos)
    parquet.write_table(both, tmp_path / "c" / "b.parquet")
    with pytest.raises(ReedError, match="b.parquet has no column 'image', the first file does"):
        source(tmp_path / "c").listing()
    path_only = pyarrow.table({"image": [{"bytes": None, "path": "a.png"}]}).cast(
        pyarrow.schema([("image", parquet.read_schema(tmp_path / "a.parquet").field(0).type)])
    )
    parquet.write_table(path_only, tmp_path / "d.parquet")
    with pytest.raises(BadSample, match="holds no image bytes"):
        dict(source(tmp_path / "d.parquet").read("d/000000"))
    (tmp_path / "e.parquet").write_bytes(b"no parquet")
    with pytest.raises(ReedError, match="cannot read the parquet file"):
        source(tmp_path / "e.parquet").listing()


def test_parquet_needs_its_library(photos, tmp_path, monkeypatch):
    path = table(tmp_path / "a.parquet", photos)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    command = re.escape(pip_install("images"))
    with pytest.raises(ReedError, match=f"need pyarrow; install it with: {command}"):
        source(path).listing()


# ---- a cache


@pytest.mark.parametrize("workers", [0, 1])
def test_a_cache_of_images_both_views_and_a_failure(workers, photos, tmp_path):
    files = photos | {"dog/none.png": b""}
    ours = source(tree(tmp_path / "t", files))
    frozen = plan.freeze(
        tmp_path / "c",
        ours.listing(),
        pipeline="p",
        domain="image",
        source="images",
        shard_size=8,
        flip=True,
    )
    for name, encoder in {"labels": Labels(), "image": ImageEncoder(32)}.items():
        encoder.load("cpu")
        job = column.open_job(tmp_path / "c", frozen, name, encoder, ours)
        engines.run(job, Share(), workers=workers, progress=False)
        marker = schema.load_marker(tmp_path / "c", job.column, 0)
        empty = {"dog/none.png": "the file is empty (0 bytes)"} if name == "image" else {}
        assert marker.failed == empty  # a column of labels looks at no image
        assert set(marker.keys) == set(files) - set(empty)
    for view in (0, 1):
        stored = reader.records(
            tmp_path / "c", job.column, 0, job.column.fields, job.state, view=view
        )
        for key, values in stored:
            expected = ours.read(key, view)["image"].transpose(2, 0, 1)
            np.testing.assert_array_equal(values["image"], expected)


# ---- the pipeline, and what importing costs


def test_the_imagenet_recipe():
    spec, recipe = pipelines.load("imagenet"), pipelines.recipe("imagenet")
    assert (spec.source, spec.base) == ("images", ("sd-vae", "labels"))
    assert recipe["curriculum"]["diffusion"]["ends"] == 50_000
    assert {name: each["tap"] for name, each in recipe["align"].items()} == {
        "dinov2-b": 8,
        "qwen2-vl-7b": 16,
    }
    for variant, weights in {"repa": (1.0, 0.5, 0.0), "sit": (1.0, 0.0, 0.0)}.items():
        found = pipelines.recipe("imagenet", variant)["curriculum"]
        assert (found["diffusion"], found["dinov2-b"], found["qwen2-vl-7b"]) == weights


def test_importing_the_modules_imports_no_library():
    code = (
        "import sys, reed.encoders.image.arrays, reed.sources.image.images\n"
        "import reed.sources.image.latents\n"
        "reed.sources.image.images.Images(); reed.encoders.image.arrays.Image().revision()\n"
        "print([n for n in ('torch', 'PIL', 'pyarrow', 'webdataset') if n in sys.modules])"
    )
    path = str(Path(images_module.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=path, check=True
    )
    assert done.stdout.strip() == "[]"
