"""Tars of images: WebDataset's, whose members share a name, or folders, or one per class."""

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
from reed.sources.image.layouts import OUTSIDE, SPLITS, Found, Raw, sifted, wrapping
from reed.sources.image.tar_index import Index, base, index, stem

_NUMBER = re.compile(r"\d+$")  # of "train-0007", one of several that are no classes


class Tars:
    """Images with their class (.cls, or "label" in .json) and caption (.txt, or in .json).

    A key is the name of the tar and of the image in it ("train-0007/n01440764_10026.jpg"), a
    stamp its place and size in bytes. What stands beside an image has its name, or that up to the
    first dot. Whether classes are numbers or names is read off the first one; from then on an
    image without one fails. Where nothing stands beside images, the class is the top folder or,
    of tars that are no numbered shards, the name of the tar. Tars are indexed when first read from.
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
        """What stands beside the first image: its class as it is written, and its caption."""
        for path in self._paths.values():
            for name in self._index(path).images:
                try:
                    with open(path, "rb") as file:
                        return self._beside(file, path, name)
                except BadSample:  # told when it is read
                    continue
        return {}

    @cached_property
    def _folders(self) -> tuple[str, bool] | None:
        """Where classes are folders: what lies around these, and whether each tar is a class.

        None where something stands beside the images, or where there are no classes.
        """
        indices = {tar: self._index(path) for tar, path in self._paths.items()}
        if any(each.beside for each in indices.values()):
            return None
        names = [name for each in indices.values() for name in each.images]
        if any("/" in name for name in names):
            prefix = wrapping(names, {*self._paths, *SPLITS})
            if any("/" in name[len(prefix) :] for name in names):
                return prefix, False
        images = ((tar, name) for tar, each in indices.items() for name in each.images)
        is_own = all(name.startswith((f"{tar}_", f"{tar}-")) for tar, name in images)
        return ("", True) if names and (is_own or _are_classes(self._paths)) else None

    @property
    def unlabelled(self) -> str:
        """What is to be said of an image without a class."""
        return OUTSIDE if self._folders else "has no class beside it, the first image has"

    @property
    def beside(self) -> tuple[str, ...]:
        found = {
            "label": self._first.get("label") is not None or self._folders is not None,
            "caption": self._first.get("caption") is not None,
        }
        return tuple(entry for entry, is_there in found.items() if is_there)

    @property
    def is_named(self) -> bool:
        return self._folders is not None or is_name(self._first.get("label"))

    def names(self) -> Sequence[str]:
        if not self.is_named:
            return ()
        return sorted({name for tar in self._paths for name in self._names_in(tar)})

    def _names_in(self, tar: str) -> Iterator[str]:
        path = self._paths[tar]
        with open(path, "rb") as file:
            for name in self._index(path).images:
                try:
                    label = self._folder(tar, name) or self._beside(file, path, name)["label"]
                    if found := name_of(label):
                        yield found
                except BadSample:  # told when it is read
                    continue

    def found(self) -> Found:
        stamps: dict[str, str] = {}
        passed: dict[str, list[str]] = {}
        for tar, path in self._paths.items():
            each = self._index(path)
            stamps |= {f"{tar}/{n}": "{}+{}".format(*each.members[n]) for n in each.images}
            for reason, names in each.passed.items():
                passed.setdefault(reason, []).extend(f"{tar}/{name}" for name in names)
        return sifted(stamps, passed, next(iter(self._paths.values())).parent)

    def raw(self, key: str) -> Raw:
        tar, _, name = key.partition("/")
        path = self._paths.get(tar)
        if path is None or name not in self._index(path).members:
            raise BadSample(f"not in {path.name if path else 'any of the tars'}")
        try:
            with open(path, "rb") as file:
                beside = self._beside(file, path, name)
                image = _content(file, self._index(path).members[name])
        except OSError as error:
            raise BadSample(f"cannot be read: {error.strerror}") from error
        label = self._folder(tar, name) or beside["label"]
        of = name_of if self.is_named else number_of
        return Raw(image, None if "label" not in self.beside else of(label), beside["caption"])

    def _folder(self, tar: str, name: str) -> str | None:
        """The class that the folder of an image is, or its tar."""
        if self._folders is None:
            return None
        prefix, is_tar = self._folders
        if is_tar:
            return tar
        top, slash, _ = name[len(prefix) :].partition("/")
        return top if slash else None

    def _beside(self, file: Any, path: Path, name: str) -> dict[str, Any]:
        """The class of an image as it is written, and its caption; None for what is not there."""
        members = self._index(path).members

        def content(suffix: str) -> bytes | None:
            place = members.get(stem(name) + suffix) or members.get(base(name) + suffix)
            return None if place is None else _content(file, place)

        label, caption = content(".cls"), content(".txt")
        about = _json(content(".json")) if None in (label, caption) else {}
        text = about.get("caption") if caption is None else caption.decode(errors="replace")
        return {
            "label": about.get(self._entry) if label is None else label.decode(errors="replace"),
            "caption": text if isinstance(text, str) else None,
        }


def _are_classes(tars: Collection[str]) -> bool:
    """Whether names of tars are those of classes: several, and no numbered parts of one set."""
    sets = {_NUMBER.sub("", tar) for tar in tars}
    return len(tars) > 1 and len(sets) == len(tars)


def _content(file: Any, place: tuple[int, int]) -> bytes:
    file.seek(place[0])
    return file.read(place[1])


def _json(content: bytes | None) -> dict[str, Any]:
    try:
        table = json.loads(content) if content else {}
    except (ValueError, RecursionError) as error:
        raise BadSample(f"the .json beside it does not parse: {error}") from error
    return table if isinstance(table, dict) else {}
