"""Transparent pictures: dropped or blended, counted, and read alike by a build and by reed-eval."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as Pillow

from reed import open_cache
from reed.cli import cache as cli_cache
from reed.errors import ReedError
from reed.evaluate.base import Task
from reed.evaluate.folder import open_reference
from reed.picture import to_uint8
from reed.sources.image.images import Images

PIPELINE = """
from reed.pipelines import Pipeline

PHOTOS = Pipeline("image", "images", ("image",), (), 4)
"""


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of pictures of mixed modes and sizes, two of them transparent."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos.py").write_text(PIPELINE)
    (tmp_path / "photos.toml").write_text("")
    draws, folder = np.random.default_rng(0), tmp_path / "data" / "a"
    folder.mkdir(parents=True)
    rgb = draws.integers(0, 256, (6, 20, 16, 3), np.uint8)
    Pillow.fromarray(rgb[0]).save(folder / "plain.png")
    Pillow.fromarray(rgb[1]).convert("CMYK").save(folder / "inks.jpg")
    Pillow.fromarray(rgb[2, ..., 0].astype(np.uint16) * 257).save(folder / "wide.png")
    solid = Pillow.fromarray(rgb[3]).convert("RGBA")
    solid.save(folder / "solid.png")  # its alpha channel hides nothing

    hidden = np.zeros((16, 16, 4), np.uint8)
    hidden[:, :8] = 200, 10, 10, 255
    hidden[:, 8:] = 0, 90, 0, 0  # a green that nobody is to see
    Pillow.fromarray(hidden).save(folder / "clear.png")
    hidden[:, 8:, 3] = 128
    Pillow.fromarray(hidden).save(folder / "half.png")
    yield tmp_path / "data"
    sys.modules.pop("photos", None)


def colours(source, key):
    pixels = source.read(key)["image"]
    return pixels[4, 1].tolist(), pixels[4, -2].tolist()


def test_alpha_is_dropped_or_blended_as_the_source_says(photos):
    dropped, white = Images(photos, 16), Images(photos, 16, background="white")
    assert colours(dropped, "a/clear.png") == ([200, 10, 10], [0, 90, 0])
    assert colours(white, "a/clear.png") == ([200, 10, 10], [255, 255, 255])
    red, mixed = colours(Images(photos, 16, background="#000000"), "a/half.png")
    assert red == [200, 10, 10] and mixed[0] == mixed[2] == 0 and abs(mixed[1] - 45) <= 1
    for key in ("a/solid.png", "a/plain.png", "a/inks.jpg", "a/wide.png"):
        one, other = (source.read(key)["image"] for source in (dropped, white))
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ReedError, match="background is 'whyte', which is no colour"):
        Images(photos, background="whyte")


def build(*words):
    small = ("--set", "source.resolution=16", "--set", "image.resolution=16", "--device", "cpu")
    words = ("build", "photos:PHOTOS", "--data", "data", *small, *words)
    done = CliRunner().invoke(cli_cache.main, words)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_build_counts_the_transparent_pictures(photos, workers):
    said = build("--cache", "c", "--workers", workers, "--flip")
    assert "image: 2 of the samples that were read: alpha dropped, so that hidden colours" in said
    said = build("--cache", "w", "--workers", workers, "--set", "source.background=white")
    assert "image: 2 of the samples that were read: alpha blended with source.background" in said


@pytest.mark.parametrize("background", ["", "white"])
def test_a_reference_folder_is_read_as_the_source_reads_it(photos, tmp_path, background):
    """It refused RGBA, CMYK, 16 bit and pictures of several sizes, which a build reads."""
    build("--cache", "c", *(("--set", f"source.background={background}") if background else ()))
    task = Task("image", tmp_path / "s.npz", photos, tmp_path / "out.json")
    real = open_reference(task, (16, 16, 3), background)
    with open_cache("c") as cache:
        stored = dict(cache.records("image/image"))
        field = cache.column_and_field("image/image")[1]
    assert (real.num, real.shape) == (6, (16, 16, 3)) and len(stored) == 6
    expected = [to_uint8(stored[key][None], field)[0] for key in sorted(stored)]
    np.testing.assert_array_equal(np.concatenate(list(real.read(4))), np.stack(expected))

    other = open_reference(task, (16, 16, 3), "" if background else "white")
    assert other.sha256 != real.sha256  # statistics of the one are not taken for the other's
    (photos / "a" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ReedError, match="bad.png cannot be a reference: cannot be decoded"):
        list(open_reference(task, (16, 16, 3), "").read(4))
