"""Random archives and folders of images, read by us and by the library that did not write them."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from reed import config
from reed.build.source import listed
from reed.sources.image.crop import square
from reed.sources.image.images import Images

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

FORMS = {"png": "PNG", "jpg": "JPEG", "JPEG": "JPEG", "bmp": "BMP", "webp": "WEBP", "tif": "TIFF"}
# letters of several alphabets, blanks and signs; dots are of the ending
NAMES = st.text("aZ09 é語ß+%~@", min_size=1, max_size=6).map(lambda text: f"n{text}")
CASES = settings(
    max_examples=2000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@st.composite
def samples(draw) -> list[tuple[str, str, bytes, int]]:
    """Folder, name with its ending, content and class number; names differ but for the case."""
    stems = draw(st.lists(NAMES, min_size=1, max_size=6, unique_by=str.lower))
    found = []
    for stem in stems:
        ending = draw(st.sampled_from(sorted(FORMS)))
        height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
        array = np.full((height, width, 3), draw(st.integers(0, 255)), np.uint8)
        array[0, 0] = draw(st.integers(0, 255))
        file = io.BytesIO()
        Pillow.fromarray(array).save(file, FORMS[ending])
        folder = draw(st.sampled_from(["cat", "dog", "ant/deep"]))
        found.append((folder, f"{stem}.{ending}", file.getvalue(), draw(st.integers(0, 2**40))))
    return found


def source(data: Path) -> Images:
    return config.build(Images, {"data": str(data), "resolution": 4})


def agree(ours: Images, want: dict[str, tuple[bytes, int | str]], passed: int = 0) -> None:
    """Our keys, bytes and classes are those of another library, and nothing is unaccounted for."""
    found = listed(ours)
    assert set(found) == set(want)
    assert sum(map(len, found.passed.values())) == passed
    for key, (content, label) in want.items():
        sample = ours.read(key)
        number = sample["label"]
        assert (found.classes[number] if found.classes else number) == label
        np.testing.assert_array_equal(sample["image"], square(content, 4))
        with Pillow.open(io.BytesIO(content)) as image:
            assert min(image.size) >= 1


@CASES
@given(samples(), st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_tars(found, form):
    with tempfile.TemporaryDirectory() as folder:
        parts = []
        for row, (_, name, content, label) in enumerate(found):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w", format=form) as tar:
                stem = name.rpartition(".")[0]
                for member, data in ((name, content), (f"{stem}.cls", b"%d" % label)):
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
            parts.append(
                file.getvalue() if row % 2 else file.getvalue().rstrip(b"\0") + bytes(1536)
            )
        path = Path(folder) / "x-000.tar"
        path.write_bytes(b"".join(part + bytes(-len(part) % 512) for part in parts))
        with tarfile.open(path, ignore_zeros=True) as tar:
            theirs = {m.name: tar.extractfile(m).read() for m in tar}
        images = {n: b for n, b in theirs.items() if not n.endswith(".cls")}
        want = {
            f"x-000/{name}": (content, int(theirs[f"{name.rpartition('.')[0]}.cls"]))
            for name, content in images.items()
        }
        assert len(want) == len(found)
        agree(source(path), want)


@CASES
@given(samples(), st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]), st.integers(0, 3))
def test_zips(found, how, others):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.zip"
        with zipfile.ZipFile(path, "w", how) as file:
            for top, name, content, _ in found:
                file.writestr(f"all/{top}/{name}", content)
            file.writestr("all/ant/0.png", found[0][2])  # so that "all" is around several
            file.writestr("all/cat/0.png", found[0][2])
            for i in range(others):
                file.writestr(f"all/cat/{i}.txt", "words")
        with zipfile.ZipFile(path) as file:
            theirs = {n: file.read(n) for n in file.namelist() if not n.endswith(".txt")}
        want = {n[4:]: (b, n.split("/")[1]) for n, b in theirs.items()}
        agree(source(path), want, others)


@CASES
@given(samples(), st.integers(0, 3))
def test_folder_trees(found, others):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for top, name, content, _ in found:
            (root / top).mkdir(parents=True, exist_ok=True)
            (root / top / name).write_bytes(content)
        for i in range(others):
            (root / found[0][0] / f"{i}.md").write_text("words")
        paths = [p for p in root.rglob("*") if p.is_file() and p.suffix != ".md"]
        relative = {p.relative_to(root): p for p in paths}
        want = {r.as_posix(): (p.read_bytes(), r.parts[0]) for r, p in relative.items()}
        agree(source(root), want, others)


@CASES
@given(
    samples(),
    st.sampled_from(["binary", "large_binary", "binary_view", "struct"]),
    st.sampled_from(["int64", "string", "string_view", "dictionary"]),
    st.integers(1, 4),
)
def test_parquet_files(found, image, label, rows):
    with tempfile.TemporaryDirectory() as folder:
        contents = [content for _, _, content, _ in found]
        if image == "struct":
            images = pyarrow.array([{"bytes": each, "path": None} for each in contents])
        else:
            images = pyarrow.array(contents, pyarrow.binary()).cast(getattr(pyarrow, image)())
        labels = [number if label == "int64" else top for top, _, _, number in found]
        column = pyarrow.array(labels)
        if label in ("string_view", "dictionary"):
            made = pyarrow.string_view() if label == "string_view" else None
            column = column.cast(made) if made else column.dictionary_encode()
        table = pyarrow.table({"image": images, "label": column})
        path = Path(folder) / "a.parquet"
        parquet.write_table(table, path, row_group_size=rows)
        theirs = parquet.read_table(path).to_pylist()
        want = {}
        for row, each in enumerate(theirs):
            content = each["image"]["bytes"] if image == "struct" else each["image"]
            want[f"a/{row:06d}"] = (content, each["label"])
        agree(source(path), want)
