"""The source ``images``: folders, zips, tars and parquet files, read as squares with labels."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.build.source import Listing
from reed.cache.plan import unfit
from reed.errors import ReedError, at_least
from reed.sources import SOURCES
from reed.sources.image import places
from reed.sources.image.crop import MAX_PIXELS, check_colour, square
from reed.sources.image.labels import read_labels
from reed.sources.image.layouts import SPLITS, Layout, Passed, Raw
from reed.sources.image.trees import Tree
from reed.sources.image.zips import Zip
from reed.wording import counted, named

_SURROGATE = re.compile("[\ud800-\udfff]")
MOST = 2**63 - 1  # the greatest class that a column of labels can hold
# Names of folders that hold the parts of samples and are not classes.
ROLES = {"image", "images", "img", "imgs", "mask", "masks", "annotation", "annotations", "labels"}


@SOURCES.register("images")
@dataclass(frozen=True)
class Images:
    """Images of any size, resized and cropped to squares, with class labels if there are any.

    Its entries:

    - ``image``: uint8 [resolution, resolution, 3], the middle of the image
      (reed.sources.image.crop); the second view has left and right swapped.
    - ``label``: int, the class, if the data has classes.
    - ``caption``: str, if the data has captions beside the images.

    Attributes:
        data: A folder tree of image files, a zip of one, tars or parquet files (a file, a folder
            of them, or a pattern such as ``data/train-*.tar``).
        resolution: Side of the squares in pixels.
        labels: A class file that names every key (reed.sources.image.labels). Without one, the
            class is stored beside the image, or is its top folder.
        label: Column of parquet files, or entry of the JSON in tars, that holds the class.
        classes: Names of classes by number, such as those that a cache has frozen. Names that are
            not among them follow, sorted.
        exif: Whether to turn images as their EXIF tag says. It is off by default, because the
            public trainers behind the published numbers ignore the tag, so that a few photographs
            of ImageNet lie on their side.
        max_pixels: Images with more pixels fail.
        background: Colour that shows through where an image is transparent, such as ``white`` or
            ``#808080``. By default, alpha is dropped, as in the public trainers: then the colours
            show that it hides, which often are black.
        one_class: Whether all images have the class 0 if the data has no classes.
    """

    data: Path | None = None
    resolution: int = 256
    labels: Path | None = None
    label: str = ""
    classes: tuple[str, ...] = ()
    exif: bool = False
    max_pixels: int = MAX_PIXELS
    background: str = ""
    one_class: bool = False

    views = 2

    def __post_init__(self) -> None:
        at_least(1, "images: ", resolution=self.resolution)
        if not 1 <= self.max_pixels <= MAX_PIXELS:
            problem = f"images: max_pixels is {self.max_pixels}"
            raise ReedError(f"{problem}, it must be from 1 to {MAX_PIXELS}, Pillow's own limit")
        check_colour(self.background)

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the entries: ``image``, and ``label`` and ``caption`` if the data has them."""
        return _opened(self).entries

    def listing(self) -> Listing:
        """Return every key with its stamp (see the layouts).

        If there is a class file, the label of a key is part of its stamp.

        Raises:
            ReedError: A class folder of a folder tree holds no image.
        """
        _opened.cache_clear()  # the data may have changed since the last listing
        opened = _opened(self)
        found = opened.layout.found()
        passed = {reason: sorted(names) for reason, names in found.passed.items()}
        for reason, names in opened.passed.items():
            passed.setdefault(reason, []).extend(names)

        counts = {what: len(names) for what, names in found.odd.items() if names}
        if opened.table is not None:
            stamps = {
                key: f"{stamp}:{opened.table.get(key)}" for key, stamp in found.stamps.items()
            }
            passed = self._without_class_file(passed)
            return Listing(stamps, passed, counts=counts, examples=found.odd)

        names = [name for name in opened.layout.names() if not unfit([name])]
        if opened.layout.is_named:
            self._check_folders(names, found.stamps)
            known = set(self.classes)  # these keep their numbers; new names follow
            names = [*self.classes, *(name for name in names if name not in known)]
        passed = self._without_class_file(passed)
        return Listing(found.stamps, passed, names, counts, found.odd)

    def why_lacking(self, entry: str) -> str:
        """Return why there is no such entry, for messages; empty if nothing is known."""
        if entry != "caption":
            return ""
        layout = _opened(self).layout
        names = getattr(layout, "uncaptioned", ())
        if not names:
            return getattr(layout, "no_captions", "")
        return (
            f"not every image has one: {counted(len(names), 'image')} without it ({named(names)})"
        )

    def _check_folders(self, names: Sequence[str], stamps: Iterable[str]) -> None:
        """Refuse an empty class folder, which would shift the numbers of the classes after it."""
        if not isinstance(_opened(self).layout, Tree):
            return
        used = {key.partition("/")[0] for key in stamps}
        for name in names:
            if name not in used and name not in self.classes:
                problem = f"{self.data}: the class folder {name!r} holds no image"
                raise ReedError(f"{problem}; remove it, or it would shift the classes after it")

    def _without_class_file(self, passed: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Remove the class file from the files that were passed over."""
        class_file = (
            self.labels and self.data and Path(os.path.relpath(self.labels, self.data)).as_posix()
        )
        return {reason: [n for n in names if n != class_file] for reason, names in passed.items()}

    def read(self, key: str, view: int = 0) -> Mapping[str, Any]:
        """Return one view of a sample, whose entries are made when they are looked up.

        Args:
            key: Key of the sample.
            view: 0, or 1 for the mirrored image.

        Raises:
            BadSample: The sample cannot be read; looking up an entry may raise it, too.
        """
        return _Sample(self, key, view)

    def content(self, key: str) -> bytes:
        """Return the bytes of the image file of a sample; BadSample if it cannot be read."""
        return _opened(self).layout.raw(key).image

    def image(self, raw: Raw, view: int, notes: list[str] | None = None) -> np.ndarray:
        """Return the decoded square, mirrored in view 1; for notes see `crop.decode`."""
        image = square(
            raw.image,
            self.resolution,
            exif=self.exif,
            max_pixels=self.max_pixels,
            background=self.background,
            notes=notes,
        )
        return image[:, ::-1].copy() if view else image


class _Sample(Mapping[str, Any]):
    """One view of a sample, lazy so that a column of labels decodes no image."""

    def __init__(self, source: Images, key: str, view: int) -> None:
        self._source, self._key, self._view = source, key, view
        self._opened = _opened(source)
        self._raw = self._opened.layout.raw(key)
        self.notes: list[str] = []

    def __getitem__(self, entry: str) -> Any:
        # To look up what entries there are may list all files, so it comes last.
        if entry == "image":
            return self._source.image(self._raw, self._view, self.notes)
        is_labelled = self._raw.label is not None or self._opened.table is not None
        if not (entry == "label" and is_labelled) and entry not in self._opened.entries:
            raise KeyError(entry)
        if entry == "label":
            return self._opened.label(self._key, self._raw)
        if self._raw.caption is None:
            raise BadSample("has no caption beside it, the first image has")
        if _SURROGATE.search(self._raw.caption):
            raise BadSample("its caption holds half of a surrogate pair, which is not valid text")
        return self._raw.caption

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened.entries)

    def __len__(self) -> int:
        return len(self._opened.entries)


@dataclass(frozen=True)
class _Opened:
    """The data behind a source, as one process sees it.

    Attributes:
        layout: How the images are stored.
        passed: Files beside archives that are passed over, by reason.
        table: The class of every key in the class file; None without a class file.
        known: Names of classes by number that are fixed already; may be empty.
        one_class: Whether all images have the class 0 if the data has no classes.
    """

    layout: Layout
    passed: Passed
    table: dict[str, int] | None
    known: tuple[str, ...]
    one_class: bool

    @cached_property
    def entries(self) -> tuple[str, ...]:
        """Names of the entries that every sample has."""
        beside = self.layout.beside
        has_label = self.table is not None or "label" in beside
        has_label = has_label or self.one_class
        available = {"image": True, "label": has_label, "caption": "caption" in beside}
        return tuple(entry for entry, is_there in available.items() if is_there)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of every class that has a name."""
        return {name: number for number, name in enumerate(self.known or self.layout.names())}

    def label(self, key: str, raw: Raw) -> int:
        """Return the class of a sample.

        Raises:
            BadSample: The sample has no class, or one that cannot be stored.
        """
        if self.table is not None:
            label, problem = self.table.get(key), "the class file does not name it"
        else:
            label, problem = raw.label, self.layout.unlabelled
        if label is None:
            if self.one_class and self.table is None and "label" not in self.layout.beside:
                return 0
            raise BadSample(problem)

        if isinstance(label, str):
            if label not in self.numbers:
                raise BadSample(
                    f"its class {label!r} is not among the {len(self.numbers)} known classes"
                )
            return self.numbers[label]

        # Some tables write -1 for "no class".
        if label < 0:
            raise BadSample(f"its class is {label}: negative numbers mean that it has none")
        if label > MOST:
            raise BadSample(f"its class is {str(label)[:20]}…, the greatest possible is {MOST}")
        return label


@lru_cache(maxsize=4)  # per process: a source that is sent to another process opens its data there
def _opened(source: Images) -> _Opened:
    if source.data is None:
        raise ReedError("images: name the folder, zip, tars or parquet files with --data")
    layout, passed = places.recognise(source.data, source.label)
    table = read_labels(source.labels) if source.labels else None
    if source.labels and table is None:
        raise ReedError(f"the class file {source.labels} has no labels")

    # A folder above the class folders is an easy mistake, and would give two or three "classes".
    names = layout.names() if table is None and isinstance(layout, Tree | Zip) else ()
    for not_classes in (SPLITS, ROLES):
        if names and not_classes.issuperset(names):
            problem = f"{source.data} holds {' and '.join(names)}, not classes"
            raise ReedError(f"{problem}: name one of them, --data {source.data}/{names[0]}")
    return _Opened(layout, passed, table, source.classes, source.one_class)
