"""The protocol of ways to store images: keys, stamps, labels and files that are passed over."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from reed import image_files as kinds
from reed.errors import ReedError
from reed.image_files import SUFFIXES
from reed.sources.image import captions
from reed.wording import named

SPLITS = {"train", "training", "val", "valid", "validation", "test"}
OUTSIDE = "lies beside the class folders, in none of them"

# Reasons for passing over members of archives.
ABOVE = "name outside the archive"
TO_NOTHING, TO_FOLDER = "link to nothing", "link to a folder"
EMPTY = "holds nothing"  # the reason for passing over a tar or a parquet file

Passed = dict[str, list[str]]  # names of files that are not samples, by the reason


@dataclass(frozen=True)
class Raw:
    """The stored content of one sample.

    Attributes:
        image: Content of the image file.
        label: Number or name of its class; None if it has no class.
        caption: Its caption; None if it has none.
    """

    image: bytes
    label: int | str | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Found:
    """The samples that a layout holds, and the files that are not samples.

    Attributes:
        stamps: The stamp of every key, sorted by key.
        passed: Names of files that are passed over, by the reason.
        odd: Names of images, by what is odd about their captions.
    """

    stamps: dict[str, str]
    passed: Passed
    odd: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Layout(Protocol):
    """One way of storing images."""

    @property
    def unlabelled(self) -> str:
        """Message for a sample without a label."""
        ...

    @property
    def beside(self) -> tuple[str, ...]:
        """Which of the entries ``label`` and ``caption`` the data has."""
        ...

    @property
    def is_named(self) -> bool:
        """Whether labels are names, not numbers."""
        ...

    def names(self) -> Sequence[str]:
        """Return the names of the classes; empty if they have none.

        They are sorted if labels are names, and in the order of their numbers otherwise.
        """
        ...

    def found(self) -> Found:
        """Return every sample, and the files that are passed over.

        Raises:
            ReedError: There is no sample.
        """
        ...

    def raw(self, key: str) -> Raw:
        """Return one sample, undecoded.

        Raises:
            BadSample: The sample cannot be read; the message is the reason.
        """
        ...


class Folders:
    """Base of folder trees and zips, in which the class is the top folder.

    A caption is in the .txt of the image's name, or in a .jsonl at the top. There are captions if
    every image has one.
    """

    _has_captions: bool | None = None  # None before the files are listed
    uncaptioned: Sequence[str] = ()  # images that have no caption, if others have one
    no_captions: str = ""  # why the .jsonl at the top give no image a caption, if there are any

    @property
    def unlabelled(self) -> str:
        """Message for an image that lies in no class folder."""
        return OUTSIDE

    def names(self) -> Sequence[str]:
        raise NotImplementedError

    @property
    def beside(self) -> tuple[str, ...]:
        if self._has_captions is None:
            self.found()
        has = {"label": bool(self.names()), "caption": bool(self._has_captions)}
        return tuple(entry for entry, is_there in has.items() if is_there)

    def found(self) -> Found:
        raise NotImplementedError

    def captions_in_tables(self) -> dict[str, str]:
        """Return the captions of every .jsonl at the top, by image."""
        raise NotImplementedError

    def _sorted(
        self, stamps: dict[str, str], others: Iterable[str], passed: Passed, where: Path
    ) -> Found:
        """Do what `sifted` does, after telling captions among the other files from the rest."""
        table = self.captions_in_tables()
        images = stamps.keys() - kinds.masks(stamps)
        self._has_captions, used, rest = captions.sorted_out(images, others, table)
        kinds.by_reason(rest, passed)
        if used and not self._has_captions:
            passed.setdefault(captions.PARTIAL, []).extend(sorted(used))
            texts = {key for key in images if captions.beside(key) in used}
            self.uncaptioned = sorted(images - texts - table.keys())
        if not used and (tables := [name for name in rest if captions.is_table(name)]):
            first = f"names none of the images, but {min(table)!r}" if table else ""
            first = first or "has no text in line 1 for an image and its caption"
            self.no_captions = f"{named(tables)} {first}"
        strange = sorted(table.keys() - stamps.keys()) if used else []
        odd = {"captions: missing": self.uncaptioned, "captions: of no image": strange}
        return replace(sifted(stamps, passed, where), odd=odd)

    @property
    def is_named(self) -> bool:
        return bool(self.names())

    def label(self, key: str) -> str | None:
        """Return the name of the class of a key; None outside all folders."""
        folder, slash, _ = key.partition("/")
        return folder if slash else None


def sifted(stamps: dict[str, str], passed: Passed, where: Path) -> Found:
    """Sort the samples by key, and move masks to the files that are passed over.

    Args:
        stamps: The stamp of every key.
        passed: Names of files that are passed over, by the reason; masks are added to it.
        where: The data, for the message.

    Raises:
        ReedError: There are no samples; the message names the endings of the other files.
    """
    if not stamps:
        visible = [name for reason, names in passed.items() if reason != "hidden" for name in names]
        endings = sorted({os.path.splitext(name)[1] or name for name in visible})[:5]
        others = f"; there are {', '.join(endings)}" if endings else ""
        raise ReedError(f"{where} holds no image files ({', '.join(SUFFIXES)}){others}")

    # A mask is named like its image with a word added; it is not an image to train on.
    if masks := kinds.masks(stamps):
        passed.setdefault(kinds.BESIDE, []).extend(sorted(masks))
        stamps = {key: stamp for key, stamp in stamps.items() if key not in masks}
    return Found(dict(sorted(stamps.items())), passed)


def is_debris(name: str) -> bool:
    """Whether a name is that of a hidden file, or of the folder that macOS puts into zips."""
    return name.startswith(".") or name == "__MACOSX"


def plain(name: str) -> str:
    """Return the name of a member without "./", inner "..", double slashes and a first slash."""
    if "./" in name or "//" in name or name[:1] == "/" or name[-3:] == "/..":
        return posixpath.normpath(name).lstrip("/")
    return name


def is_above(name: str) -> bool:
    """Whether a plain name leads out of its archive; such a member is never read."""
    return name == ".." or name.startswith("../")


def target_of(name: str, link: str) -> str:
    """Return the name that a symbolic link leads to; an absolute one leads out of the archive."""
    if link.startswith("/"):
        return link
    return plain(posixpath.join(posixpath.dirname(name), link))


def followed(links: Mapping[str, str], files: Collection[str], passed: Passed) -> dict[str, str]:
    """Return the file that each link within an archive leads to; add others to ``passed``.

    Args:
        links: Target of every link, as a plain name in the archive.
        files: Names of the files.
        passed: Names of members that are passed over, by the reason.
    """
    found: dict[str, str] = {}
    folders: set[str] | None = None
    for name in links:
        target, seen = name, set()
        while target in links and target not in seen:
            seen.add(target)
            target = links[target]
        if target in files:
            found[name] = target
            continue
        if folders is None:  # most archives have no such link
            folders = {"."}.union(*(_folders_of(file) for file in files))
        passed.setdefault(TO_FOLDER if target in folders else TO_NOTHING, []).append(name)
    return found


def _folders_of(name: str) -> set[str]:
    parts = name.split("/")
    return {"/".join(parts[:count]) for count in range(1, len(parts))}


def wrapping(names: Iterable[str], known: set[str]) -> str:
    """Return the folders around all names, with a slash at the end; empty if there are none.

    A folder counts if it holds nothing but folders, or if its name is in ``known``.
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
