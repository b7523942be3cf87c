"""The layout `webdataset` of cached latents: tars, with the files of a sample side by side.

A sample has ``KEY.vae_embeddings_mean_256.npy``, ``KEY.vae_embeddings_std_256.npy``,
``KEY.dino_features.npy``, and ``KEY.json`` with ``class_idx``.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.errors import ReedError
from reed.sources.image import cached_values as values
from reed.sources.image import tar_index
from reed.sources.image.layouts import ABOVE, Passed, is_above, is_debris, plain


class Tars:
    """Tars of webdataset with latents and features, as DINO Forcing reads them."""

    name, views = "webdataset", 1
    classes = ()
    _MEAN, _STD, _FEATURES = "vae_embeddings_mean_", "vae_embeddings_std_", "dino_features.npy"

    def __init__(self, root: Path, latents: str, _classes: tuple[str, ...]) -> None:
        self._tars = sorted(root.glob("*.tar"))
        self._size = latents
        self.passed: Passed = {}

    @cached_property
    def _members(self) -> dict[str, dict[str, tuple[Path, int, int]]]:
        """Where each member of a sample is: key -> ending -> its tar, its offset and its bytes."""
        members: dict[str, dict[str, tuple[Path, int, int]]] = {}
        self.passed = {}
        for path in self._tars:
            for name, offset, size in self._files(path):
                key = tar_index.base(name)
                endings = members.setdefault(key, {})
                other = endings.setdefault(name[len(key) + 1 :], (path, offset, size))
                if other != (path, offset, size):
                    where = f"{path} and {other[0]}" if other[0] != path else f"{path} twice"
                    raise ReedError(
                        f"{name} is in {where}; a key is the name of one sample, so rename one, or "
                        "make a cache of each tar"
                    )
        return members

    def _files(self, path: Path) -> Iterator[tuple[str, int, int]]:
        """Yield name, offset and bytes of the plain files of a tar."""
        try:
            with open(path, "rb") as file:
                for member in tar_index.members(path, file):
                    name = plain(member.name)
                    if member.isdir():
                        continue
                    if reason := _reason(name, member):
                        self.passed.setdefault(reason, []).append(f"{path.name}/{name}")
                    else:
                        yield name, member.offset_data, member.size
        except (OSError, tarfile.TarError) as error:
            raise ReedError(f"cannot read the tar {path} (a compressed one?): {error}") from error

    @cached_property
    def _ending(self) -> str:
        """The size of the images, as the names of the latents end."""
        sizes = {e.removeprefix(self._MEAN) for ms in self._members.values() for e in ms}
        sizes = {e.removesuffix(".npy") for e in sizes if e[:1].isdigit()}
        if (self._size and self._size not in sizes) or (not self._size and len(sizes) != 1):
            problem = f"{self._tars[0].parent} has latents of the sizes"
            named = ", ".join(sorted(sizes)) or "none"
            raise ReedError(f"{problem} {named}; choose one with --entry SIZE")
        return f"{self._size or sizes.pop()}.npy"

    @property
    def entries(self) -> tuple[str, ...]:
        has_features = any(self._FEATURES in endings for endings in self._members.values())
        return ("moments", "label", *(["features"] if has_features else []))

    def stamps(self) -> dict[str, str]:
        self.__dict__.pop("_members", None)
        _, stamps = self._ending, {}
        for key, endings in sorted(self._members.items()):
            # A sample that lacks one of its files fails; what has none of them is no sample.
            if any(e.startswith((self._MEAN, self._STD, self._FEATURES)) for e in endings):
                stamps[key] = str(sum(size for _, _, size in endings.values()))
            else:
                self.passed.setdefault("without latents", []).extend(f"{key}.{e}" for e in endings)
        return stamps

    def read(self, key: str, view: int) -> dict[str, Any]:
        mean, std = (self._array(key, name + self._ending) for name in (self._MEAN, self._STD))
        moments = values.moments(values.single(mean), values.single(std))
        about = values.table(".json", self._bytes(key, "json"))
        if not isinstance(about.get("class_idx"), int):
            raise BadSample("its .json has no integer class_idx")
        sample = {"moments": moments, "label": values.label(about["class_idx"])}
        if "features" in self.entries:
            features = self._array(key, self._FEATURES)
            is_batch = features.ndim == 3 and len(features) == 1
            sample["features"] = values.sound("features", features[0] if is_batch else features)
        return sample

    def _array(self, key: str, ending: str) -> np.ndarray:
        content = io.BytesIO(self._bytes(key, ending))
        try:
            data = np.lib.format.read_array(content, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise BadSample(f"its {ending} is no array: {error}") from error
        return values.numbers(ending, data)

    def _bytes(self, key: str, ending: str) -> bytes:
        if ending not in self._members[key]:
            raise BadSample(f"it has no {ending}")
        path, offset, size = self._members[key][ending]
        with open(path, "rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise BadSample(f"{path.name} has become shorter since it was listed")
        return content


def _reason(name: str, member: tarfile.TarInfo) -> str:
    """Return why a member is passed over; empty for one that is not."""
    if is_above(name):
        return ABOVE
    if any(map(is_debris, name.split("/"))):
        return "hidden"
    return "" if member.isreg() and not member.issparse() else "no plain file"
