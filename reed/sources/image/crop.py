"""The bytes of an image file, decoded, and a square of its middle."""

from __future__ import annotations

import io
import warnings
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from reed.build.shard import BadSample
from reed.image_files import HEAD, format_of

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow refuses more than twice its MAX_IMAGE_PIXELS; a higher limit would have to change that
# number for the whole process.
MAX_PIXELS = 178_956_970
# Only these are opened, whatever a file is called: some of Pillow's others start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
_PNG, _TEXTS = b"\x89PNG\r\n\x1a\n", (b"tEXt", b"zTXt", b"iTXt")


def square(
    content: bytes, size: int, *, exif: bool = False, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """The middle of an image file at the given size: uint8 [size, size, 3]; see the parts."""
    return center_crop(decode(content, exif=exif, max_pixels=max_pixels), size)


def center_crop(image: Image, size: int) -> np.ndarray:
    """The middle square of an RGB image, scaled so that it takes in the whole shorter side.

    uint8 [size, size, 3]. Halved by box averages while the shorter side is at least twice the
    size, then scaled by bicubic interpolation, then cropped: the convention of ADM
    (arXiv 2105.05233) and of all that compare with it, bit for bit. BadSample when the longer
    side would grow beyond bounds.
    """
    from PIL.Image import Resampling

    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if width * height > MAX_PIXELS:
        was = f"{image.width} x {image.height}"
        raise BadSample(f"too narrow: {was} pixels would be scaled to {width} x {height}")
    image = image.resize((width, height), Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))


def decode(content: bytes, *, exif: bool = False, max_pixels: int = MAX_PIXELS) -> Image:
    """An image file as RGB of 8 bits, its first frame if it has several; BadSample with the reason.

    As Pillow's convert("RGB") does it, like the public trainers: alpha is dropped (not blended),
    CMYK is read as Adobe writes it, colour profiles are ignored. Beyond that, 16-bit grey is
    scaled to 8 bits (convert would clip it). exif: turn the image as its EXIF tag says.
    JPEGs are decoded at full size: Pillow's faster draft mode gives other pixels.
    """
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise BadSample("the file is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is raised
            return _decode(content, exif, max_pixels)
    except (BadSample, MemoryError):
        raise
    except UnidentifiedImageError:  # its own text holds a memory address
        raise BadSample(_unknown(content)) from None
    except Image.DecompressionBombError:
        raise BadSample(f"more than the {max_pixels:,} pixels of max_pixels") from None
    except Exception as error:  # damaged bytes make the decoders raise almost anything
        bare = _without_texts(content)
        if len(bare) < len(content):  # Pillow refuses a PNG for the size of its comments
            return decode(bare, exif=exif, max_pixels=max_pixels)
        raise BadSample(f"cannot be decoded: {type(error).__name__}: {error}") from error


def _decode(content: bytes, exif: bool, max_pixels: int) -> Image:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content), formats=_formats()) as image:
        pixels = image.width * image.height
        if not 0 < pixels <= max_pixels:
            size = f"{image.width} x {image.height} pixels"
            raise BadSample(f"{size}, the limit is {max_pixels:,} (max_pixels)")
        image.load()
        wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format != "TIFF")
        turned = ImageOps.exif_transpose(image) if exif else image
        if wide:
            turned = _eight_bits(turned)
        elif image.mode in ("I", "F"):
            raise BadSample(f"pixels of mode {image.mode!r}, 32 bits wide: no white is stated")
        return turned.convert("RGB")


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow knows of: AVIF came late."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _unknown(content: bytes) -> str:
    """What is to be said of a file that Pillow does not recognise."""
    if (name := format_of(content[:HEAD])) in FORMATS:
        return f"cannot be decoded: begins as {name}, truncated ({len(content)} bytes) or damaged"
    begin = f"it begins with {content[:12]!r}" + (f", as {name} does" if name else "")
    return f"not one of the formats {', '.join(FORMATS)}: {begin}"


def _without_texts(content: bytes) -> bytes:
    """A PNG without its text chunks, which hold no pixel; other files as they are."""
    if not content.startswith(_PNG):
        return content
    kept, place = [_PNG], len(_PNG)
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if content[place + 4 : place + 8] not in _TEXTS:
            kept.append(content[place:end])
        place = end
    return b"".join(kept) + content[place:]


def _eight_bits(image: Image) -> Image:
    """16-bit grey, scaled so that white stays white."""
    from PIL.Image import fromarray

    wide = np.asarray(image).astype(np.int64)
    return fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
