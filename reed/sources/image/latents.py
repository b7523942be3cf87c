"""The source ``repa-folder``: folders written by REPA's and EDM2's tools, not encoded again.

ROOT/images/00012/img00012345.png             256 x 256, RGB
ROOT/vae-sd/00012/img-mean-std-00012345.npy   float32 [8, 32, 32]: mean and std of the latent
ROOT/vae-sd/dataset.json                      {"labels": [["00012/img-mean-std-….npy", 7], …]}
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.errors import ReedError
from reed.sources import SOURCES
from reed.sources.image.crop import decode
from reed.sources.image.labels import read_labels
from reed.sources.image.trees import walk

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MOMENTS_PREFIX = "img-mean-std-"  # replaces IMAGE_PREFIX in the name of an image
IMAGE_PREFIX = "img"


@SOURCES.register("repa-folder")
@dataclass(frozen=True)
class RepaFolder:
    """Images, VAE latents and labels from a folder that REPA's or EDM2's tools wrote.

    Its entries:

    - ``image``: uint8 [H, W, 3], if there is a folder ``images``.
    - ``moments``: float32 [2C, h, w], the mean and the standard deviation.
    - ``label``: int, if a dataset.json has labels.

    A key is the image's path without its suffix ("00012/img00012345"). A sample that lacks one of
    the entries fails. There is no mirrored view, because a latent cannot be mirrored.

    Attributes:
        data: The folder that holds ``images`` and the latents.
        latents: Name of the folder in it that holds the moments.
    """

    data: Path | None = None
    latents: str = "vae-sd"

    views = 1

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the entries that the folder has: ``image``, ``moments``, ``label``."""
        opened = _opened(self)
        available = {
            "image": opened.images is not None,
            "moments": True,
            "label": opened.labels is not None,
        }
        return tuple(entry for entry, is_there in available.items() if is_there)

    def listing(self) -> dict[str, str]:
        """Return every key that has an image, moments or a label.

        The stamp consists of the two file sizes and the label.
        """
        _opened.cache_clear()  # the data may have changed since the last listing
        opened = _opened(self)
        images = _sizes(opened.images, IMAGE_SUFFIXES) if opened.images else {}
        moments, labels = _sizes(opened.moments, (".npy",)), opened.labels or {}
        keys = sorted({*images, *moments, *labels})
        return {k: f"{images.get(k)}+{moments.get(k)}:{labels.get(k)}" for k in keys}

    def read(self, key: str, view: int = 0) -> dict[str, Any]:
        """Return the entries of one sample.

        Raises:
            BadSample: An entry is missing or damaged.
        """
        assert view == 0, "there is one view"
        opened = _opened(self)
        sample: dict[str, Any] = {}

        if opened.images is not None:
            content = _content(opened.images, [key + suffix for suffix in IMAGE_SUFFIXES])
            sample["image"] = np.array(decode(content))

        # The names of latents differ between the tools, so both forms are tried.
        sample["moments"] = _moments(_content(opened.moments, _moments_names(key)))
        if opened.labels is not None:
            if key not in opened.labels:
                raise BadSample("dataset.json has no label for it")
            sample["label"] = opened.labels[key]
        return sample


@dataclass(frozen=True)
class _Opened:
    images: Path | None
    moments: Path
    labels: dict[str, int] | None


@lru_cache(maxsize=4)  # per process
def _opened(source: RepaFolder) -> _Opened:
    if source.data is None:
        raise ReedError("repa-folder: name the folder around images/ and vae-sd/ with --data")
    images, moments = source.data / "images", source.data / source.latents
    if not moments.is_dir():
        raise ReedError(f"{source.data} has no folder {source.latents!r} of latents (.npy)")
    folders = [folder for folder in (moments, images) if folder.is_dir()]
    return _Opened(images if images in folders else None, moments, _labels(folders))


def _labels(folders: Iterable[Path]) -> dict[str, int] | None:
    """Return the class of every key in the dataset.json files; None if they have no labels.

    Raises:
        ReedError: Two names of one key have different labels.
    """
    labels: dict[str, int] = {}
    tables = [read_labels(f / "dataset.json") for f in folders if (f / "dataset.json").is_file()]
    for table in tables:
        for name, label in (table or {}).items():
            key = key_of(name.replace("\\", "/"))
            if labels.setdefault(key, label) != label:
                problem = (
                    f"the label of {key!r} is {labels[key]} by one name and {label} by another"
                )
                raise ReedError(f"{', '.join(map(str, folders))}: {problem} (dataset.json)")
    return labels or None


def key_of(name: str) -> str:
    """Return the key of the file of an image or of its moments."""
    path = PurePosixPath(name)
    stem = path.stem
    if stem.startswith(MOMENTS_PREFIX):
        stem = IMAGE_PREFIX + stem.removeprefix(MOMENTS_PREFIX)
    return str(path.with_name(stem))


def _moments_names(key: str) -> Iterator[str]:
    """Yield the names that the file of the moments of a key may have."""
    path = PurePosixPath(key)
    if path.name.startswith(IMAGE_PREFIX):
        yield f"{path.with_name(MOMENTS_PREFIX + path.name.removeprefix(IMAGE_PREFIX))}.npy"
    yield f"{key}.npy"


def _sizes(folder: Path, suffixes: tuple[str, ...]) -> dict[str, int]:
    """Return the size in bytes of the file of every key; 0 for a link to nothing.

    Raises:
        ReedError: Two files have the same key.
    """
    sizes: dict[str, int] = {}
    for name, entry in walk(folder):
        if name.endswith(suffixes):
            key = key_of(name)
            if key in sizes:
                raise ReedError(f"{folder} has two files for {key!r}, one is {name}; remove one")
            sizes[key] = entry.stat().st_size if os.path.exists(entry.path) else 0
    return sizes


def _content(folder: Path, names: Iterable[str]) -> bytes:
    """Return the content of the first of these files that exists.

    Raises:
        BadSample: None of them exists, or the first that does cannot be read.
    """
    names = list(names)
    for name in names:
        try:
            return (folder / name).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BadSample(f"{folder.name}/{name} cannot be read: {error.strerror}") from error
    raise BadSample(f"{folder.name} has no {names[0]}")


def _moments(content: bytes) -> np.ndarray:
    """Decode the moments of one sample, float32 [2C, h, w]."""
    try:
        moments = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BadSample(f"its moments are not an .npy file: {error}") from error
    moments = np.squeeze(moments, 0) if moments.ndim == 4 and len(moments) == 1 else moments
    if moments.ndim != 3 or len(moments) % 2 or moments.dtype.kind != "f":
        raise BadSample(f"its moments are {moments.dtype} {moments.shape}, not float [2C, h, w]")
    if not np.isfinite(moments).all():
        raise BadSample("its moments are not finite")
    if (moments[len(moments) // 2 :] < 0).any():
        raise BadSample("its standard deviation is negative: are these logarithms of variances?")
    return moments.astype(np.float32)
