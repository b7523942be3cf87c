"""The files in which other trainers cache latents: one class per layout::

    lightningdit   ROOT/latents_rank00_shard000.safetensors: latents, latents_flip [N, C, h, w], labels
    mar            ROOT/n01440764/n01440764_10026.JPEG.npz: moments, moments_flip [2C, h, w]
    repa-h5        ROOT/images.h5, ROOT/vae-sd.h5: the files of REPA's folders as data sets, by path
    webdataset     ROOT/*.tar: KEY.vae_embeddings_mean_256.npy, KEY.vae_embeddings_std_256.npy,
                   KEY.dino_features.npy, KEY.json with class_idx
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reed.build.shard import BadSample
from reed.errors import ReedError, suggest
from reed.sources.image.crop import decode
from reed.sources.image.latents import key_of

LAYOUTS = ("lightningdit", "mar", "repa-h5", "webdataset")
_LOG_VARIANCE = (-30.0, 20.0)  # MAR's autoencoder clamps it to this before it draws


class Layout(Protocol):
    """The files of a folder.

    Attributes:
        name: Name of the layout.
        views: 2 if there are mirrored latents, else 1.
    """

    name: str
    views: int

    @property
    def entries(self) -> tuple[str, ...]:
        """Return what a sample has."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes by number; none where the files name none."""
        ...

    def stamps(self) -> dict[str, str]:
        """Return every key with a stamp of its content."""
        ...

    def read(self, key: str, view: int) -> dict[str, Any]:
        """Return the entries of one sample; BadSample if one is missing or damaged."""
        ...


class Safetensors:
    """Files with the latents of many samples; a key is FILE/ROW, a stamp the size of the file."""

    name, views = "lightningdit", 2
    entries = ("latent", "label")
    classes = ()
    _NAMES = ("latents", "latents_flip", "labels")

    def __init__(self, root: Path, _latents: str, _classes: tuple[str, ...]) -> None:
        self._root = root

    def stamps(self) -> dict[str, str]:
        stamps = {}
        for path in sorted(self._root.glob("*.safetensors")):
            counts = {name: self._slice(path, name).get_shape()[0] for name in self._NAMES}
            if len(set(counts.values())) > 1:
                told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
                raise ReedError(f"{path} has {told}; write it again")
            size = path.stat().st_size
            stamps |= {f"{path.stem}/{row:06d}": str(size) for row in range(counts["latents"])}
        return stamps

    def read(self, key: str, view: int) -> dict[str, Any]:
        file, row = key.rsplit("/", 1)
        path, at = self._root / f"{file}.safetensors", int(row)
        latents = self._slice(path, "latents_flip" if view else "latents")[at : at + 1]
        label = self._slice(path, "labels")[at : at + 1]
        return {"latent": _sound("latent", latents[0].float().numpy()), "label": int(label[0])}

    def _slice(self, path: Path, name: str) -> Any:
        from safetensors import SafetensorError

        try:
            return _safetensors(path, path.stat().st_mtime_ns).get_slice(name)
        except (SafetensorError, OSError) as error:
            what = f"{path}, in which {', '.join(self._NAMES)} are wanted"
            raise ReedError(f"cannot read {what}: {error}") from error


@lru_cache(maxsize=64)  # per process
def _safetensors(path: Path, _changed: int) -> Any:
    from safetensors import safe_open

    return safe_open(path, framework="pt")


class Moments:
    """A file per image, in a folder per class; a key is the path of the image, as of `images`.

    They hold the mean and the logarithm of the variance; read, the latter is a deviation.
    """

    name, views = "mar", 2
    entries = ("moments", "label")

    def __init__(self, root: Path, _latents: str, classes: tuple[str, ...]) -> None:
        self._root, self._frozen = root, classes

    @cached_property
    def classes(self) -> tuple[str, ...]:
        names = sorted(path.name for path in self._root.iterdir() if path.is_dir())
        return (*self._frozen, *(name for name in names if name not in self._frozen))

    def stamps(self) -> dict[str, str]:
        paths = sorted(self._root.glob("*/**/*.npz"))
        return {self._key(path): str(path.stat().st_size) for path in paths}

    def read(self, key: str, view: int) -> dict[str, Any]:
        path, entry = self._root / f"{key}.npz", "moments_flip" if view else "moments"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                mean, log_variance = np.split(arrays[entry].astype(np.float32), 2)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BadSample(f"no sound {entry} in {path.name}: {error}") from error
        deviation = np.exp(0.5 * np.clip(log_variance, *_LOG_VARIANCE))
        moments = _sound("moments", np.concatenate([mean, deviation]))
        return {"moments": moments, "label": self.classes.index(key.split("/")[0])}

    def _key(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix().removesuffix(".npz")


class H5:
    """REPA's folders in HDF5: a data set per file, and dataset.json as text; keys as there."""

    name, views = "repa-h5", 1
    classes = ()

    def __init__(self, root: Path, latents: str, _classes: tuple[str, ...]) -> None:
        names = sorted(p.stem for p in root.glob("*.h5") if p.stem != "images")
        if (latents and latents not in names) or (not latents and len(names) != 1):
            wanted = latents or "exactly one"
            raise ReedError(
                f"{root}: {wanted!r} file of latents is wanted.{suggest(latents, names)}"
            )
        self._latents = root / f"{latents or names[0]}.h5"
        self._images = root / "images.h5" if (root / "images.h5").is_file() else None

    @property
    def entries(self) -> tuple[str, ...]:
        image, label = ("image",) if self._images else (), ("label",) if self._labels else ()
        return (*image, "moments", *label)

    @cached_property
    def _names(self) -> dict[str, str]:
        """The data set of every key."""
        names: list[str] = []
        _h5(self._latents).visit(names.append)
        return {key_of(name): name for name in names if name.endswith(".npy")}

    @cached_property
    def _labels(self) -> dict[str, int]:
        file = _h5(self._latents)
        if "dataset.json" not in file:
            return {}
        table = json.loads(file["dataset.json"][()])["labels"] or []
        return {key_of(name.replace("\\", "/")): int(label) for name, label in table}

    def stamps(self) -> dict[str, str]:
        return {key: f"{self._labels.get(key)}" for key in sorted(self._names)}

    def read(self, key: str, view: int) -> dict[str, Any]:
        moments = _h5(self._latents)[self._names[key]][()].astype(np.float32)
        sample: dict[str, Any] = {"moments": _sound("moments", _single(moments))}
        if self._labels:
            if key not in self._labels:
                raise BadSample("dataset.json has no label for it")
            sample["label"] = self._labels[key]
        if self._images is not None:
            name = f"{key}.png"
            if name not in (images := _h5(self._images)):
                raise BadSample(f"{self._images.name} has no {name}")
            sample["image"] = np.array(decode(bytes(images[name][()])))
        return sample


@lru_cache(maxsize=8)  # per process
def _h5(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ReedError(f"cannot read {path} as HDF5: {error}") from error


class Tars:
    """Tars of webdataset with latents and features, as DINO Forcing reads them."""

    name, views = "webdataset", 1
    classes = ()
    _MEAN, _STD, _FEATURES = "vae_embeddings_mean_", "vae_embeddings_std_", "dino_features.npy"

    def __init__(self, root: Path, latents: str, _classes: tuple[str, ...]) -> None:
        self._tars = sorted(root.glob("*.tar"))
        self._size = latents

    @cached_property
    def _members(self) -> dict[str, dict[str, tuple[Path, int, int]]]:
        """Where each member of a sample is: key -> ending -> its tar, its offset and its bytes."""
        members: dict[str, dict[str, tuple[Path, int, int]]] = {}
        for path in self._tars:
            try:
                with tarfile.open(path, "r:") as tar:
                    for member in filter(tarfile.TarInfo.isfile, tar):
                        folder, slash, last = member.name.removeprefix("./").rpartition("/")
                        first, _, ending = last.partition(".")
                        place = (path, member.offset_data, member.size)
                        members.setdefault(folder + slash + first, {})[ending] = place
            except (OSError, tarfile.TarError) as error:
                raise ReedError(f"cannot read the tar {path}: {error}") from error
        return members

    @cached_property
    def _ending(self) -> str:
        """The size of the images, as the names of the latents end."""
        sizes = {e.removeprefix(self._MEAN) for ms in self._members.values() for e in ms}
        sizes = {e.removesuffix(".npy") for e in sizes if e[:1].isdigit()}
        if (self._size and self._size not in sizes) or (not self._size and len(sizes) != 1):
            problem = f"{self._tars[0].parent} has latents of the sizes"
            named = ", ".join(sorted(sizes)) or "none"
            raise ReedError(f"{problem} {named}; choose one with --set source.latents=SIZE")
        return f"{self._size or sizes.pop()}.npy"

    @property
    def entries(self) -> tuple[str, ...]:
        first = next(iter(self._members.values()), {})
        return ("moments", "label", *(["features"] if self._FEATURES in first else []))

    def stamps(self) -> dict[str, str]:
        mean = self._MEAN + self._ending
        sizes = {key: sum(p[2] for p in ms.values()) for key, ms in self._members.items()}
        return {key: str(sizes[key]) for key, ms in sorted(self._members.items()) if mean in ms}

    def read(self, key: str, view: int) -> dict[str, Any]:
        mean, std = (self._array(key, name + self._ending) for name in (self._MEAN, self._STD))
        moments = np.concatenate([_single(mean), _single(std)])
        about = json.loads(self._bytes(key, "json"))
        if not isinstance(about, dict) or not isinstance(about.get("class_idx"), int):
            raise BadSample("its .json has no integer class_idx")
        sample = {"moments": _sound("moments", moments), "label": about["class_idx"]}
        if "features" in self.entries:
            features = self._array(key, self._FEATURES)
            sample["features"] = _sound("features", features[0] if features.ndim == 3 else features)
        return sample

    def _array(self, key: str, ending: str) -> np.ndarray:
        try:
            data = np.load(io.BytesIO(self._bytes(key, ending)), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise BadSample(f"its {ending} is no array: {error}") from error
        return data.astype(np.float32)

    def _bytes(self, key: str, ending: str) -> bytes:
        if ending not in self._members[key]:
            raise BadSample(f"it has no {ending}")
        path, offset, size = self._members[key][ending]
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)


def _single(array: np.ndarray) -> np.ndarray:
    """Return a latent without the axis of a batch of one."""
    return array[0] if array.ndim == 4 and len(array) == 1 else array


def _sound(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array, which must be finite and of the dimensions of its entry."""
    if array.ndim != (2 if name == "features" else 3):
        raise BadSample(f"its {name} are of shape {list(array.shape)}")
    if not np.isfinite(array).all():
        raise BadSample(f"its {name} are not finite")
    if name == "moments" and (array[len(array) // 2 :] < 0).any():
        raise BadSample("its standard deviation is negative")
    return np.ascontiguousarray(array)
