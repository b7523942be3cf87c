"""What every way of storing images has: keys, stamps, labels, and what is passed over."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reed import image_files as kinds
from reed.errors import ReedError
from reed.image_files import SUFFIXES

SPLITS = {"train", "training", "val", "valid", "validation", "test"}
OUTSIDE = "lies beside the class folders, in none of them"

Passed = dict[str, list[str]]  # reason -> names of what is no sample


@dataclass(frozen=True)
class Raw:
    """What is stored of one sample: the image file, and what stands beside it.

    label: the number of its class, or its name.
    """

    image: bytes
    label: int | str | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Found:
    """What a layout holds: key -> stamp, sorted by key, and what is no sample."""

    stamps: dict[str, str]
    passed: Passed


class Layout(Protocol):
    """One way of storing images."""

    @property
    def unlabelled(self) -> str:
        """What is wrong with a sample that has no label, for a message."""
        ...

    @property
    def beside(self) -> tuple[str, ...]:
        """Which of "label" and "caption" there are."""
        ...

    @property
    def is_named(self) -> bool:
        """Whether labels are names."""
        ...

    def names(self) -> Sequence[str]:
        """The names of the classes: sorted where labels are names, else by number, if any."""
        ...

    def found(self) -> Found:
        """Every sample, and what is passed over; ReedError when there is none."""
        ...

    def raw(self, key: str) -> Raw:
        """One sample, undecoded; BadSample with the reason when it cannot be read."""
        ...


class Folders:
    """What trees and zips share: the class is the top folder."""

    @property
    def unlabelled(self) -> str:
        """A tree has its classes in folders."""
        return OUTSIDE

    def names(self) -> Sequence[str]:
        raise NotImplementedError

    @property
    def beside(self) -> tuple[str, ...]:
        return ("label",) if self.names() else ()

    @property
    def is_named(self) -> bool:
        return bool(self.names())

    def label(self, key: str) -> str | None:
        """The name of the class of a key; None outside all folders."""
        folder, slash, _ = key.partition("/")
        return folder if slash else None


def sifted(stamps: dict[str, str], passed: Passed, where: Path) -> Found:
    """The samples sorted by key, without masks; ReedError when there are none, naming the rest."""
    if not stamps:
        names = [name for reason, each in passed.items() if reason != "hidden" for name in each]
        types = sorted({os.path.splitext(name)[1] or name for name in names})[:5]
        there = f"; there are {', '.join(types)}" if types else ""
        raise ReedError(f"{where} holds no image files ({', '.join(SUFFIXES)}){there}")
    if masks := kinds.masks(stamps):
        passed.setdefault(kinds.BESIDE, []).extend(sorted(masks))
        stamps = {key: stamp for key, stamp in stamps.items() if key not in masks}
    return Found(dict(sorted(stamps.items())), passed)


def is_debris(name: str) -> bool:
    """Whether a name is that of a hidden file, or of what macOS puts into zips."""
    return name.startswith(".") or name == "__MACOSX"


def wrapping(names: Iterable[str], known: set[str]) -> str:
    """The folders that lie around all names, with a slash behind them; empty without any.

    A folder counts if it holds nothing but folders, or if its name is known.
    """
    prefix = ""
    while True:
        rest = [name[len(prefix) :].split("/") for name in names]
        tops = {parts[0] for parts in rest}
        if len(tops) != 1 or any(len(parts) == 1 for parts in rest):
            return prefix
        (top,) = tops
        if top not in known and any(len(parts) == 2 for parts in rest):
            return prefix
        prefix += f"{top}/"
