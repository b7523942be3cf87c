"""Decoding of image files, and their middle square at a given size."""

from __future__ import annotations

import io
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from reed.build.shard import BadSample
from reed.errors import ReedError
from reed.image_files import HEAD, format_of

if TYPE_CHECKING:
    from PIL.Image import Image

# Twice Pillow's MAX_IMAGE_PIXELS. Pillow refuses larger images, and a higher limit would have to
# change that number for the whole process.
MAX_PIXELS = 178_956_970
# No other format is opened, whatever the file is called: some decoders of Pillow start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
# Notes of a transparent image.
ALPHA_DROPPED = "alpha dropped, so that hidden colours show (source.background=white blends it)"
ALPHA_BLENDED = "alpha blended with source.background"
_PNG, _TEXTS = b"\x89PNG\r\n\x1a\n", (b"tEXt", b"zTXt", b"iTXt")


def square(
    content: bytes,
    size: int,
    *,
    exif: bool = False,
    max_pixels: int = MAX_PIXELS,
    background: str = "",
    notes: list[str] | None = None,
) -> np.ndarray:
    """Decode an image file and return its middle square, uint8 [size, size, 3].

    Args:
        content: Content of the image file.
        size: Side of the square in pixels.
        exif: Whether to turn the image as its EXIF tag says.
        max_pixels: Images with more pixels fail.
        background: See `decode`.
        notes: See `decode`.

    Raises:
        BadSample: The image cannot be decoded, is too large or is too narrow.
    """
    how: dict[str, Any] = {"background": background, "notes": notes}
    return center_crop(decode(content, exif=exif, max_pixels=max_pixels, **how), size)


def center_crop(image: Image, size: int) -> np.ndarray:
    """Scale an RGB image so that its shorter side is ``size``, and crop the middle square.

    The image is halved by box averages while its shorter side is at least twice the size, then
    scaled by bicubic interpolation, then cropped. This is the convention of ADM (arXiv 2105.05233)
    and of all work that compares with it, bit for bit.

    Returns:
        uint8 [size, size, 3].

    Raises:
        BadSample: The scaled image would have more than MAX_PIXELS pixels.
    """
    from PIL.Image import Resampling

    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Resampling.BOX)

    # An image of 1 x 60,000 pixels passes every limit before it is scaled.
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if width * height > MAX_PIXELS:
        original = f"{image.width} x {image.height}"
        raise BadSample(f"too narrow: {original} pixels would be scaled to {width} x {height}")

    image = image.resize((width, height), Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))


def decode(
    content: bytes,
    *,
    exif: bool = False,
    max_pixels: int = MAX_PIXELS,
    background: str = "",
    notes: list[str] | None = None,
) -> Image:
    """Decode an image file as RGB of 8 bits; of several frames, the first.

    Pillow's ``convert("RGB")`` does the conversion, as in the public trainers: without a background
    alpha is dropped (not blended), CMYK is read as Adobe writes it, and colour profiles are
    ignored. 16-bit grey is scaled to 8 bits, because ``convert`` would clip it. JPEGs are decoded
    at full size, because Pillow's faster draft mode gives other pixels.

    Args:
        content: Content of the image file.
        exif: Whether to turn the image as its EXIF tag says.
        max_pixels: Images with more pixels fail.
        background: Colour that shows through where an image is transparent; if it is empty, the
            alpha channel is dropped, so that colours show which it hides.
        notes: List that gets ``ALPHA_DROPPED`` or ``ALPHA_BLENDED`` if an image is transparent
            anywhere.

    Raises:
        BadSample: The image cannot be decoded or is too large.
    """
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise BadSample("the file is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow raises an error where it matters
            return _decode(content, exif, max_pixels, background, [] if notes is None else notes)
    except (BadSample, MemoryError):
        raise
    except UnidentifiedImageError:  # its message holds a memory address, which differs every time
        raise BadSample(_unknown(content)) from None
    except Image.DecompressionBombError:
        raise BadSample(f"more than the {max_pixels:,} pixels of max_pixels") from None
    except Exception as error:  # damaged bytes make the decoders raise almost anything
        bare = _without_texts(content)
        if len(bare) < len(content):  # Pillow refuses a PNG whose comments are large
            how: dict[str, Any] = {"background": background, "notes": notes}
            return decode(bare, exif=exif, max_pixels=max_pixels, **how)
        raise BadSample(f"cannot be decoded: {type(error).__name__}: {error}") from error


def _decode(
    content: bytes, exif: bool, max_pixels: int, background: str, notes: list[str]
) -> Image:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content), formats=_formats()) as image:
        pixels = image.width * image.height
        if not 0 < pixels <= max_pixels:
            size = f"{image.width} x {image.height} pixels"
            raise BadSample(f"{size}, the limit is {max_pixels:,} (max_pixels)")

        image.load()
        # Pillow opens some 16-bit files as mode I; TIFFs of that mode are 32 bits wide.
        wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format != "TIFF")
        turned = ImageOps.exif_transpose(image) if exif else image
        if wide:
            turned = _eight_bits(turned)
        elif image.mode in ("I", "F"):
            raise BadSample(f"pixels of mode {image.mode!r}, 32 bits wide: no white is stated")
        return _opaque(turned, background, notes)


def _opaque(image: Image, background: str, notes: list[str]) -> Image:
    """Return an image as RGB, over a background colour if there is one."""
    from PIL import Image as images

    is_clear = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    if not is_clear or image.mode.startswith("I"):
        return image.convert("RGB")

    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema()[0] == 255:  # an alpha channel that hides nothing
        return image.convert("RGB")
    notes.append(ALPHA_BLENDED if background else ALPHA_DROPPED)
    if not background:
        return image.convert("RGB")
    paper = images.new("RGBA", layer.size, background)
    return images.alpha_composite(paper, layer).convert("RGB")


def check_colour(background: str) -> None:
    """Raise ReedError if a background is no colour that Pillow knows; empty is none."""
    if not background:
        return
    from PIL import ImageColor

    try:
        ImageColor.getrgb(background)
    except ValueError as error:
        problem = f"images: background is {background!r}, which is no colour"
        raise ReedError(f"{problem}; write a name such as white, or #rrggbb") from error


@cache
def _formats() -> tuple[str, ...]:
    """Return the FORMATS that the installed Pillow can open; older versions lack AVIF."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _unknown(content: bytes) -> str:
    """Return the message for a file that Pillow does not recognise."""
    if (name := format_of(content[:HEAD])) in FORMATS:
        return f"cannot be decoded: begins as {name}, truncated ({len(content)} bytes) or damaged"
    begin = f"it begins with {content[:12]!r}" + (f", as {name} does" if name else "")
    return f"not one of the formats {', '.join(FORMATS)}: {begin}"


def _without_texts(content: bytes) -> bytes:
    """Return a PNG without its text chunks, which hold no pixels; other files unchanged."""
    if not content.startswith(_PNG):
        return content
    kept, offset = [_PNG], len(_PNG)
    while offset + 12 <= len(content):  # a chunk is its length, type, data and CRC
        end = offset + 12 + int.from_bytes(content[offset : offset + 4], "big")
        if content[offset + 4 : offset + 8] not in _TEXTS:
            kept.append(content[offset:end])
        offset = end
    return b"".join(kept) + content[offset:]


def _eight_bits(image: Image) -> Image:
    """Scale 16-bit grey to 8 bits, so that white stays white."""
    from PIL.Image import fromarray

    wide = np.asarray(image).astype(np.int64)
    return fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
