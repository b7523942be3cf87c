"""Sets of images from an .npz file, a folder or a cache, read in batches."""

from __future__ import annotations

import hashlib
import io
import math
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from reed.build.engines import Share
from reed.bytes import file_sha256
from reed.cache import schema
from reed.cache.account import Account
from reed.cache.opened import Cache, open_cache
from reed.errors import ReedError
from reed.image_files import SUFFIXES, begins_like_one, by_reason, is_image
from reed.metrics import image_tars
from reed.metrics.ahead import ALL, Reader, decoders
from reed.picture import to_uint8

STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")  # arrays in a reference file of the ADM suite


@dataclass(frozen=True)
class ImageSet:
    """A set of images of one size.

    Attributes:
        place: The .npz, .npy or .tar file, the folder or the cache.
        kind: ``npz``, ``npy``, ``tars``, ``folder`` or ``cache``.
        num: Number of images; 0 if the file holds statistics only.
        shape: Shape of an image, [H, W, C].
        sha256: Hash of the content.
        read: Function that yields the images in batches.
        labels: Function that returns the classes of the images, or None without classes.
        statistics: The entries of STATISTICS in an ADM reference file, which describe the whole
            training set.
    """

    place: Path
    kind: str
    num: int
    shape: tuple[int, ...]
    sha256: str
    read: Reader
    labels: Callable[[], np.ndarray | None]
    statistics: dict[str, np.ndarray] = field(default_factory=dict)

    def all(self) -> np.ndarray:
        """Return all images, uint8 [N, H, W, C].

        Raises:
            ReedError: The set holds statistics only.
        """
        if not self.num:
            raise ReedError(f"{self.place} holds statistics and no images")
        return np.concatenate(list(self.read(256)))


def open_images(place: Path, what: str = "images") -> ImageSet:
    """Open an .npz, .npy or .tar file, a cache, or a folder of image files or of tars.

    Args:
        place: The file or folder.
        what: Description of the images, for messages.

    Raises:
        ReedError: There are no images, or they differ in size.
    """
    if not place.exists():
        raise ReedError(f"cannot read {what} from {place}: there is nothing")
    if place.suffix == ".npy":
        return _npy(place, what)
    if tars := image_tars.tars_at(place):
        return _tars(place, image_tars.members(tars, what))
    if place.is_file():
        return _npz(place, what)
    return _cache(place) if (place / "manifest.json").is_file() else _folder(place, what)


def has_images(path: Path) -> bool:
    """Whether a file is an .npz with images or with statistics of images."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as members:
        names = {name.removesuffix(".npy") for name in members.namelist()}
    return bool(names & {"arr_0", *STATISTICS})


def _npy(path: Path, what: str) -> ImageSet:
    """Open an .npy file with one array of images, without loading all of it."""
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
            form = f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"it is {form}, images are uint8 [N, H, W, C]")
    except (OSError, EOFError, ValueError) as error:
        raise ReedError(f"cannot read {what} from {path}: {error}") from error

    def read(batch: int, share: Share = ALL) -> Iterator[np.ndarray]:
        for first in share.of(range(0, len(images), batch)):
            yield np.array(images[first : first + batch])

    digest = file_sha256(path)
    return ImageSet(path, "npy", len(images), images.shape[1:], digest, read, lambda: None)


def _npz(path: Path, what: str) -> ImageSet:
    """Open a file of reed-sample or the ADM suite, without loading its images (arr_0) at once."""
    if not zipfile.is_zipfile(path):
        raise ReedError(
            f"cannot read {what} from {path}: it is no .npz, .npy, .tar, folder or cache"
        )

    # A reference file of the ADM suite may hold statistics and no images.
    try:
        with zipfile.ZipFile(path) as members, np.load(path, allow_pickle=False) as arrays:
            statistics = {name: arrays[name] for name in STATISTICS if name in arrays}
            labels = arrays["arr_1"] if "arr_1" in arrays else None
            num, shape = 0, ()
            if "arr_0" in arrays or not statistics:
                (num, *shape), dtype = _header(members)
                if len(shape) != 3 or dtype != np.uint8 or not num:
                    hint = "; latents have to be decoded first" if dtype.kind == "f" else ""
                    form = f"arr_0 is {dtype} {[num, *shape]}"
                    raise ValueError(f"{form}, images are uint8 [N, H, W, C]{hint}")
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ReedError(f"cannot read {what} from {path}: {error}") from error

    digest = file_sha256(path)
    return ImageSet(
        path, "npz", num, tuple(shape), digest, partial(_read_npz, path), lambda: labels, statistics
    )


def _header(members: zipfile.ZipFile) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and dtype of arr_0."""
    with members.open("arr_0.npy") as file:
        first = np.lib.format.read_magic(file) == (1, 0)
        form = np.lib.format
        shape, by_column, dtype = (
            form.read_array_header_1_0 if first else form.read_array_header_2_0
        )(file)
    if by_column and len(shape) > 1:
        raise ValueError("arr_0 is stored column by column; save it in C order")
    return shape or (0,), dtype


def _read_npz(path: Path, batch: int, share: Share = ALL) -> Iterator[np.ndarray]:
    try:
        with zipfile.ZipFile(path) as members, members.open("arr_0.npy") as file:
            (num, *shape), _ = _header(members)
            size = math.prod(shape)
            # The pixels are the end of the file; the header before them has no fixed length.
            begin = members.getinfo("arr_0.npy").file_size - num * size
            for first in share.of(range(0, num, batch)):
                file.seek(begin + first * size)
                count = min(batch, num - first)
                content = np.frombuffer(file.read(count * size), np.uint8)
                yield content.reshape(count, *shape)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ReedError(f"cannot read images from {path}: {error}") from error


def _folder(folder: Path, what: str) -> ImageSet:
    """Open the image files below a folder, by name; stderr gets a line on other files."""
    below = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    files = sorted(
        path.as_posix() for path in below if not any(p.startswith(".") for p in path.parts)
    )
    names = [n for n in files if is_image(n) or begins_like_one(str(folder / n))]
    if not names:
        problem = f"cannot read {what} from {folder}: it is no cache, and no file in it ends in"
        raise ReedError(f"{problem} {', '.join(SUFFIXES)}")

    # A file in an unknown format is easily missed, and would change the measures.
    passed: dict[str, list[str]] = {}
    by_reason(sorted({*files} - {*names}), passed)
    if message := Account.of(passed).line:
        print(f"{folder}: {message}", file=sys.stderr)

    shape = _decode(folder / names[0], None).shape
    digest = hashlib.sha256()
    bar = tqdm(names, f"hashing {folder.name}", unit="file", delay=2, dynamic_ncols=True)
    with ThreadPoolExecutor(decoders()) as pool:
        hashes = pool.map(lambda name: file_sha256(folder / name), names)
        for name, content in zip(bar, hashes, strict=True):
            digest.update(f"{name}\0{content}\n".encode())

    def read(batch: int, share: Share = ALL) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(decoders()) as pool:
            for first in share.of(range(0, len(names), batch)):
                paths = (folder / name for name in names[first : first + batch])
                yield np.stack(list(pool.map(partial(_decode, shape=shape), paths)))

    return ImageSet(folder, "folder", len(names), shape, digest.hexdigest(), read, lambda: None)


def _tars(place: Path, members: image_tars.Members) -> ImageSet:
    """Open the images in tars."""
    first = members.places[0]
    shape = _decoded(members.content(first), f"{first[0]}: {first[3]}").shape

    def read(batch: int, share: Share = ALL) -> Iterator[np.ndarray]:
        return members.read(batch, share, partial(_decoded, shape=shape))

    num, labels = len(members.places), members.labels
    return ImageSet(place, "tars", num, shape, members.sha256, read, lambda: labels)


def _decode(path: Path, shape: tuple[int, ...] | None) -> np.ndarray:
    """Decode one image file; see `_decoded`."""
    return _decoded(path, str(path), shape)


def _decoded(
    file: Path | io.BytesIO, path: str, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """Decode an image called `path`, uint8 [H, W, C]; if ``shape`` is given, it must match."""
    try:
        with Image.open(file) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ReedError(f"cannot decode {path}: {error}") from error
    if mode not in ("L", "RGB"):
        raise ReedError(f"{path} is of mode {mode}; convert it to RGB, or to L for one channel")
    pixels = pixels[..., None] if mode == "L" else pixels
    if shape is not None and pixels.shape != shape:
        sizes = f"{list(pixels.shape)}, the first image {list(shape)}"
        raise ReedError(f"{path} is {sizes}; bring them all to one size")
    return pixels


def _cache(folder: Path) -> ImageSet:
    """Open the images of the first column that holds images."""
    cache = open_cache(folder)
    column, x = _data_column(cache)
    label = next((f for f in column.fields if f.kind == "label"), None)
    markers = [cache.marker(column.name, shard) for shard in range(cache.plan.shards)]
    digest = hashlib.sha256("".join(f"{marker.sha256}\n" for marker in markers).encode())
    channels, height, width = x.sizes

    # The hashes of the shards stand for the content, which is not read again.
    num = sum(len(marker.keys) for marker in markers)

    def read(batch: int, share: Share = ALL) -> Iterator[np.ndarray]:
        records = (value for _, value in cache.records(f"{column.name}/{x.name}"))
        for number in range(-(-num // batch)):
            values = list(islice(records, batch))
            if number % share.world == share.rank:
                yield to_uint8(np.stack(values), x)

    def labels() -> np.ndarray | None:
        if label is None:
            return None
        return np.array([int(n) for _, n in cache.records(f"{column.name}/{label.name}")])

    return ImageSet(
        folder,
        "cache",
        num,
        (height, width, channels),
        digest.hexdigest(),
        read,
        labels,
    )


def _data_column(cache: Cache) -> tuple[schema.Column, schema.Field]:
    """Return the first column with images, and the field that holds them."""
    for column in cache.columns.values():
        for candidate in column.fields:
            shape = candidate.shape
            if candidate.kind == "data" and len(shape) == 3 and None not in shape:
                return column, candidate
    raise ReedError(
        f"{cache.folder} has no column with images to compare with (a cache of latents has none); "
        "name a folder of images or an .npz"
    )
