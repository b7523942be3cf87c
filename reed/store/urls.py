"""Addresses of caches in object stores, as text and as paths."""

from __future__ import annotations

import re
from pathlib import Path

SCHEMES = ("s3", "gs", "az", "http", "https", "hf", "file")
# A Path of "s3://bucket/x" reads s3:/bucket/x, so one slash is as good as two.
_URL = re.compile(rf"({'|'.join(SCHEMES)}):/+(.*)", re.DOTALL)


def url_of(place: Path | str) -> str:
    """Return the URL that a text or a path of it stands for; empty for a folder."""
    match = _URL.fullmatch(str(place))
    if match is None:
        return ""
    return f"{match[1]}://{'/' if match[1] == 'file' else ''}{match[2].rstrip('/')}"


def text(place: Path | str) -> str:
    """Return a place as it is written in settings: a URL with its two slashes, or the path."""
    return url_of(place) or str(place)
