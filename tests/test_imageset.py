"""Images of an .npz, a folder and a cache: what is read from each, and what is refused."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from reed.errors import ReedError
from reed.metrics.image_set import open_images

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))


def pictures(count=7, shape=(6, 5, 3)):
    return np.random.default_rng(3).integers(0, 256, (count, *shape), np.uint8)


def folder(root, images, names="{:02}.png"):
    for i, image in enumerate(images):
        path = root / names.format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(path)
    return root


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_in_parts(tmp_path, save):
    images = pictures()
    save(tmp_path / "s.npz", arr_0=images, arr_1=np.arange(7))
    found = open_images(tmp_path / "s.npz")
    assert (found.kind, found.num, found.shape, found.statistics) == ("npz", 7, (6, 5, 3), {})
    parts = list(found.read(3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert np.array_equal(np.concatenate(parts), images)
    assert np.array_equal(found.all(), images) and found.labels().tolist() == list(range(7))
    np.savez(tmp_path / "t.npz", arr_0=images)
    assert open_images(tmp_path / "t.npz").labels() is None


def test_a_reference_of_the_adm_suite_has_statistics_and_perhaps_images(tmp_path):
    about = {"mu": np.ones(4), "sigma": np.eye(4), "mu_s": np.ones(3), "sigma_s": np.eye(3)}
    np.savez(tmp_path / "adm.npz", arr_0=pictures(), **about)
    assert open_images(tmp_path / "adm.npz").statistics.keys() == about.keys()
    np.savez(tmp_path / "bare.npz", mu=np.ones(4), sigma=np.eye(4))
    bare = open_images(tmp_path / "bare.npz")
    assert (bare.num, sorted(bare.statistics)) == (0, ["mu", "sigma"])
    with pytest.raises(ReedError, match="bare.npz holds statistics and no images"):
        bare.all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_read_by_name_and_below(tmp_path, channels):
    images = pictures(5, (4, 4, channels))
    folder(tmp_path / "f", images, "{:02}/a.PNG")
    (tmp_path / "f" / "notes.txt").write_text("no image")
    folder(tmp_path / "f" / ".hidden", images)
    found = open_images(tmp_path / "f")
    assert (found.kind, found.num, found.shape) == ("folder", 5, (4, 4, channels))
    assert np.array_equal(found.all(), images) and found.labels() is None
    assert open_images(tmp_path / "f").sha256 == found.sha256
    folder(tmp_path / "f", images[::-1], "{:02}/a.PNG")
    assert open_images(tmp_path / "f").sha256 != found.sha256


def test_a_cache_gives_the_images_of_its_data_and_their_labels(tmp_path):
    cache = TINY.build(tmp_path / "cache")
    found = open_images(cache)
    assert (found.kind, found.num, found.shape) == ("cache", 64, (8, 8, 4))
    images, labels = found.all(), found.labels()
    assert images.shape == (64, 8, 8, 4) and np.bincount(labels).tolist() == [16] * 4
    # the samples of a class are alike, and the labels are in the order of the images
    means = np.stack([images[labels == label].mean(0) for label in range(4)])
    nearest = np.square(images[:, None] - means).sum((2, 3, 4)).argmin(1)
    assert np.array_equal(nearest, labels)
    assert [len(part) for part in found.read(40)] == [40, 24]


def test_a_cache_without_pixels_has_no_images(tmp_path):
    cache = TINY.build(tmp_path / "cache")
    (cache / "pixels" / "column.json").unlink()
    with pytest.raises(ReedError, match="no column with images to compare with"):
        open_images(cache)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "no item named .arr_0.npy. in the archive"),
        ({"arr_0": np.zeros((2, 4, 8, 8), np.float32)}, "float32 .2, 4, 8, 8.*latents have to be"),
        ({"arr_0": np.zeros((2, 8, 8), np.uint8)}, r"uint8 \[2, 8, 8\], images are uint8 \[N"),
        ({"arr_0": np.zeros((0, 8, 8, 3), np.uint8)}, r"\[0, 8, 8, 3\]"),
        ({"arr_0": np.asfortranarray(pictures())}, "column by column"),
        ({"arr_0": np.array([{}])}, "arr_0 is object"),
        ({"arr_0": np.array(3)}, r"arr_0 is int64 \[0\]"),
    ],
)
def test_an_npz_without_images_is_refused(tmp_path, arrays, message):
    with pytest.raises(ReedError, match=message):
        open_images(npz(tmp_path / "s.npz", **arrays))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"text"])
def test_what_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "s.npz").write_bytes(content)
    with pytest.raises(ReedError, match=f"cannot read samples from {tmp_path / 's.npz'}"):
        open_images(tmp_path / "s.npz", "samples")


def test_an_npz_that_changes_while_it_is_read_is_refused(tmp_path):
    path = npz(tmp_path / "s.npz", arr_0=pictures())
    found = open_images(path)
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    with pytest.raises(ReedError, match="cannot read images from .*CRC"):
        found.all()


def test_a_place_with_nothing_is_named(tmp_path):
    with pytest.raises(ReedError, match="there is nothing"):
        open_images(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ReedError, match="no cache, and no file in it ends in .png, .jpg"):
        open_images(tmp_path)


def test_images_of_a_folder_that_differ_are_named(tmp_path):
    folder(tmp_path, pictures(2))
    folder(tmp_path, pictures(1, (7, 5, 3)), "b.png")
    with pytest.raises(ReedError, match=r"b.png is \[7, 5, 3\], the first .* \[6, 5, 3\]"):
        open_images(tmp_path).all()
    Image.fromarray(pictures(1)[0]).convert("RGBA").save(tmp_path / "00.png")
    with pytest.raises(ReedError, match="00.png is of mode RGBA; convert it"):
        open_images(tmp_path)
    (tmp_path / "00.png").write_bytes(b"no picture")
    with pytest.raises(ReedError, match="cannot decode .*00.png"):
        open_images(tmp_path)
