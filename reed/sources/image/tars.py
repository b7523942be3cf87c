"""WebDataset tars: members that share a name up to the first dot are one sample."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from reed.build.shard import BadSample
from reed.errors import ReedError
from reed.sources.image.layouts import SUFFIXES, Raw, ordered

_BLOCK = 512  # bytes, of a tar


class Tars:
    """Images with their class (.cls, or "label" in .json) and caption (.txt, or in .json).

    A key is the name of the tar and of the image in it ("train-0007/n01440764_10026.jpg"), a
    stamp its place and size in bytes. Which of the two stand beside the images is read off the
    first one; from then on an image without them fails. Tars are indexed when first read from.
    """

    classes: list[str] = []

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = {path.stem: path for path in paths}
        self._index = lru_cache(maxsize=None)(_index)

    @property
    def beside(self) -> tuple[str, ...]:
        """What stands beside the first image."""
        for path in self._paths.values():
            for name in _images(self._index(path)):
                raw = self._raw(path, name)
                values = {"label": raw.label, "caption": raw.caption}
                return tuple(entry for entry, value in values.items() if value is not None)
        return ()

    def stamps(self) -> dict[str, str]:
        found = {}
        for stem, path in self._paths.items():
            index = self._index(path)
            found |= {f"{stem}/{n}": "{}+{}".format(*index[n]) for n in _images(index)}
        return ordered(found, (), next(iter(self._paths.values())).parent)

    def raw(self, key: str) -> Raw:
        stem, _, name = key.partition("/")
        path = self._paths.get(stem)
        if path is None or name not in self._index(path):
            raise BadSample(f"not in {path.name if path else 'any of the tars'}")
        return self._raw(path, name)

    def _raw(self, path: Path, name: str) -> Raw:
        base = _base(name)
        members = self._index(path)
        try:
            with open(path, "rb") as file:

                def content(suffix: str) -> bytes | None:
                    place = members.get(base + suffix)
                    if place is None:
                        return None
                    file.seek(place[0])
                    return file.read(place[1])

                label, caption = content(".cls"), content(".txt")
                about = _json(content(".json")) if None in (label, caption) else {}
                image = content(name[len(base) :])
        except OSError as error:
            raise BadSample(f"cannot be read: {error.strerror}") from error
        assert image is not None  # its name comes from the index
        text = about.get("caption") if caption is None else caption.decode(errors="replace")
        number = about.get("label") if label is None else label.decode(errors="replace")
        return Raw(image, _class(number), text if isinstance(text, str) else None)


def _base(name: str) -> str:
    """A member's name up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".")[0]


def _images(index: dict[str, tuple[int, int]]) -> Iterator[str]:
    return (name for name in index if name[len(_base(name)) :].lower() in SUFFIXES)


def _class(value: Any) -> int | None:
    try:
        return None if value is None else int(value)
    except (ValueError, TypeError):
        raise BadSample(f"the class beside it is {value!r}, not an integer") from None


def _json(content: bytes | None) -> dict[str, Any]:
    try:
        table = json.loads(content) if content else {}
    except ValueError as error:
        raise BadSample(f"the .json beside it does not parse: {error}") from error
    return table if isinstance(table, dict) else {}


def _index(path: Path) -> dict[str, tuple[int, int]]:
    """Member -> where its bytes begin and how many they are; ReedError if the tar is not whole."""
    found: dict[str, tuple[int, int]] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                # A plain list of all members would keep a kilobyte of each.
                tar.members = []
                end = max(end, member.offset_data + -(-member.size // _BLOCK) * _BLOCK)
                name = member.name.removeprefix("./")
                if member.isreg() and name in found:
                    raise ReedError(f"{path} holds {name!r} twice")
                if member.isreg():
                    found[name] = (member.offset_data, member.size)
        with open(path, "rb") as file:
            file.seek(end)
            is_whole = file.read(_BLOCK) == bytes(_BLOCK)
    except (OSError, tarfile.TarError) as error:
        raise ReedError(f"cannot read the tar {path} (a compressed one?): {error}") from error
    if not is_whole:
        raise ReedError(f"the tar {path} breaks off after {end} bytes; fetch it again")
    return found
