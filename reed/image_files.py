"""Recognition of image files by the ending of their name or by their first bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable

from reed.cache.account import by_ending

JPEGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp")
SUFFIXES = (
    *(".png", *JPEGS, ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpf", ".jpx", ".jpc"),
)
HEAD = 64  # bytes that are enough to recognise a format
BESIDE = "beside another image"  # the reason for which a mask is passed over

_BEGINNINGS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II\*\0|MM\0\*|II\+\0\x08\0\0\0|MM\0\+\0\x08\0\0",
    "WEBP": rb"RIFF....WEBP",
    "BMP": rb"BM.{4}\0\0\0\0.{3}\0.{3}\0",  # reserved zeros, and two lengths below 2**24
    "PPM": rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+\d+\s",
    "AVIF": rb"....ftyp(avif|avis|.{4}.{4}(.{4})*?avi[fs])",
    "HEIC": rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)",
    "JPEG2000": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
}
_FORMATS = {name: re.compile(begin, re.DOTALL) for name, begin in _BEGINNINGS.items()}
_ROOTS = ("mask", "seg", "depth", "matte", "label", "annotation", "truth")
_WORDS = "masks?|seg|segmentation|depth|matte|labels?|annotation|groundtruth"
# "cat_mask.png": the name of another image, a word, an ending
_MASK = re.compile(rf"^(.+)[._-](?:{_WORDS})\.[^./\n]+$", re.IGNORECASE | re.MULTILINE)

MASK_WORD = re.compile(rf"[._-](?:{_WORDS})$", re.IGNORECASE)


def is_image(name: str) -> bool:
    """Whether a file name has the ending of an image."""
    return name.lower().endswith(SUFFIXES)


def format_of(head: bytes) -> str:
    """Return the format of a file by its first bytes, HEIC included; empty if it is unknown."""
    return next((name for name, begin in _FORMATS.items() if begin.match(head)), "")


def is_known(head: bytes) -> bool:
    """Whether the first bytes of a file are those of an image that can be read."""
    return format_of(head) not in ("", "HEIC")


def begins_like_one(path: str) -> bool:
    """Whether a file on disk is an image by its first bytes; False if it cannot be read."""
    try:
        if not os.path.isfile(path):  # opening a pipe would wait forever
            return False
        with open(path, "rb") as file:
            return is_known(file.read(HEAD))
    except OSError:
        return False


def masks(names: Collection[str]) -> set[str]:
    """Return the names that are another name with a word such as mask or depth added."""
    text = "\n".join(names)
    lower = text.lower()
    if not any(
        root in lower for root in _ROOTS
    ):  # much quicker than the pattern for a million names
        return set()
    candidates = [(match[0], match[1]) for match in _MASK.finditer(text)]
    stems = {os.path.splitext(name)[0] for name in names}
    return {name for name, stem in candidates if stem in stems}


def by_reason(names: Iterable[str], passed: dict[str, list[str]]) -> None:
    """Add files that are not images to ``passed``, by their endings."""
    for name in names:
        passed.setdefault(by_ending(name), []).append(name)
