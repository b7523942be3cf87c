"""Decoding image files, nasty ones too, and the crop of their middle."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from reed.build.shard import BadSample
from reed.errors import ReedError
from reed.sources.image.crop import MAX_PIXELS, center_crop, decode, square
from reed.sources.image.images import Images

GOLDEN = Path(__file__).parent / "golden" / "preprocess.npz"


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


def source(folder: Path, content: bytes, name="x.JPEG", **options) -> Images:
    """A data set of one file."""
    (folder / name).write_bytes(content)
    return Images(folder, 32, **options)


# ---- nasty images: decoded rightly


def test_modes_become_rgb_as_pillow_converts_them():
    rgb = noise(1, 40, 60)
    image = Pillow.fromarray(rgb)
    grey = image.convert("L")
    alpha = image.copy()
    alpha.putalpha(grey)
    palette = image.convert("P", palette=Pillow.Palette.ADAPTIVE)
    cases = {
        "grey": (encoded(grey, "PNG"), grey),
        "bit": (encoded(image.convert("1"), "PNG"), image.convert("1")),
        "palette": (encoded(palette, "PNG"), palette),
        "palette with transparency": (encoded(palette, "PNG", transparency=bytes(256)), palette),
        "alpha is dropped": (encoded(alpha, "PNG"), image),
        "grey and alpha": (encoded(alpha.convert("LA"), "PNG"), alpha.convert("LA")),
        "gif": (encoded(palette, "GIF"), palette),
        "bmp": (encoded(image, "BMP"), image),
    }
    for name, (content, expected) in cases.items():
        found = np.array(decode(content))
        np.testing.assert_array_equal(found, np.array(expected.convert("RGB")), err_msg=name)


def test_cmyk_jpegs_are_read_as_adobe_writes_them():
    solid = Pillow.new("CMYK", (32, 32), (0, 255, 255, 0))  # magenta and yellow ink: red
    found = np.array(decode(encoded(solid, "JPEG", quality=95)))
    assert np.abs(found.astype(int) - [255, 0, 0]).max() <= 3
    assert b"Adobe" in encoded(solid, "JPEG")


def test_sixteen_bits_are_scaled_and_not_clipped():
    wide = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    expected = np.rint(wide / 257).astype(np.uint8)
    for form in ("PNG", "TIFF", "PPM"):
        found = np.array(decode(encoded(Pillow.fromarray(wide), form)))
        np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, -1), err_msg=form)
    for mode in ("I", "F"):
        with pytest.raises(BadSample, match=f"mode '{mode}', 32 bits wide: no white is stated"):
            decode(encoded(Pillow.new(mode, (8, 8), 70000), "TIFF"))


def test_exif_rotation_is_an_option(tmp_path):
    upright = noise(2, 40, 80)
    exif = Pillow.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    content = encoded(upright, "PNG", exif=exif)
    np.testing.assert_array_equal(np.array(decode(content)), upright)
    np.testing.assert_array_equal(np.array(decode(content, exif=True)), np.rot90(upright, -1))
    for turn, pixels in ((False, upright), (True, np.rot90(upright, -1))):
        found = source(tmp_path, content, exif=turn).read("x.JPEG")["image"]
        np.testing.assert_array_equal(found, square(encoded(pixels, "PNG"), 32))
    wide = encoded(Pillow.fromarray(np.full((8, 16), 65535, np.uint16)), "PNG", exif=exif)
    assert np.array(decode(wide, exif=True)).shape == (16, 8, 3)
    assert np.array(decode(wide, exif=True)).min() == 255


def test_only_the_first_frame_counts():
    frames = [Pillow.new("RGB", (8, 8), color) for color in ("red", "blue")]
    content = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array(decode(content))[0, 0].tolist() == [255, 0, 0]


def test_the_suffix_does_not_decide_the_format(tmp_path):
    content = encoded(noise(3, 40, 40), "PNG")  # ImageNet has a PNG called .JPEG
    found = source(tmp_path, content).read("x.JPEG")["image"]
    np.testing.assert_array_equal(found, square(content, 32))


# ---- nasty images: refused with the reason

JPEG = encoded(noise(4, 200, 300), "JPEG")
PNG = encoded(noise(4, 50, 60), "PNG")
NASTY = {
    "empty": (b"", r"the file is empty \(0 bytes\)"),
    "text": (b"<html>not found</html>", "not one of the formats JPEG.*begins with b'<html>not fo'"),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], "cannot be decoded: OSError: .*truncated"),
    "truncated PNG": (PNG[: len(PNG) // 2], "cannot be decoded"),
    "header only": (JPEG[:20], "cannot be decoded|not one of"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not one of the formats"),
    "zeros": (bytes(5000), "not one of the formats"),
    "png bomb": (
        encoded(Pillow.new("1", (20000, 20000)), "PNG"),
        "more than the 178,956,970 pixels",
    ),
    "damaged chunk": (PNG.replace(b"IDAT", b"IDAX", 1), "cannot be decoded|not one of"),
}


@pytest.mark.parametrize("name", NASTY)
def test_nasty_files_fail_with_the_reason(name, tmp_path):
    content, reason = NASTY[name]
    ours = source(tmp_path, content)
    assert list(ours.listing()) == ["x.JPEG"]
    with pytest.raises(BadSample, match=reason) as first:
        dict(ours.read("x.JPEG"))
    with pytest.raises(BadSample) as second:
        dict(ours.read("x.JPEG"))
    assert str(first.value) == str(second.value) and " at 0x" not in str(first.value)
    assert str(tmp_path) not in str(first.value)  # reasons are stored in the cache


def test_the_limit_of_pixels_is_an_option(tmp_path):
    assert source(tmp_path, PNG, max_pixels=3000).read("x.JPEG")["image"].shape == (32, 32, 3)
    with pytest.raises(BadSample, match=r"60 x 50 pixels, the limit is 2,999 \(max_pixels\)"):
        dict(source(tmp_path, PNG, max_pixels=2999).read("x.JPEG"))
    for wrong in (0, MAX_PIXELS + 1):
        with pytest.raises(ReedError, match=f"max_pixels is {wrong}, it must be from 1 to"):
            Images(max_pixels=wrong)
    with pytest.raises(ReedError, match="resolution is 0"):
        Images(resolution=0)


def test_our_limit_is_pillows():
    assert 2 * Pillow.MAX_IMAGE_PIXELS == MAX_PIXELS


def test_a_picture_that_would_grow_beyond_bounds():
    with pytest.raises(BadSample, match="too narrow: 3000 x 1 pixels would be scaled to 768000 x"):
        center_crop(Pillow.new("RGB", (3000, 1)), 256)


def test_pillows_warnings_stay_inside(monkeypatch):
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 1000)  # it warns from here, refuses from 2000
    palette = Pillow.fromarray(noise(6, 20, 20)).convert("P")
    clear = {"transparency": bytes(range(256))}
    for image, options in ((Pillow.new("L", (40, 40)), {}), (palette, clear)):
        content = encoded(image, "PNG", **options)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            Pillow.open(io.BytesIO(content)).convert("RGB")
            assert seen
            seen.clear()
            square(content, 8)
            assert not seen


# ---- crop


@pytest.mark.parametrize("size", [256, 64, 32])
def test_crops_equal_the_public_ones(size):
    with np.load(GOLDEN, allow_pickle=False) as golden:
        found = center_crop(Pillow.fromarray(golden["crop/in"]), size)
        np.testing.assert_array_equal(found, golden[f"crop/out_{size}"])


@pytest.mark.parametrize(
    ("height", "width"),
    [(32, 32), (64, 64), (63, 64), (65, 129), (20, 31), (7, 500), (500, 7), (33, 32), (1, 1)],
)
def test_crops_of_every_shape(height, width):
    image = noise(5, height, width)
    found = center_crop(Pillow.fromarray(image), 32)
    assert found.shape == (32, 32, 3) and found.dtype == np.uint8
    if (height, width) == (32, 32):
        np.testing.assert_array_equal(found, image)
    if (height, width) == (33, 32):
        np.testing.assert_array_equal(found, image[:32])  # the odd row falls off the end
    if (height, width) == (64, 64):  # an exact multiple: means of pairs, along rows, then columns
        halved = (image[:, ::2].astype(int) + image[:, 1::2] + 1) // 2
        np.testing.assert_array_equal(found, (halved[::2] + halved[1::2] + 1) // 2)


def test_the_crop_is_from_the_middle():
    image = np.zeros((32, 96, 3), np.uint8)
    image[:, 32:64] = 200
    assert (center_crop(Pillow.fromarray(image), 32) == 200).all()
