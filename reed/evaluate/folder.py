"""A folder of images as a reference: read exactly as a cache of it would be built."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from reed.build.engines import Share
from reed.build.source import BadSample, listed
from reed.cache.account import Account
from reed.errors import ReedError
from reed.evaluate.base import Task
from reed.metrics.ahead import ALL, decoders
from reed.metrics.image_set import ImageSet, open_images
from reed.sources.image.images import Images

T = TypeVar("T")


def open_reference(task: Task, shape: tuple[int, ...], background: str) -> ImageSet:
    """Open the reference of a task.

    A folder, a tar or a zip is read by the source ``images``, at the size of the samples: the same
    files, squares, conversions and transparency.

    Args:
        task: The task.
        shape: Shape of a sample, [H, W, C]; samples that are no squares of three channels are
            compared with the files as they are.
        background: See `reed.sources.image.images.Images`.

    Raises:
        ReedError: There are no images, or one cannot be read.
    """
    place = task.reference
    is_cache = (place / "manifest.json").is_file()
    is_folder = place.suffix in (".tar", ".zip") or place.is_dir() and not is_cache
    if not is_folder or shape[2:] != (3,) or shape[0] != shape[1]:
        if background:
            raise ReedError(f"--background is for a folder of images, {place} holds read ones")
        return open_images(place, "the reference")

    source = Images(place, shape[0], background=background)
    listing = listed(source)
    if not listing:
        raise ReedError(f"cannot read the reference from {place}: no cache, and no image in it")
    if message := Account.of(listing.passed).line:
        task.say(f"{place}: {message}")

    # The digest names the statistics that are kept, so all that the pixels depend on is part of it.
    keys, digest = sorted(listing), hashlib.sha256(f"{shape[0]} {background}\n".encode())
    bar = tqdm(keys, f"hashing {place.name}", unit="file", delay=2, dynamic_ncols=True)
    with ThreadPoolExecutor(decoders()) as pool:
        hashes = pool.map(
            lambda key: hashlib.sha256(_read(source.content, place, key)).hexdigest(), keys
        )
        for key, content in zip(bar, hashes, strict=True):
            digest.update(f"{key}\0{content}\n".encode())

    def read(batch: int, share: Share = ALL) -> Iterator[np.ndarray]:
        entry = source.entries[0]  # the pixels
        pixels = partial(_read, lambda key: source.read(key)[entry], place)
        with ThreadPoolExecutor(decoders()) as pool:
            for first in share.of(range(0, len(keys), batch)):
                yield np.stack(list(pool.map(pixels, keys[first : first + batch])))

    return ImageSet(place, "folder", len(keys), shape, digest.hexdigest(), read, lambda: None)


def _read(function: Callable[[str], T], place: Path, key: str) -> T:
    """Call a function with a key; ReedError names the file if it is no sample."""
    try:
        return function(key)
    except BadSample as error:
        raise ReedError(
            f"{place / key} cannot be a reference: {error}; mend it or move it away"
        ) from error
