"""Folders, zips, tars and tables of images: a data set of squares with labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from re import split
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.errors import ReedError
from reed.sources import SOURCES
from reed.sources.image.crop import MAX_PIXELS, square
from reed.sources.image.labels import read_labels
from reed.sources.image.layouts import SPLITS, Layout, Raw, Tree, Zip, is_image, scan
from reed.sources.image.parquet import Parquet
from reed.sources.image.tars import Tars

PACKED: dict[str, Callable[[Sequence[Path]], Layout]] = {
    ".zip": lambda paths: Zip(paths[0]),
    ".tar": Tars,
    ".parquet": Parquet,
}


@SOURCES.register("images")
@dataclass(frozen=True)
class Images:
    """Images of any size as squares of one size, with their classes where there are any.

    image: uint8 [resolution, resolution, 3], the middle of the image (reed.sources.image.crop),
    left and right swapped in the second view; label: int; caption: str, where one stands beside it.

    data: a folder tree of image files, a zip of one, WebDataset tars or parquet files (a file,
    a folder of them, or a pattern such as ``data/train-*.tar``); labels: a class file that names
    every key (reed.sources.image.labels), otherwise the class is what stands beside the image, or
    the place of its top folder among all top folders, sorted; max_pixels: larger images fail.

    exif: turn images as their EXIF tag says. Off, because the public trainers that published
    numbers are compared with decode a few of ImageNet's photographs lying on their side.
    """

    data: Path | None = None
    resolution: int = 256
    labels: Path | None = None
    exif: bool = False
    max_pixels: int = MAX_PIXELS

    views = 2

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise ReedError(f"images: resolution is {self.resolution}, it must be at least 1")
        if not 1 <= self.max_pixels <= MAX_PIXELS:
            problem = f"images: max_pixels is {self.max_pixels}"
            raise ReedError(f"{problem}, it must be from 1 to {MAX_PIXELS}, Pillow's own limit")

    @property
    def entries(self) -> tuple[str, ...]:
        """image, and label and caption where the data has them."""
        return _opened(self).entries

    def listing(self) -> dict[str, str]:
        """Every key with its stamp (see the layouts), which a class file's label is part of."""
        _opened.cache_clear()  # the data may have changed since another listing
        opened = _opened(self)
        stamps = opened.layout.stamps()
        if opened.table is not None:
            return {key: f"{stamp}:{opened.table.get(key)}" for key, stamp in stamps.items()}
        used = {key.partition("/")[0] for key in stamps}
        for name in opened.folders:
            if name not in used:
                problem = f"{self.data}: the class folder {name!r} holds no image"
                raise ReedError(f"{problem}; remove it, or it would shift the classes after it")
        return stamps

    def read(self, key: str, view: int = 0) -> Mapping[str, Any]:
        """What `entries` names, made when it is looked up; BadSample with the reason then."""
        return _Sample(self, key, view)

    def image(self, raw: Raw, view: int) -> np.ndarray:
        """The decoded square, mirrored in view 1."""
        image = square(raw.image, self.resolution, exif=self.exif, max_pixels=self.max_pixels)
        return image[:, ::-1].copy() if view else image


class _Sample(Mapping[str, Any]):
    """One view of a sample: a column of labels decodes no image."""

    def __init__(self, source: Images, key: str, view: int) -> None:
        self._source, self._key, self._view = source, key, view
        self._opened = _opened(source)
        self._raw = self._opened.layout.raw(key)

    def __getitem__(self, entry: str) -> Any:
        if entry not in self._opened.entries:
            raise KeyError(entry)
        if entry == "image":
            return self._source.image(self._raw, self._view)
        if entry == "label":
            return self._opened.label(self._key, self._raw)
        if self._raw.caption is None:
            raise BadSample("has no caption beside it, the first image has")
        return self._raw.caption

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened.entries)

    def __len__(self) -> int:
        return len(self._opened.entries)


@dataclass(frozen=True)
class _Opened:
    """The data behind a source, as one process sees it.

    table: key -> class of the class file; folders: top folder -> class.
    """

    layout: Layout
    table: dict[str, int] | None
    folders: dict[str, int]

    @property
    def entries(self) -> tuple[str, ...]:
        beside = self.layout.beside
        has_label = self.table is not None or self.folders or "label" in beside
        found = {"image": True, "label": has_label, "caption": "caption" in beside}
        return tuple(entry for entry, is_there in found.items() if is_there)

    def label(self, key: str, raw: Raw) -> int:
        if self.table is not None:
            label, problem = self.table.get(key), "the class file does not name it"
        elif self.folders:
            folder, slash, _ = key.partition("/")
            label = self.folders.get(folder) if slash else None
            problem = "lies beside the class folders, in none of them"
        else:
            label, problem = raw.label, "has no class beside it, the first image has"
        if label is None:
            raise BadSample(problem)
        if label < 0:
            raise BadSample(f"its class is {label}: it has none")
        return label


@lru_cache(maxsize=4)  # per process: a source that was sent to another one opens its data there
def _opened(source: Images) -> _Opened:
    if source.data is None:
        raise ReedError("images: name the folder, zip, tars or parquet files with --data")
    layout = _recognise(source.data)
    table = read_labels(source.labels) if source.labels else None
    if source.labels and table is None:
        raise ReedError(f"the class file {source.labels} has no labels")
    names = [] if table is not None else layout.classes
    if names and SPLITS.issuperset(names):
        problem = f"{source.data} holds {' and '.join(names)}, not classes"
        raise ReedError(f"{problem}: name one of them, --data {source.data}/{names[0]}")
    return _Opened(layout, table, {name: label for label, name in enumerate(names)})


def _recognise(data: Path) -> Layout:
    """The layout of a path or pattern; ReedError when it is none or not one alone."""
    if "*" in data.name:
        packed = sorted(data.parent.glob(data.name))
    elif data.is_dir():
        packed = _packed(data) or _packed(data / "data")
    else:
        packed = [data]
    if not packed and data.is_dir():
        return Tree(data)
    if not packed or not packed[0].is_file():
        raise ReedError(f"there is nothing at {data}: name the data with --data")
    kinds = sorted({path.suffix.lower() for path in packed})
    if len(kinds) > 1 or (kinds == [".zip"] and len(packed) > 1):
        names = ", ".join(path.name for path in packed[:4])
        raise ReedError(f"{data} holds several data sets ({names}, …): name one of them")
    if kinds[0] not in PACKED:
        known = ", ".join(PACKED)
        raise ReedError(f"{packed[0]} is none of {known}, nor a folder: unpack or convert it")
    splits = {part for path in packed for part in split(r"[-_.]", path.stem) if part in SPLITS}
    if len(splits) > 1:
        first = f'--data "{packed[0].parent}/*{min(splits)}*{kinds[0]}"'
        raise ReedError(f"{data} holds the splits {', '.join(sorted(splits))}: name one, {first}")
    return PACKED[kinds[0]](packed)


def _packed(folder: Path) -> list[Path]:
    """The archives and tables in a folder; ReedError when images or folders lie beside them."""
    there = scan(folder) if folder.is_dir() else []
    packed = sorted(e.name for e in there if os.path.splitext(e.name)[1].lower() in PACKED)
    for entry in there if packed else ():
        if is_image(entry.name) or entry.is_dir():
            both = f"both {packed[0]} and {entry.name}"
            raise ReedError(f"{folder} holds {both}: name what is meant with --data")
    return [folder / name for name in packed]
