"""Tars of images: WebDataset's tars, tars of class folders, and one tar per class."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from reed.build.shard import BadSample
from reed.errors import ReedError
from reed.sources.image.labels import is_name, name_of, number_of
from reed.sources.image.layouts import EMPTY, OUTSIDE, SPLITS, Found, Raw, sifted, wrapping
from reed.sources.image.tar_index import Index, Location, base, index, stem

_NUMBER = re.compile(r"\d+$")  # as in "train-0007": a numbered shard, not a class


class Tars:
    """Images with their class (.cls, or "label" in .json) and caption (.txt, or in .json).

    A key is the name of the tar and of the image in it ("train-0007/n01440764_10026.jpg"), a stamp
    is the offset and size of the image in bytes. A file beside an image has the image's name, or
    that name up to the first dot. The first image decides whether there are classes, and whether
    they are numbers or names; after that, an image without a class fails. If no image has a file
    beside it, the class is the top folder or, for tars that are not numbered shards, the name of
    the tar. A tar is indexed when it is first read.

    Args:
        paths: The tars.
        label: Entry of the JSON that holds the class, instead of ``label``.
    """

    def __init__(self, paths: Sequence[Path], label: str = "") -> None:
        self._paths = {path.stem: path for path in paths}
        if len(self._paths) < len(paths):
            names = ", ".join(path.name for path in paths[:4])
            raise ReedError(f"two tars have one name but for the ending ({names}, …); rename one")
        self._entry = label or "label"
        self._index: Callable[[Path], Index] = lru_cache(maxsize=None)(index)

    @cached_property
    def _first(self) -> dict[str, Any]:
        """The class as it is written and the caption of the first image that can be read."""
        for path in self._paths.values():
            for name in self._index(path).images:
                try:
                    with open(path, "rb") as file:
                        return self._beside(file, path, name)
                except BadSample:  # reported when the sample is read
                    continue
        return {}

    @cached_property
    def _folders(self) -> tuple[str, bool] | None:
        """The path around the class folders, and whether each tar is a class instead.

        None if a file beside an image gives its class, or if there are no classes.
        """
        indices = {tar: self._index(path) for tar, path in self._paths.items()}
        if any(content.beside for content in indices.values()):
            return None

        names = [name for content in indices.values() for name in content.images]
        if any("/" in name for name in names):
            prefix = wrapping(names, {*self._paths, *SPLITS})
            if any("/" in name[len(prefix) :] for name in names):
                return prefix, False

        # ImageNet's tars are called like their class, and so is the beginning of every image.
        images = ((tar, name) for tar, content in indices.items() for name in content.images)
        is_own = all(name.startswith((f"{tar}_", f"{tar}-")) for tar, name in images)
        return ("", True) if names and (is_own or _are_classes(self._paths)) else None

    @property
    def unlabelled(self) -> str:
        """Message for an image without a class."""
        return OUTSIDE if self._folders else "has no class beside it, the first image has"

    @property
    def beside(self) -> tuple[str, ...]:
        available = {
            "label": self._first.get("label") is not None or self._folders is not None,
            "caption": self._first.get("caption") is not None,
        }
        return tuple(entry for entry, is_there in available.items() if is_there)

    @property
    def is_named(self) -> bool:
        return self._folders is not None or is_name(self._first.get("label"))

    def names(self) -> Sequence[str]:
        if not self.is_named:
            return ()
        return sorted({name for tar in self._paths for name in self._names_in(tar)})

    def _names_in(self, tar: str) -> Iterator[str]:
        """Yield the name of the class of every image in a tar."""
        path = self._paths[tar]
        with open(path, "rb") as file:
            for name in self._index(path).images:
                try:
                    label = self._folder(tar, name) or self._beside(file, path, name)["label"]
                    if class_name := name_of(label):
                        yield class_name
                except BadSample:  # reported when the sample is read
                    continue

    def found(self) -> Found:
        stamps: dict[str, str] = {}
        passed: dict[str, list[str]] = {}
        for tar, path in self._paths.items():
            content = self._index(path)
            stamps |= {f"{tar}/{n}": "{}+{}".format(*content.members[n]) for n in content.images}
            if not content.images and not content.passed:
                passed.setdefault(EMPTY, []).append(path.name)
            for reason, names in content.passed.items():
                passed.setdefault(reason, []).extend(f"{tar}/{name}" for name in names)
        return sifted(stamps, passed, next(iter(self._paths.values())).parent)

    def raw(self, key: str) -> Raw:
        tar, _, name = key.partition("/")
        path = self._paths.get(tar)
        if path is None or name not in self._index(path).members:
            raise BadSample(f"not in {path.name if path else 'any of the tars'}")

        # Every call opens the tar anew: a shared handle would move under other threads.
        try:
            with open(path, "rb") as file:
                beside = self._beside(file, path, name)
                image = _content(file, self._index(path).members[name])
        except OSError as error:
            raise BadSample(f"cannot be read: {error.strerror}") from error

        label = self._folder(tar, name) or beside["label"]
        parse = name_of if self.is_named else number_of
        return Raw(image, None if "label" not in self.beside else parse(label), beside["caption"])

    def _folder(self, tar: str, name: str) -> str | None:
        """Return the class of an image by its folder or its tar; None if these give none."""
        if self._folders is None:
            return None
        prefix, is_tar = self._folders
        if is_tar:
            return tar
        top, slash, _ = name[len(prefix) :].partition("/")
        return top if slash else None

    def _beside(self, file: Any, path: Path, name: str) -> dict[str, Any]:
        """Return the class of an image as it is written, and its caption; None if missing."""
        members = self._index(path).members

        def content(suffix: str) -> bytes | None:
            location = members.get(stem(name) + suffix) or members.get(base(name) + suffix)
            return None if location is None else _content(file, location)

        # A sample with a .cls and a .txt does not need its .json, which may not parse.
        label, caption = content(".cls"), content(".txt")
        table = _json(content(".json")) if None in (label, caption) else {}
        text = table.get("caption") if caption is None else _text(caption)
        return {
            "label": table.get(self._entry) if label is None else _text(label),
            "caption": text if isinstance(text, str) else None,
        }


def _are_classes(tars: Collection[str]) -> bool:
    """Whether tars are named by classes: there are several, and no two differ only in a number."""
    sets = {_NUMBER.sub("", tar) for tar in tars}
    return len(tars) > 1 and len(sets) == len(tars)


def _content(file: Any, location: Location) -> bytes:
    offset, size = location
    file.seek(offset)
    return file.read(size)


def _text(content: bytes) -> str:
    """Return text without the byte order mark, which is no part of a class or caption."""
    return content.decode("utf-8-sig", errors="replace")


def _json(content: bytes | None) -> dict[str, Any]:
    """Parse the .json beside an image; empty if there is none, or if it is not an object."""
    try:
        table = json.loads(content) if content else {}
    except (ValueError, RecursionError) as error:
        raise BadSample(f"the .json beside it does not parse: {error}") from error
    return table if isinstance(table, dict) else {}
